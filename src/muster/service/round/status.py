# SPDX-License-Identifier: Apache-2.0
"""What an operator sees: the run, its round, who is here, who sits where, what was refused."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from muster.service.round.hall import Hall

__all__ = ["lacking", "status"]

NAMED = 10  # members that a sentence names


def status(hall: Hall) -> dict[str, Any]:
    """A hall at one moment, as plain data."""
    here = {member.client for member in hall.present()}
    with hall.changed:
        opened = hall.opened
        return {
            "run": hall.facts.run,
            "wanted": hall.wanted,
            "phase": hall.phase,
            "committed": hall.committed,
            "round": opened.round if opened else None,
            "asked": opened.kind if opened else None,
            "lease": hall.facts.lease,
            "members": [
                asdict(replace(member, certificate="")) | {"present": member.client in here}
                for member in hall.members.values()
            ],
            "seats": [asdict(seat) for seat in hall.seats.values()],
            "refusals": dict(hall.refusals),
        }


def lacking(hall: Hall, enough: int) -> dict[str, Any]:
    """Why no round begins: how many are here of so many that are needed, and where others are."""
    with hall.changed:
        here = {member.client for member in hall.present()}
        heard = {member.client for member in hall.here()}
        states: dict[str, list[str]] = {"left out": [], "failing or resting": [], "away": []}
        for member in hall.members.values():
            if member.client in hall.excluded:
                states["left out"].append(member.name)
            elif member.client not in here:
                kind = "failing or resting" if member.client in heard else "away"
                states[kind].append(member.name)
        unknown = enough - len(hall.members)
    parts = [f"{how}: {_some(names)}" for how, names in states.items() if names]
    if unknown > 0:
        parts.append(f"never seen: {unknown}")
    text = f"no round begins: {len(here)} of the {enough} clients that it needs are here"
    return {
        "event": "waiting", "present": len(here), "enough": enough,
        "text": "; ".join((text, *parts)),
    }  # fmt: skip


def _some(names: list[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(sorted(names)[:NAMED]) + (f" and {more} more" if more > 0 else "")
