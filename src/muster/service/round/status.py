# SPDX-License-Identifier: Apache-2.0
"""What an operator sees: the run, its round, who is here, who sits where, what was refused."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from muster.service.round.hall import Hall

__all__ = ["status"]


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
