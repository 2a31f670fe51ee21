# SPDX-License-Identifier: Apache-2.0
"""One masked round as requests see it: who takes part, and what each was told last."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from muster.types import ClientId

__all__ = ["SecAggProgress"]


@dataclass
class SecAggProgress:
    """The engine's progress in its secure sum, as shown by `RoundState.join` and `tell`.

    `clients` are the invited by name, `limit` the octets of the longest message, `near` the
    members of each one's group, `certificates` (PEM) those by which all know each other in it,
    empty until they are written down; `told` is the latest that each was told, with a number that
    grows, `over` who was told that it ended; `last` the number of the newest event that this
    process wrote down; `at` is called at the labels of `round.secure`.
    """

    round: int
    clients: Mapping[str, ClientId]
    limit: int
    at: Callable[[str], None]
    near: Mapping[str, tuple[str, ...]]
    certificates: Mapping[str, str] = field(default_factory=dict)
    told: dict[ClientId, tuple[int, bytes]] = field(default_factory=dict)
    over: set[ClientId] = field(default_factory=set)
    last: int = 0
