# SPDX-License-Identifier: Apache-2.0
"""A run: one execution of a plan, with an id and a folder that outlives every process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from muster.errors import RunError
from muster.plan import Plan
from muster.plan.keep import best_of
from muster.runs.doubt import warned
from muster.runs.folder import publish, write
from muster.runs.keeping import measured
from muster.runs.participation import Participation, participation
from muster.runs.privacy.facts import RunPrivacy, privacy_of
from muster.runs.rollback import FACT
from muster.runs.version import Version
from muster.store.sqlite import SQLiteStore, not_kept
from muster.tree_codec import pieces
from muster.types import ClientId

__all__ = ["Run"]


class Run:
    """A run's folder, read back: history, parameters, model.

    `history` are the records that lead to the model, from version 0 on, what training started
    from; `superseded` those that rollbacks went back before, each with the rollback's number.
    Raises `RunError` when the folder holds no run, or a damaged one.
    """

    def __init__(self, path: str | Path, plan: Plan | None = None) -> None:
        self.path = Path(path)
        self.plan = plan
        store = SQLiteStore(self.path, readonly=True)
        try:
            self.facts, self.history, self._state = store.snapshot()
            self._kept, self.superseded = store.versions(), store.superseded()
        finally:
            store.close()
        self.facts.pop("secret", None)  # of an open round: nobody's to read

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, rounds={self.round}, {self.metrics})"

    @property
    def id(self) -> str:
        """The folder's name."""
        return self.path.name

    @property
    def round(self) -> int:
        """The last committed round; 0 before the first."""
        return int(self.history[-1]["round"]) if self.history else 0

    @property
    def rollbacks(self) -> list[dict[str, Any]]:
        """The rollbacks, in order: to where, from where, when, by whom and why."""
        return list(self.facts.get(FACT) or ())

    @property
    def trained(self) -> list[dict[str, Any]]:
        """The records of the rounds: `history` without version 0, what training started from."""
        return [record for record in self.history if record["round"] > 0]

    @property
    def metrics(self) -> dict[str, float]:
        """The values of the last evaluation, by metric; NaN for one without a value.

        Over central test rows where there are any, else over the clients' own test rows together;
        `measured` says which. Empty where there are neither: training rows tell nothing of others.
        """
        seen = [record["metrics"] for record in self.history if record.get("metrics")]
        return dict(seen[-1]) if seen else {}

    @property
    def directions(self) -> dict[str, bool]:
        """Of each metric that this run measures, whether less of it is better."""
        return dict(self.facts.get("metrics") or {})

    @property
    def measured(self) -> str:
        """On which rows `metrics` were measured, in words; empty where they were not."""
        seen = [record.get("measured", "") for record in self.history if record.get("metrics")]
        return str(seen[-1]) if seen else ""

    @property
    def warning(self) -> str:
        """A warning about the last evaluation, or the course of training; "" for none."""
        return warned(self.history)

    @property
    def last(self) -> Version:
        """The version that was committed last. Raises `RunError` where none is."""
        if self._state is None:
            raise RunError(f"the run in {self.path} has no committed round yet; resume it")
        return Version(self.path, self.plan, self.history[-1], self._state[1])

    @property
    def best(self) -> Version:
        """The best of the versions that are kept, by the metric that the plan's `keep` names.

        The earliest of equals; a NaN is no value. Raises `RunError` where `keep` names none, and
        where no version that is kept has a value of it.
        """
        keep = (self.facts.get("plan") or {}).get("keep") or {}
        name = keep.get("best")
        if name is None:
            raise RunError(
                f"the run in {self.path} was not told what its best model is; give its plan "
                f"keep=muster.Keep(best='accuracy'), or another metric, and go on with it"
            )
        top = best_of(self.rounds_kept, measured(self.history, name), lower=self.directions[name])
        if top is None:
            raise RunError(
                f"no model that the run in {self.path} keeps has a value of {name!r}: it was not "
                f"measured, or is none (NaN); give test rows, evaluate_on=(x, y)"
            )
        return self.at(top)

    def participation(self) -> Participation:
        """Count how often each client was invited, and its reply counted; with the spread.

        By the records that lead to the model: what rollbacks went back before is not in them.
        """
        known = self.facts.get("population") or {}
        return participation(self.trained, known.get("clients", ()), known.get("count", 0))

    def privacy(self) -> RunPrivacy:
        """Return what may be claimed of the run's privacy, or why nothing is."""
        return privacy_of(self)

    @property
    def rounds_kept(self) -> list[int]:
        """The versions whose models are on the disk, in order: what `at` gives."""
        return list(self._kept)

    def at(self, version: int) -> Version:
        """Return the model as it was committed in a round; 0 is what training started from.

        Raises `RunError` for one that is not kept, with those that are.
        """
        if self._state is not None and version == self._state[0]:
            return self.last
        store = SQLiteStore(self.path, readonly=True)
        try:
            arrays, kept = store.state(version), store.versions()
        finally:
            store.close()
        record = next((one for one in self.history if one["round"] == version), None)
        if arrays is None or record is None:
            raise RunError(not_kept(f"the run in {self.path}", version, kept))
        return Version(self.path, self.plan, record, arrays)

    @property
    def parameters(self) -> Any:
        """The global model as one flat vector `(d,)`; private parts at their initial values."""
        return self.last.parameters

    @property
    def buffers(self) -> Any:
        """The averaged buffers `(b,)`."""
        return self.last.buffers

    def model(self, client: ClientId | None = None) -> Any:
        """Return the framework's own model of the last round (see `Version.model`)."""
        return self.last.model(client)

    def _travels(self, kind: str) -> Any:
        """Return for each coordinate of a full vector whether it leaves the clients."""
        assert self.plan is not None
        layout, sharing, arrays = self.plan.task.layout, self.plan.sharing, self.last.arrays
        buffers = kind == "buffer"
        whole, shared = layout.size, arrays["algorithm.shared.x"]
        if buffers:
            whole, shared = layout.buffers, arrays["buffers"]
        apart = sharing.take(np.zeros(whole, bool), shared=False, buffers=buffers)
        frozen = None if buffers else arrays.get("frozen")
        still = None if frozen is None else np.ones(len(frozen), bool)
        return sharing.merge(np.ones(len(shared), bool), apart, still, buffers=buffers)

    def export(self) -> None:
        """Rewrite `history.jsonl` and `model.safetensors` from what is committed.

        The model is written by tensor name, parameters and buffers, without tensors that stay
        with the clients; only with the plan, and after a first round. Each file is replaced as a
        whole. Raises `RunError` when it cannot be.
        """
        publish(self.path, self.history)
        if self.plan is None or self._state is None:
            return
        layout, tensors = self.plan.task.layout, dict[str, Any]()
        for kind, values in (("parameter", self.parameters), ("buffer", self.buffers)):
            named = layout.named(values, kind)
            if not self.plan.sharing.everything:
                travels = layout.named(self._travels(kind), kind)
                named = {name: value for name, value in named.items() if travels[name].all()}
            tensors |= named
        facts = {"run": f"{self.id}, round {self._state[0]}"}  # one, so that bytes are the same
        write(self.path / "model.safetensors", pieces(tensors, facts))
