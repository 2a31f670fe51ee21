# SPDX-License-Identifier: Apache-2.0
"""A run goes back to a version that it keeps, and says so for ever.

What was committed after it is superseded: its models go, its records stay, with the number of the
rollback. Rounds that follow are played anew, in a federation under a higher attempt: a site trains
an assignment once, for ever, and rounds that are played again are other assignments. What noise has
revealed stays charged: a round that is played again is another release (`charged_as`).

A federation whose folder was put back to an older copy has gone back without saying so. It says so
by a rollback to the round that it stands after, with the last round that was `lost` by it, and how
many rounds were `played` since the copy, where it had gone back in between: each counts as often as
it was played, as each time was a release, and the attempts that sites may have seen are left out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from muster.errors import RunError
from muster.runs.folder import publish
from muster.store.facts import FactStore
from muster.store.sqlite import not_kept

__all__ = ["FACT", "charged_as", "lost_rounds", "refuse_return", "roll_back"]

FACT = "rollbacks"  # of a run: what it went back to, from where, when, by whom and why, in order
LONGEST = 500  # characters of a reason
MOST_LOST = 10_000  # rounds, each of which is charged


def refuse_return(
    store: FactStore,
    round: int,
    reason: str = "",
    lost: int | None = None,
    played: int | None = None,
) -> dict[str, Any]:
    """Return the facts of a run that may go back to this round.

    Raises `RunError` for one that may not.
    """
    kept, facts = store.versions(), store.facts()
    if not kept:
        raise RunError(f"the run in {store.path} has no committed round to go back to; resume it")
    if lost is not None:
        _refuse_lost(store, facts, round, kept[-1], lost)
    if played is not None:
        _refuse_played(round, lost, played)
    if lost is None and round == kept[-1]:
        raise RunError(
            f"the run in {store.path} stands after round {round} already; name another, or say "
            f"which rounds were lost (--lost LAST) if the folder was put back to an older copy"
        )
    if round not in kept:
        raise RunError(not_kept(f"the run in {store.path}", round, kept))
    if facts.get("remembers"):
        raise RunError(
            f"the run in {store.path} cannot go back: what its sites remember, or the secure sums "
            f"that they took part in, are of later rounds, and they take part in none again; begin "
            f"a new run"
        )
    if len(reason) > LONGEST:
        raise RunError(f"a reason of {len(reason)} characters is too long; give {LONGEST} at most")
    return facts


def roll_back(
    store: FactStore,
    round: int,
    *,
    by: str,
    reason: str = "",
    lost: int | None = None,
    played: int | None = None,
    note: Callable[..., Any] | None = None,
    clock: Callable[[], float] = time.time,
) -> dict[str, Any]:
    """Go back to a version that is kept; what was done, as it is recorded.

    `by` is who asked for it, `reason` why; `lost` is the last round that was played of those which
    this folder, put back to an older copy, does not know: all up to it are charged. `played` is
    how many were played after the copy, each as often as it was; None takes each for played once.
    `note(actor, action, **details)` writes the audit log, and has written when it returns: the log
    knows of it before the run does, and a death in between leaves the run as it was. Raises
    `RunError` for a version that is not kept, or rounds that cannot have been lost.
    """
    facts = refuse_return(store, round, reason, lost, played)
    before, last = list(facts.get(FACT) or ()), store.versions()[-1]
    found: dict[str, Any] = {
        "number": len(before) + 1,
        "to": round,
        "from": last,
        "by": by,
        "reason": reason,
        "at": datetime.fromtimestamp(clock(), UTC).isoformat(timespec="seconds"),
    }
    if lost is not None:
        found["lost"] = lost
    if played is not None:
        found["played"] = played
    more: dict[str, Any] = {}
    if facts.get("federation"):
        raised = [*(facts.get("raised") or ()), *[round] * (1 + _repeated(found))]
        found["attempt"], more["raised"] = 1 + len(raised), raised
    if note is not None:
        note("operator", "rolled back", **{name: value for name, value in found.items() if value})
    with suppress(FileNotFoundError):  # written again by whoever goes on; none is better than one
        (store.path / "model.safetensors").unlink()  # that is superseded
    ended = {"stopped": None, "spent": False, "halted": False, "secret": None}
    store.go_back(round, len(before) + 1, **{FACT: [*before, found]}, **ended, **more)
    with suppress(RunError):  # it is done, and whoever goes on writes the lines again
        publish(store.path, store.history())
    return found


def _refuse_lost(
    store: FactStore, facts: Mapping[str, Any], round: int, last: int, lost: int
) -> None:
    if not facts.get("federation"):
        raise RunError(
            f"the run in {store.path} is a simulation, which plays lost rounds again as they were; "
            f"leave --lost out and resume it"
        )
    if round != last:
        raise RunError(
            f"the run in {store.path} stands after round {last}, so that rounds after {last} are "
            f"lost; give {last} in place of {round}"
        )
    if not last < lost <= last + MOST_LOST:
        raise RunError(
            f"--lost {lost}: the run in {store.path} stands after round {last}; give the last "
            f"round that was played, from {last + 1} to {last + MOST_LOST}"
        )


def _refuse_played(round: int, lost: int | None, played: int) -> None:
    if lost is None:
        raise RunError(
            f"--played {played} says how often rounds were played that an older copy has lost; "
            f"give their last with --lost LAST, or leave it out"
        )
    if not lost - round <= played <= MOST_LOST:
        raise RunError(
            f"--played {played}: rounds {round + 1} to {lost} were played at least once each; give "
            f"how many rounds were played after round {round} of the copy, from {lost - round} to "
            f"{MOST_LOST}"
        )


def _repeated(one: Mapping[str, Any]) -> int:
    """Count the plays of a rollback's lost rounds beyond the first of each."""
    once = int(one.get("lost", one["to"])) - int(one["to"])
    return int(one.get("played", once)) - once


def lost_rounds(run: str, rollbacks: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, int], ...]:
    """Return the rounds that no record is left of, each with the name that a ledger has it under.

    >>> lost_rounds("r", [{"to": 4, "lost": 6}, {"to": 5, "lost": 6}])
    (('r', 5), ('r', 6), ('r/2', 6))

    A round that was played again and lost is nobody knows which, so each has a part of its own: a
    client may have been in all of them.

    >>> lost_rounds("r", [{"to": 4, "lost": 5, "played": 3}])
    (('r', 5), ('r/1~1', 5), ('r/1~2', 5))
    """
    return tuple(
        place
        for number, one in enumerate(rollbacks, 1)
        for place in (
            *(
                (charged_as(run, rollbacks, round, before=number), round)
                for round in range(one["to"] + 1, one.get("lost", one["to"]) + 1)
            ),
            *((f"{run}/{number}~{time}", one["lost"]) for time in range(1, 1 + _repeated(one))),
        )
    )


def charged_as(
    run: str, rollbacks: Sequence[Mapping[str, Any]], round: int, before: int | None = None
) -> str:
    """Return the name under which a ledger of privacy has a round of a run.

    Rounds after a rollback are charged beside those that it superseded, never in their place.
    `before` is the number of the rollback that superseded the round; None where it stands.

    >>> back = [{"to": 4}, {"to": 2}]
    >>> charged_as("r", back, 3), charged_as("r", back, 2), charged_as("r", back, 5, before=2)
    ('r/3', 'r', 'r/2')
    """
    held = rollbacks if before is None else rollbacks[: before - 1]
    later = [number for number, one in enumerate(held, 2) if round > one["to"]]
    return f"{run}/{later[-1]}" if later else run
