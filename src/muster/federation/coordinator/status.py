# SPDX-License-Identifier: Apache-2.0
"""The status for an operator: the run, its round, who is here, who sits where."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from muster.federation.coordinator.state import CoordinatorState, Volatile

__all__ = ["Told", "lacking", "status"]

Told = dict[str, Any]  # plain data
NAMED = 10  # members that a sentence names


def status(state: CoordinatorState, volatile: Volatile, now: float) -> Told:
    """Return the state of a run's rounds at one moment, as plain data."""
    here = {member.client for member in volatile.present(state, now)}
    piece = state.current
    return {
        "run": state.facts.run,
        "wanted": state.wanted,
        "committed": state.committed,
        "round": piece.opened.round if piece else None,
        "asked": piece.opened.kind if piece else None,
        "lease": state.facts.lease,
        "members": [
            asdict(replace(member, certificate="")) | {"present": member.client in here}
            for member in state.members.values()
        ],
        "seats": [asdict(seat) for seat in piece.assignments.values()] if piece else [],
    }


def lacking(state: CoordinatorState, volatile: Volatile, now: float, enough: int) -> Told:
    """Say why no round begins: how many are here of how many needed, and where others are."""
    here = {member.client for member in volatile.present(state, now)}
    heard = {member.client for member in volatile.here(state, now)}
    states: dict[str, list[str]] = {"left out": [], "failing or resting": [], "away": []}
    for member in state.members.values():
        if member.client in state.excluded:
            states["left out"].append(member.name)
        elif member.client not in here:
            kind = "failing or resting" if member.client in heard else "away"
            states[kind].append(member.name)
    unknown = enough - len(state.members)
    parts = [f"{how}: {_some(names)}" for how, names in states.items() if names]
    if unknown > 0:
        parts.append(f"never seen: {unknown}")
    text = f"no round begins: {len(here)} of the {enough} clients that it needs are here"
    return {
        "event": "waiting",
        "present": len(here),
        "enough": enough,
        "text": "; ".join((text, *parts)),
    }


def _some(names: list[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(sorted(names)[:NAMED]) + (f" and {more} more" if more > 0 else "")
