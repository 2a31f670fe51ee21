# SPDX-License-Identifier: Apache-2.0
"""The status for an operator: the run, its round, who is here, who sits where, refusals."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from muster.federation.coordinator.round_state import RoundState

__all__ = ["lacking", "status"]

NAMED = 10  # members that a sentence names


def status(round_state: RoundState) -> dict[str, Any]:
    """Return the state of a run's rounds at one moment, as plain data."""
    here = {member.client for member in round_state.present()}
    with round_state.changed:
        opened = round_state.opened
        return {
            "run": round_state.facts.run,
            "wanted": round_state.wanted,
            "phase": round_state.phase,
            "committed": round_state.committed,
            "round": opened.round if opened else None,
            "asked": opened.kind if opened else None,
            "lease": round_state.facts.lease,
            "members": [
                asdict(replace(member, certificate="")) | {"present": member.client in here}
                for member in round_state.members.values()
            ],
            "seats": [asdict(seat) for seat in round_state.seats.values()],
            "refusals": dict(round_state.refusals),
        }


def lacking(round_state: RoundState, enough: int) -> dict[str, Any]:
    """Say why no round begins: how many are here of how many needed, and where others are."""
    with round_state.changed:
        here = {member.client for member in round_state.present()}
        heard = {member.client for member in round_state.here()}
        states: dict[str, list[str]] = {"left out": [], "failing or resting": [], "away": []}
        for member in round_state.members.values():
            if member.client in round_state.excluded:
                states["left out"].append(member.name)
            elif member.client not in here:
                kind = "failing or resting" if member.client in heard else "away"
                states[kind].append(member.name)
        unknown = enough - len(round_state.members)
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
