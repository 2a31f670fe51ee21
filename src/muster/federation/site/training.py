# SPDX-License-Identifier: Apache-2.0
"""From a task to an update: the round of one client, with the bits of the loop engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any

import numpy as np

from muster import keys
from muster.data.arrays import Pair, as_pair
from muster.errors import ClientError
from muster.federation.protocol import codec_tensors, frozen
from muster.federation.protocol.message import TrainAssignment
from muster.federation.protocol.template import frozen_template, sent_template
from muster.federation.site.store import TrainingResult
from muster.keys import RandomSource
from muster.local import Carry, Descent, Given, Group, Memory, Outcome, Walk, train
from muster.mapped import forget, own
from muster.metrics.sums import HELD_OUT
from muster.plan import Plan
from muster.plan.measured import check_metrics
from muster.security.refusal import Refused
from muster.types import ClientId, Sent, Tree
from muster.vectors import tree_map

__all__ = ["Training"]


@dataclass(frozen=True)
class Training:
    """The training of one site: a plan, its rows and, if any, its test rows.

    `acting` is the plan that is trained by, where the site's policy outranks the given one.
    `source` gives the randomness of a task where nobody else may know it: the batches and noise of
    `Local(examples=...)`, noise of stages, rounding under a mask (see `site.secrets`); None, or
    one that gives None, is the plan's seed.
    """

    plan: Plan
    rows: tuple[Any, Any]
    test: tuple[Any, Any] | None = None
    acting: Any = None
    source: Callable[[TrainAssignment], RandomSource | None] | None = None

    @cached_property
    def blank(self) -> Memory | None:
        """The memory of a client that has never taken part; None where nobody remembers."""
        if not self.plan.remembers:
            return None
        return self.plan.fresh_memory(*self.plan.task.init(keys.key(self.plan.seed).at("init")))

    @property
    def veiled(self) -> bool:
        """Return whether what this site sends hides something of its rows."""
        return bool((self.acting or self.plan).veiled)

    @cached_property
    def _template(self) -> Sent:
        return sent_template(self.plan)

    @cached_property
    def _frozen_template(self) -> Tree | None:
        return frozen_template(self.plan)

    @cached_property
    def largest(self) -> int:
        """The octets of the largest body that a server may send as a model."""
        return codec_tensors.largest(self._template)

    @cached_property
    def largest_frozen(self) -> int:
        """The same of what nobody trains, which is sent once."""
        return codec_tensors.largest(self._frozen_template)

    def frozen_in(self, body: Any) -> str | None:
        """Return the digest of what nobody trains that goes with a model's body.

        None where the plan has none, and for a body that `sent` refuses.
        """
        try:
            return frozen.named_in(body, self._template)
        except Refused:
            return None

    def sent(self, body: Any, still: Any = None) -> Sent:
        """Return the model that the server sent, aligned as kernels like it. Raises `Refused`.

        `still` is the body of what nobody trains, which `frozen_in` names. The model itself is not
        copied, where it lies so in a map of its file (see `mapped`).
        """
        decoded: Sent = _decoded(body, self._template)
        if self._template.frozen is None:
            return decoded
        return decoded._replace(frozen=_decoded(still, self._frozen_template)["frozen"])

    def train(
        self,
        task: TrainAssignment,
        client: ClientId,
        body: Any,
        memory: Memory | None,
        walk: Walk,
        *,
        still: Any = None,
    ) -> TrainingResult:
        """Train the client's round.

        Raises `ClientError`, `Refused` for the body, what a walk raises.
        """
        try:
            x, y = self._mine
        except Exception as fault:
            raise ClientError(task.round, client, "data", str(fault)) from fault
        sizes = np.array([len(x)], np.int64)
        known = None if self.blank is None else (memory or self.blank,)
        group = Group((client,), (task.times,), x, y, np.zeros(1, np.int64), sizes, known)
        plan, sent = self.acting or self.plan, self.sent(body, still)

        def walked(descent: Descent, given: Given, carry: Carry, batches: Any) -> Carry:
            tree_map(forget, sent)  # it was copied to begin from, and is looked at again at the end
            return walk(descent, given, carry, batches)

        with np.errstate(all="ignore"):  # what is not finite is refused when it is reported
            source = None if self.source is None else self.source(task)
            return _made(train(plan, "loop", task.round, sent, group, walked, source))

    @cached_property
    def _mine(self) -> Pair:
        """The site's rows as arrays that this plan can be trained on; raises what is wrong."""
        pair = as_pair("the site", self.rows)
        self.plan.task.check(*pair)
        if self.plan.evaluate.clients != 0:
            check_metrics(self.plan, *pair)
        return pair

    @property
    def digest(self) -> bytes:
        """The SHA-256 of the rows that are trained on; empty where they are no rows.

        Of the rows as they are now: a file that was mapped may have changed.
        """
        try:
            rows = self._mine
        except Exception:  # what is wrong with them is said when they are trained on
            return b""
        found = sha256()
        for array in rows:
            found.update(repr((array.dtype.str, array.shape)).encode())
            found.update(array.data.cast("B") if array.size else b"")
        return found.digest()

    @cached_property
    def _judged(self) -> Pair:
        """The rows that the model is evaluated on."""
        return (
            as_pair("the site's test", self.test) if self.test else as_pair("the site", self.rows)
        )

    def measure(self, body: Any, memory: Memory | None, *, still: Any = None) -> dict[str, float]:
        """Return metric sums of the shared model and the private part, on any test rows.

        "held out" counts the rows that it did not train on.
        """
        sent, plan = self.sent(body, still), self.plan
        w, buffers = plan.whole(sent, memory or self.blank)
        with np.errstate(all="ignore"):
            sums = plan.task.evaluate(w, buffers, *self._judged, plan.measured)
            return sums | {HELD_OUT: sums["rows"] if self.test else 0.0}


def _decoded(body: Any, template: Any) -> Any:
    return tree_map(_placed, codec_tensors.decode(body, template, finite=True, writable=True))


def _placed(leaf: Any) -> Any:
    """Return an array that starts where kernels like it, and may be written to."""
    fits = leaf.ctypes.data % codec_tensors.ALIGNED == 0 and leaf.flags.writeable
    return leaf if fits else own(leaf)


def _made(outcome: Outcome) -> TrainingResult:
    """Return a group of one as its update: all of it weighted, so that the server only adds."""
    weights, buffers = outcome.weights, outcome.buffers
    update = {
        "payload": {name: rows[0] for name, rows in outcome.payload.items()},
        "buffers": (buffers * weights[:, None].astype(buffers.dtype))[0],
    }
    metrics = {name: float(values[0]) for name, values in outcome.metrics.items()}
    memory = outcome.memories and outcome.memories[0]
    return TrainingResult(update, float(weights[0]), metrics, memory, spoiled=bool(outcome.spoiled))
