# SPDX-License-Identifier: Apache-2.0
"""A plan as local training sees it: the room of plans stands on this one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from muster.algorithms.algorithm import Algorithm
from muster.keys import Keys
from muster.layout import Sharing
from muster.local.descent import Descent
from muster.local.local import Local
from muster.types import Task, Tree

__all__ = ["LocalPlan"]


class LocalPlan(Protocol):
    """The part of a plan that says how a client trains and reports, to be read."""

    @property
    def task(self) -> Task:
        """Model, loss and data."""

    @property
    def algorithm(self) -> Algorithm:
        """The hooks of the method."""

    @property
    def local(self) -> Local:
        """Local training."""

    @property
    def seed(self) -> int:
        """The seed, where draws begin."""

    @property
    def sharing(self) -> Sharing:
        """The coordinates that travel."""

    @property
    def veiled(self) -> bool:
        """True where what a client sends hides something of it."""

    @property
    def remembers(self) -> bool:
        """True where clients keep anything between rounds."""

    def descent(self, engine: str) -> Descent:
        """Return local training as a value."""

    def weights(self, sizes: Any, times: Sequence[int]) -> Any:
        """Return the weight of each client `(clients,)`."""

    def encode(
        self,
        payload: Tree,
        sent: tuple[Tree, ...],
        memory: Tree,
        key: Keys,
        weights: Any,
        *,
        own: bool = False,
    ) -> tuple[dict[str, Any], tuple[Tree, ...]]:
        """Encode the algorithm's payload rows by the pipeline."""
