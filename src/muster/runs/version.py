# SPDX-License-Identifier: Apache-2.0
"""One committed model of a run: the last, the best, or that of any round that is kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from muster import keys
from muster.errors import RunError
from muster.local import Memory
from muster.plan import Plan
from muster.store.sqlite import SQLiteStore
from muster.types import ClientId
from muster.vectors import rebuild

__all__ = ["Version"]


class Version:
    """The model of a run as it was committed in a `round`, 0 for what training started from.

    `record` is what is known of that round; `arrays` are the state by name. Made by `Run.last`,
    `Run.best` and `Run.at`.
    """

    def __init__(
        self, path: Path, plan: Plan | None, record: Mapping[str, Any], arrays: Mapping[str, Any]
    ) -> None:
        self.path, self.plan = path, plan
        self.record, self.arrays = record, arrays

    def __repr__(self) -> str:
        return f"Version({str(self.path)!r}, round={self.round}, {self.metrics})"

    @property
    def round(self) -> int:
        """The round whose commit it is."""
        return int(self.record["round"])

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics measured when it was committed, by name; empty where none were."""
        return dict(self.record.get("metrics") or {})

    @property
    def measured(self) -> str:
        """On which rows, in words; empty where it was not."""
        return str(self.record.get("measured", "")) if self.metrics else ""

    @property
    def parameters(self) -> Any:
        """The model as one flat vector `(d,)`; private parts at their initial values."""
        shared = self.arrays["algorithm.shared.x"]
        if self.plan is None or self.plan.sharing.everything:
            return shared
        frozen = self.arrays.get("frozen")
        return self.plan.sharing.merge(shared, self._private(buffers=False), frozen)

    @property
    def buffers(self) -> Any:
        """The averaged buffers `(b,)`."""
        shared = self.arrays["buffers"]
        if self.plan is None or self.plan.sharing.everything:
            return shared
        return self.plan.sharing.merge(shared, self._private(buffers=True), buffers=True)

    def model(self, client: ClientId | None = None) -> Any:
        """Return the framework's own model: the shared one, or that of a client with own tensors.

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
        memory, merge, arrays = self._memory(client), plan.sharing.merge, self.arrays
        w = merge(arrays["algorithm.shared.x"], memory.private, arrays.get("frozen"))
        return plan.task.model(w, merge(arrays["buffers"], memory.buffers, buffers=True))

    def _memory(self, client: ClientId) -> Memory:
        """Return the memory of a client when this was committed."""
        assert self.plan is not None
        store = SQLiteStore(self.path, readonly=True)
        try:
            found = store.memory([client], self.round)
        finally:
            store.close()
        if client not in found:
            raise RunError(
                f"the tensors of client {client!r} as of round {self.round} are not in "
                f"{self.path}: it never took part, or keeps them at its site; name a client of a "
                f"simulation that did"
            )
        blank = self.plan.fresh_memory(*self.plan.task.init(keys.key(self.plan.seed).at("init")))
        memory: Memory = rebuild(blank, found[client])
        return memory

    def _private(self, *, buffers: bool) -> Any:
        assert self.plan is not None
        start = self.plan.task.init(keys.key(self.plan.seed).at("init"))[int(buffers)]
        return self.plan.sharing.take(start, shared=False, buffers=buffers)
