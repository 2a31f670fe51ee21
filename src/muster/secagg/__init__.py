# SPDX-License-Identifier: Apache-2.0
"""Secure aggregation: the server learns the sum of its clients' vectors and nothing else of them.

Bonawitz et al. 2017 with the sparse graph of Bell et al. 2020, as generators without input or
output. Needs the extra `site`: pip install 'muster-fl[site]'.
"""

from muster.secagg.client import client
from muster.secagg.messages import Malformed, SecAggMessage, read
from muster.secagg.ring import Frame, IntegerRing, Span
from muster.secagg.server import server
from muster.secagg.session import (
    Aborted,
    Await,
    Closed,
    Forget,
    Heard,
    Liar,
    MessageRefused,
    Party,
    Persist,
    Saw,
    Say,
    SessionReason,
    SessionStep,
    SessionTerms,
    Sum,
    Tell,
)

__all__ = [
    "Aborted",
    "Await",
    "Closed",
    "Forget",
    "Frame",
    "Heard",
    "IntegerRing",
    "Liar",
    "Malformed",
    "MessageRefused",
    "Party",
    "Persist",
    "Saw",
    "Say",
    "SecAggMessage",
    "SessionReason",
    "SessionStep",
    "SessionTerms",
    "Span",
    "Sum",
    "Tell",
    "client",
    "read",
    "server",
]
