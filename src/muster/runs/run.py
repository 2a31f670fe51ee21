# SPDX-License-Identifier: Apache-2.0
"""A run: one execution of a plan, with an id and a folder that outlives every process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from muster import keys
from muster.errors import RunError
from muster.local import Memory
from muster.plan import Plan
from muster.runs.doubt import warned
from muster.runs.folder import publish, write
from muster.store.sqlite import SQLiteStore
from muster.tree_codec import pieces
from muster.types import ClientId
from muster.vectors import rebuild

__all__ = ["Run"]


class Run:
    """A run's folder, read back: history, parameters, model.

    Raises `RunError` when the folder holds no run, or a damaged one.
    """

    def __init__(self, path: str | Path, plan: Plan | None = None) -> None:
        self.path = Path(path)
        self.plan = plan
        store = SQLiteStore(self.path, readonly=True)
        try:
            self.facts, self.history, self._state = store.snapshot()
        finally:
            store.close()
        self.facts.pop("secret", None)  # of an open round: nobody's to read

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, rounds={len(self.history)}, {self.metrics})"

    @property
    def id(self) -> str:
        """The folder's name."""
        return self.path.name

    @property
    def round(self) -> int:
        """The last committed round; 0 before the first."""
        return int(self.history[-1]["round"]) if self.history else 0

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
        """What speaks against the last evaluation, or the course of training; "" where nothing."""
        return warned(self.history)

    @property
    def parameters(self) -> Any:
        """The global model as one flat vector `(d,)`; private parts at their initial values."""
        shared = self._arrays()["algorithm.shared.x"]
        if self.plan is None or self.plan.sharing.everything:
            return shared
        frozen = self._arrays().get("frozen")
        return self.plan.sharing.merge(shared, self._private(buffers=False), frozen)

    @property
    def buffers(self) -> Any:
        """The averaged buffers `(b,)`."""
        shared = self._arrays()["buffers"]
        if self.plan is None or self.plan.sharing.everything:
            return shared
        return self.plan.sharing.merge(shared, self._private(buffers=True), buffers=True)

    def model(self, client: ClientId | None = None) -> Any:
        """The framework's own model: the shared one, or that of a client with tensors of its own.

        Raises `RunError` without the plan; without a client, where the plan leaves tensors with
        the clients, so that nobody has the one model; and for a client whose tensors are not in
        this folder (in a federation they stay at the site).
        """
        if self.plan is None:
            raise RunError(f"{self!r} was opened without its plan; use Run(path, plan)")
        plan = self.plan
        if not plan.sharing.private:
            return plan.task.model(self.parameters, self.buffers)
        if client is None:
            raise RunError(
                f"Plan(share={plan.share!r}) leaves tensors with the clients, so there is no one "
                f"model; name whose you want: run.model(client)"
            )
        memory, merge, arrays = self._memory(client), plan.sharing.merge, self._arrays()
        w = merge(arrays["algorithm.shared.x"], memory.private, arrays.get("frozen"))
        return plan.task.model(w, merge(arrays["buffers"], memory.buffers, buffers=True))

    def _memory(self, client: ClientId) -> Memory:
        """What a client keeps, as of the last round."""
        assert self.plan is not None
        store = SQLiteStore(self.path, readonly=True)
        try:
            found = store.memory([client])
        finally:
            store.close()
        if client not in found:
            raise RunError(
                f"the tensors of client {client!r} are not in {self.path}: it never took part, or "
                f"keeps them at its site; name a client of a simulation that did"
            )
        blank = self.plan.fresh_memory(*self.plan.task.init(keys.key(self.plan.seed).at("init")))
        memory: Memory = rebuild(blank, found[client])
        return memory

    def _arrays(self) -> dict[str, Any]:
        if self._state is None:
            raise RunError(f"the run in {self.path} has no committed round yet; resume it")
        return self._state[1]

    def _private(self, *, buffers: bool) -> Any:
        assert self.plan is not None
        start = self.plan.task.init(keys.key(self.plan.seed).at("init"))[int(buffers)]
        return self.plan.sharing.take(start, shared=False, buffers=buffers)

    def _travels(self, kind: str) -> Any:
        """Of each coordinate of a full vector, whether it leaves the clients."""
        assert self.plan is not None
        layout, sharing, arrays = self.plan.task.layout, self.plan.sharing, self._arrays()
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
