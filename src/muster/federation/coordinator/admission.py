# SPDX-License-Identifier: Apache-2.0
"""Admission of an announced update, decided before a byte of its body is read.

A pure function of what was announced and of what the server knows at that moment: the clock, the
disk and the list of revoked certificates are looked at by the caller.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from muster.federation.protocol.message import UpdateHeader
from muster.security.refusal import RefusalReason, Refused

__all__ = [
    "AdmissionLimits",
    "admit",
    "arrived",
]


@dataclass(frozen=True)
class AdmissionLimits:
    """The limits on what a server takes from one client at one moment.

    Fields: the `run`, its `round` and `attempt`; whether the client is `invited` to it and its
    certificate `revoked`; `left`, the seconds of its lease; `held`, the digest of the update it has
    already sent; `limit` and `room`, the bytes an update may have and the disk has.
    """

    run: str
    round: int
    invited: bool = True
    revoked: bool = False
    left: float = math.inf
    held: str = ""
    limit: int = 1 << 40
    room: int = 1 << 62
    attempt: int = 1


def admit(update: UpdateHeader, terms: AdmissionLimits) -> bool:
    """Return whether the body is wanted; False when it is held already.

    Raises `Refused` otherwise.
    """
    asked = f"round {update.round}"
    rules = (
        (terms.revoked, RefusalReason.REVOKED, "the certificate was revoked; ask the operator"),
        (update.run != terms.run, RefusalReason.UNKNOWN_RUN, f"this server runs {terms.run}"),
        (update.attempt != terms.attempt, RefusalReason.STALE, f"it is attempt {terms.attempt}"),
        (update.round < terms.round, RefusalReason.STALE, f"{asked} is over; it is {terms.round}"),
        (update.round > terms.round, RefusalReason.FOREIGN, f"{asked} has not begun"),
        (not terms.invited, RefusalReason.FOREIGN, f"not invited to {asked}; wait for a task"),
        (terms.held == update.digest, None, ""),
        (terms.held, RefusalReason.DUPLICATE, f"another update for {asked} is held"),
        (
            terms.left < 0,
            RefusalReason.LATE,
            f"the lease for {asked} ended {-terms.left:.3f} s ago",
        ),
        (
            update.size > terms.limit,
            RefusalReason.TOO_LARGE,
            f"at most {terms.limit} bytes are taken",
        ),
        (update.size > terms.room, RefusalReason.NO_ROOM, "the disk is full; try again later"),
    )
    for holds, reason, text in rules:
        if holds and reason is None:
            return False
        if holds and reason is not None:
            raise Refused(reason, text)
    return True


def arrived(update: UpdateHeader, digest: str, size: int) -> None:
    """Compare a body with what was announced. Raises `Refused` where they differ."""
    if size != update.size:
        raise Refused(
            RefusalReason.MALFORMED, f"{size} bytes came of {update.size}; send all of them"
        )
    if digest != update.digest:
        raise Refused(RefusalReason.WRONG_DIGEST, f"{digest[:12]}… came, not {update.digest[:12]}…")
