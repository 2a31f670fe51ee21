# SPDX-License-Identifier: Apache-2.0
"""Refusals of what came over the wire, and JSON read so strictly that it can be refused."""

from __future__ import annotations

import json
import re
from enum import StrEnum
from typing import Any, NoReturn

from muster.errors import MusterError

__all__ = [
    "RefusalReason",
    "Refused",
    "malformed",
    "parse",
    "shown",
]

BRACKETS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[\]{}]', re.DOTALL)


class RefusalReason(StrEnum):
    """A reason for a refusal; the sender is always told one of these, and each is counted."""

    LATE = "late"  # after the lease or the deadline
    DUPLICATE = "duplicate"  # another update of the same client and round is held
    STALE = "stale"  # for a round that is over
    FOREIGN = "foreign"  # by a client that was not invited, or for a round that has not begun
    MALFORMED = "malformed"  # not what the format or the plan's layout says
    TOO_LARGE = "too large"
    NOT_FINITE = "not finite"  # NaN or infinity
    REVOKED = "revoked"  # the certificate was taken back
    UNKNOWN_RUN = "unknown run"
    WRONG_FINGERPRINT = "wrong fingerprint"  # the plans differ
    WRONG_VERSION = "wrong version"  # no version of the protocol or format in common
    WRONG_DIGEST = "wrong digest"  # damaged on the way: send it again
    NO_ROOM = "no room"  # the disk is full: try again later
    TOO_OFTEN = "too often"  # more requests than this identity may make: slow down
    CLOSED = "closed"  # the round or the run takes nothing more: it is paused or has ended
    LEFT_OUT = "left out"  # failed in too many rounds on end: mend it, say hello again
    UNKNOWN = "unknown"  # no such resource, or none of this client's
    UNENROLLED = "unenrolled"  # say hello first


class Refused(MusterError):
    """Something that came over the wire was refused: `reason` for programs, `text` for people."""

    def __init__(self, reason: RefusalReason, text: str) -> None:
        self.reason, self.text = reason, text
        super().__init__(reason, text)

    def __str__(self) -> str:
        return f"{self.reason}: {self.text}"


def parse(data: bytes, limit: int, depth: int) -> Any:
    """Parse strict JSON: UTF-8, names once, finite numbers, so long and so deep at the most."""
    if len(data) > limit:
        raise Refused(
            RefusalReason.TOO_LARGE, f"{len(data)} bytes of JSON; at most {limit} are read"
        )
    level = 0
    for found in BRACKETS.finditer(data):
        level += {b"[": 1, b"{": 1, b"]": -1, b"}": -1}.get(found[0], 0)
        if level > depth:
            raise Refused(RefusalReason.MALFORMED, f"JSON nested deeper than {depth}; flatten it")
    try:
        text = str(data, "utf-8")
        return json.loads(text, object_pairs_hook=_once, parse_constant=_constant)
    except (ValueError, RecursionError) as error:
        said = str(error)[:200].encode("ascii", "replace").decode()
        raise Refused(RefusalReason.MALFORMED, f"not JSON: {said}") from None


def malformed(name: str, value: Any, required: str) -> NoReturn:
    """Refuse a value: what was given, and what is required."""
    raise Refused(RefusalReason.MALFORMED, f"{name} is {shown(value)}; give {required}")


def shown(value: Any) -> str:
    """Return a value as an error may quote it: short and printable."""
    if isinstance(value, str | bytes):
        return ascii(value[:60])
    if isinstance(value, int | float | None) and -1e18 < (value or 0) < 1e18:
        return repr(value)
    return f"a value of type {type(value).__name__}"


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, value in pairs:
        if name in made:
            raise Refused(
                RefusalReason.MALFORMED, f"the name {shown(name)} stands twice; give it once"
            )
        made[name] = value
    return made


def _constant(name: str) -> NoReturn:
    raise Refused(RefusalReason.NOT_FINITE, f"{name} in JSON; give a finite number")
