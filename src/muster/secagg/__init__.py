# SPDX-License-Identifier: Apache-2.0
"""Secure aggregation: the server learns the sum of its clients' vectors and nothing else of them.

Bonawitz et al. 2017 with the sparse graph of Bell et al. 2020, as generators without input or
output. Needs the extra `site`: pip install 'muster-fl[site]'.
"""

from muster.secagg.client import client
from muster.secagg.messages import Malformed, Message, read
from muster.secagg.ring import Frame, Ring, Span
from muster.secagg.server import server
from muster.secagg.session import (
    Aborted,
    Await,
    Closed,
    Forget,
    Heard,
    Keep,
    Liar,
    Party,
    Reason,
    Refused,
    Saw,
    Say,
    Step,
    Sum,
    Tell,
    Terms,
)

__all__ = [
    "Aborted",
    "Await",
    "Closed",
    "Forget",
    "Frame",
    "Heard",
    "Keep",
    "Liar",
    "Malformed",
    "Message",
    "Party",
    "Reason",
    "Refused",
    "Ring",
    "Saw",
    "Say",
    "Span",
    "Step",
    "Sum",
    "Tell",
    "Terms",
    "client",
    "read",
    "server",
]
