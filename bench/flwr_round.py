# SPDX-License-Identifier: Apache-2.0
"""One round of flwr's SecAgg+ in memory, by flwr's own functions; imports flwr.

The server is `SecAggPlusWorkflow` (flwr.server.workflow) with its four stages, the clients are
`secaggplus_mod` (flwr.client.mod); both do their own key agreement, encryption, sharing,
quantization, masking, recombination and averaging. Ours are only what stands between them: a
`Grid` that hands messages over, a strategy that takes everybody, and local training that returns
a vector made beforehand. Read in flwr 1.42.0.
"""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")  # read when flwr is imported

import flwr.compat.common.recorddict_compat as compat
import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.client.mod import secaggplus_mod
from flwr.common import (
    Code,
    FitIns,
    FitRes,
    Parameters,
    Status,
    ndarrays_to_parameters,
    parameters_to_ndarrays,
)
from flwr.server.compat.legacy_context import LegacyContext
from flwr.server.workflow import SecAggPlusWorkflow
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD, Key
from flwr.supercore.task_identity import TaskIdentity

from bench.meter import Meter
from bench.secagg_case import Case, Played

__all__ = ["VERSION", "played"]

VERSION = version("flwr")
CLIP, LEVELS = 8.0, 1 << 22  # flwr's defaults
STEP = 2 * CLIP / LEVELS  # 2^-18: an integer in steps is a float32 that flwr quantizes exactly
MASKED = "collect_masked_vectors"


class _Proxy:
    """A client as a strategy sees it."""

    def __init__(self, node_id: int) -> None:
        self.node_id = node_id


class _Everybody:
    """A strategy that takes all clients, and their mean as it is."""

    def __init__(self, count: int) -> None:
        self.count = count

    def configure_fit(self, *_: Any) -> list[tuple[_Proxy, FitIns]]:
        return [(_Proxy(i + 1), FitIns(Parameters([], ""), {})) for i in range(self.count)]

    def aggregate_fit(self, _: int, results: Any, __: Any) -> tuple[Parameters, dict[str, Any]]:
        return results[0][1].parameters, {}


class _Grid:
    """Hands each message to its client, and the time to whom it belongs."""

    def __init__(self, case: Case, meter: Meter) -> None:
        self.case, self.meter, self.sent = case, meter, 0
        self.contexts = {
            i + 1: Context(
                run_id=1, node_id=i + 1, node_config={}, state=RecordDict(), run_config={}
            )
            for i in range(case.count)
        }

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        self.meter.turn()
        replies = [reply for message in messages if (reply := self._answer(message)) is not None]
        self.meter.turn("server")
        return replies

    def _answer(self, message: Message) -> Message | None:
        node = message.metadata.dst_node_id
        # a network would copy: the clients take their settings out of the record they are given
        message = Message(copy.deepcopy(message.content), metadata=message.metadata)
        stage = message.content.config_records["secaggplus_configs"]["stage"]
        if node - 1 in self.case.lost and stage in (MASKED, "unmask"):
            return None
        self.meter.turn(str(node))
        reply = secaggplus_mod(message, self.contexts[node], self._trained)
        self.meter.turn()
        if stage == MASKED:
            vectors = reply.content.config_records["secaggplus_configs"]["masked_params"]
            self.sent = sum(map(len, vectors))
        return reply

    def _trained(self, message: Message, context: Context) -> Message:
        """Return the vector as what training gave: no part of the measurement."""
        self.meter.turn()
        vector = self.case.vector(context.node_id - 1).astype(np.float32) * np.float32(STEP)
        given = ndarrays_to_parameters([vector - np.float32(CLIP)])
        result = FitRes(Status(Code.OK, ""), given, num_examples=1, metrics={})
        reply = Message(compat.fitres_to_recorddict(result, keep_input=False), reply_to=message)
        self.meter.turn(str(context.node_id))
        return reply


def played(case: Case) -> Played:
    """Return the seconds of a round and the sum read from flwr's mean; ValueError without one."""
    logging.getLogger("flwr").setLevel(logging.ERROR)
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 0, 0
    meter = Meter()
    grid = _Grid(case, meter)
    context = LegacyContext(
        Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config={}),
        strategy=_Everybody(case.count),
    )
    context.state.config_records[MAIN_CONFIGS_RECORD] = ConfigRecord({Key.CURRENT_ROUND: 1})
    start = compat.parameters_to_arrayrecord(Parameters([], "numpy.ndarray"), keep_input=False)
    context.state.array_records[MAIN_PARAMS_RECORD] = start
    workflow = SecAggPlusWorkflow(case.degree + 1, case.threshold, max_weight=1.0)
    meter.turn("server")
    workflow(grid, context)
    meter.turn()
    record = context.state.array_records[MAIN_PARAMS_RECORD]
    found = parameters_to_ndarrays(compat.arrayrecord_to_parameters(record, keep_input=True))
    if len(found) != 1:
        raise ValueError("flwr's workflow ended without a mean; see its log")
    survivors = case.count - len(case.lost)
    steps = (found[0].astype(np.float64) + CLIP) * survivors / STEP
    total = np.rint(steps).astype(np.int64)
    if np.abs(steps - total).max() > 0.01:
        raise ValueError("flwr's mean is not a sum of whole steps over the number of survivors")
    return Played(total, dict(meter.spent), grid.sent)
