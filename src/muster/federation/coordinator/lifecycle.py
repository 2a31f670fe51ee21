# SPDX-License-Identifier: Apache-2.0
"""The life of a round over a network, as pure functions of what is known at one moment.

    waiting → selected → training → collecting → committing → committed | abandoned

A round is open until every invited client is decided, until enough have replied, or until its
deadline; a client is decided by its reply, its refusal, its failure, or the end of its lease.
There is one liveness rule: a lease is renewed by progress, and by nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from muster.store.records import Assignment
from muster.types import ClientId, Declined, Failed, Late

__all__ = ["Call", "ORDER", "closes", "late", "missing", "next_event", "out", "phase"]

ORDER = ("waiting", "selected", "training", "collecting", "committing", "committed")


@dataclass(frozen=True)
class Call:
    """A call to the invited: how many arrivals suffice, and until when (monotonic time).

    `passed` tells that this time has come.
    """

    goal: int
    until: float = math.inf
    passed: str = "the deadline has passed"


def closes(call: Call, seats: Iterable[Assignment], now: float) -> str | None:
    """Say why what is open takes nothing more, or None while it does.

    >>> closes(Call(2), [Assignment("a", "arrived"), Assignment("b")], 0.0)
    >>> closes(Call(1), [Assignment("a", "arrived"), Assignment("b")], 0.0)
    'enough have replied'
    """
    standing = [seat.standing for seat in seats]
    if "invited" not in standing:
        return "everybody has answered"
    if standing.count("arrived") >= call.goal:
        return "enough have replied"
    if now >= call.until:
        return call.passed
    return None


def late(
    seats: Mapping[ClientId, Assignment], leases: Mapping[ClientId, float], now: float
) -> list[Assignment]:
    """Return the seats whose lease has ended, as they are decided.

    >>> [seat.reason for seat in late({"a": Assignment("a")}, {"a": 1.0}, 2.0)]
    ['lease']
    """
    return [
        Assignment(client, "late", "lease", "no progress until the end of its lease")
        for client, seat in seats.items()
        if seat.standing == "invited" and leases.get(client, math.inf) <= now
    ]


def missing(seat: Assignment) -> Declined | Failed | Late:
    """Return the engine's answer of a client that gave no update.

    >>> missing(Assignment("a", "declined", "declined", "not at night"))
    Declined(client='a', reason='not at night')
    """
    if seat.standing == "declined":
        return Declined(seat.client, seat.text or "it gave no reason")
    if seat.standing == "failed":
        return Failed(seat.client, seat.reason, seat.text)
    return Late(seat.client, seat.text)


def out(seat: Assignment, cause: str) -> Assignment:
    """Return the seat of a client that was asked and is not waited for any longer.

    >>> out(Assignment("a"), "the deadline has passed").reason
    'closed'
    """
    return Assignment(seat.client, "late", "closed", f"{cause} before its update was here")


def next_event(
    call: Call, seats: Mapping[ClientId, Assignment], leases: Mapping[ClientId, float]
) -> float:
    """Return the time at which a clock alone may change something.

    >>> next_event(Call(1, 9.0), {"a": Assignment("a")}, {"a": 5.0})
    5.0
    """
    waiting = (leases.get(c, math.inf) for c, s in seats.items() if s.standing == "invited")
    return min(call.until, *waiting, math.inf)


def phase(seats: Iterable[Assignment], taken: bool) -> str:
    """Return the phase of an open round; `taken` when a client has fetched its task.

    >>> phase([Assignment("a", "arrived"), Assignment("b")], True)
    'collecting'
    """
    if any(seat.standing == "arrived" for seat in seats):
        return "collecting"
    return "training" if taken else "selected"
