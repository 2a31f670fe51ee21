# SPDX-License-Identifier: Apache-2.0
"""Parallel composition: a row lies with one client, so the client that reveals most counts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, NamedTuple

from muster.privacy.accounting import Spent, bound, most_rounds, spent
from muster.privacy.examples import charged
from muster.privacy.release import Charge
from muster.types import ClientId

__all__ = ["Held", "Worst", "affords", "worst"]


class Held(NamedTuple):
    """A client, its number of rows, and the rounds that it was charged."""

    client: ClientId
    rows: int
    turns: int


class Worst(NamedTuple):
    """The client whose rows are revealed most, one round of it, and what all its rounds spent."""

    held: Held
    once: Charge
    spent: Spent


def worst(local: Any, held: Iterable[Held], delta: float) -> Worst | None:
    """Return the worst that clients training by `local` reveal of any row; None before a round.

    Source: McSherry 2009 (SIGMOD, PINQ), theorem 4: mechanisms on disjoint rows cost what the
    costliest of them costs. The rounds of a client must not depend on any row's content.

    >>> from muster.local import Local
    >>> from muster.privacy import PerExample
    >>> local = Local(steps=10, batch=16, examples=PerExample(1.0, 4.0))
    >>> found = worst(local, [Held("a", 100, 9), Held("b", 50, 9)], 1e-5)
    >>> found.held.client, round(found.spent.epsilon, 3)
    ('b', 3.343)
    """
    most: dict[int, Held] = {}
    for one in held:
        if one.turns and (one.rows not in most or one.turns > most[one.rows].turns):
            most[one.rows] = one
    return _worst([(one, charged(local, one.rows)) for one in most.values()], delta)


def _worst(cases: list[tuple[Held, Charge]], delta: float) -> Worst | None:
    """Return the exact maximum; RDP, cheap and never below the tight value, spares most of it."""
    found: Worst | None = None
    bounds = [(bound([_all(*case)], delta), *case) for case in _outstanding(cases)]
    for limit, one, once in sorted(bounds, key=lambda case: -case[0]):
        if found is not None and limit <= found.spent.epsilon:
            break
        after = spent([_all(one, once)], delta)
        if found is None or after.epsilon > found.spent.epsilon:
            found = Worst(one, once, after)
    return found


def _all(one: Held, once: Charge) -> Charge:
    return replace(once, rounds=once.rounds * one.turns)


def _outstanding(cases: list[tuple[Held, Charge]]) -> list[tuple[Held, Charge]]:
    """Return those that none surely outspends, by no more noise, no lower rate, no fewer steps."""

    def grades(case: tuple[Held, Charge]) -> tuple[float, float, int]:
        total = _all(*case)
        return -total.release.multiplier, total.selection.amplification, total.rounds

    kept: list[tuple[float, float, int]] = []
    left = []
    for case in sorted(cases, key=grades, reverse=True):
        grade = grades(case)
        if not any(all(a >= b for a, b in zip(other, grade, strict=True)) for other in kept):
            kept.append(grade)
            left.append(case)
    return left


def affords(local: Any, sizes: Iterable[int], epsilon: float, delta: float) -> int:
    """Count the rounds in which each of these clients can train before the first spends ε at δ.

    >>> from muster.local import Local
    >>> from muster.privacy import PerExample
    >>> affords(Local(steps=10, batch=16, examples=PerExample(1.0, 4.0)), [100, 50], 4.0, 1e-5)
    12
    """
    distinct = sorted(set(sizes))

    def fits(rounds: int) -> bool:
        found = worst(local, (Held(n, n, rounds) for n in distinct), delta)
        return found is None or found.spent.epsilon <= epsilon

    return most_rounds(fits)
