# SPDX-License-Identifier: Apache-2.0
"""Facts that do not change while a server runs: the run, its plan, the rules for its members."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from muster.federation.protocol.claims import Claims
from muster.federation.protocol.message import STUDY
from muster.store.facts import FactStore
from muster.types import ClientId, Tree

__all__ = ["FederationFacts", "RAISED", "raised"]

RAISED = "raised"  # a fact of a run: after which rounds its attempt was raised, in order


def raised(store: FactStore) -> tuple[int, ...]:
    """Return the rounds behind which the attempt of a run was raised, in order; none at first."""
    return tuple(store.meta(RAISED) or ())


def _nobody(name: str, certificate: str, data: bytes, signature: bytes) -> bool:
    """Return False: nobody is vouched for without an authority."""
    return False


def _unlisted() -> str:
    """Return "": nobody is revoked without an authority."""
    return ""


def _unnoted(actor: str, action: str, **details: Any) -> None:
    """Note nothing: nobody keeps a log."""


@dataclass(frozen=True)
class FederationFacts:
    """Facts that do not change while a server runs.

    `study` names the runs over the same people, of which this is one. `run`, `fingerprint` and
    `plan` say what is trained; `weigh(rows, times)` the weight a client must claim, `claims` what
    else it may say of itself, `template` and `size` the body of its update; `names` the client ids
    of members whose certificates are named otherwise. `lease` in seconds; `pace` the check-ins a
    second that are asked for once more than `polls` are kept waiting. `vouch(name, certificate,
    data, signature)` says whether a member signed, the same at every time (it is asked of a
    record); `listed()` is the newest list of who was revoked (PEM); `note(actor, action,
    **details)` writes the audit log.

    `raised` is the rounds behind which the attempt was raised, in order (see `runs.rollback`);
    `hides` says that nobody but an operator may learn who was drawn, as the noise counts on it.
    """

    run: str
    fingerprint: str
    plan: Mapping[str, Any]
    weigh: Callable[[int, int], float]
    template: Tree
    size: int
    names: Mapping[str, ClientId] = field(default_factory=dict)
    lease: float = 15.0
    pace: float = 2000.0
    polls: int = 2000
    vouch: Callable[[str, str, bytes, bytes], bool] = _nobody
    listed: Callable[[], str] = _unlisted
    note: Callable[..., Any] = _unnoted
    study: str = STUDY
    raised: tuple[int, ...] = ()
    hides: bool = False
    claims: Claims = Claims()

    @property
    def attempt(self) -> int:
        """The attempt that rounds are played in now.

        >>> facts = FederationFacts("r", "0" * 64, {}, max, None, 9, raised=(5, 3))
        >>> facts.attempt, [facts.attempt_of(round) for round in (3, 4, 5, 6)]
        (3, [1, 3, 3, 3])
        """
        return 1 + len(self.raised)

    def attempt_of(self, round: int) -> int:
        """Return the attempt in which a round was played, or will be."""
        later = (number for number, last in enumerate(self.raised, 2) if round > last)
        return max(later, default=1)
