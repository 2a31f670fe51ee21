# SPDX-License-Identifier: Apache-2.0
"""The public conformance checks: whatever plugs into muster, by us or by you, goes through them."""

from muster.testing.algorithm import check_algorithm
from muster.testing.clients import check_clients
from muster.testing.metric import check_metric
from muster.testing.rule import check_rule
from muster.testing.sampler import check_sampler
from muster.testing.stage import check_stage
from muster.testing.store import check_store
from muster.testing.task import check_task
from muster.testing.transport import TransportStand, check_transport

__all__ = [
    "TransportStand",
    "check_algorithm",
    "check_clients",
    "check_metric",
    "check_rule",
    "check_sampler",
    "check_stage",
    "check_store",
    "check_task",
    "check_transport",
]
