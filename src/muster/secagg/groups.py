# SPDX-License-Identifier: Apache-2.0
"""The price of a random division into groups, in secrecy: chances of sitting with colluders.

A cohort of n with c colluders is divided at random into groups that are summed apart. A client
whose group holds fewer than h honest ones, itself counted, is exposed: two quorums of its group
may fit, or its sum hides it among too few. With l losses borne in a group the threshold is s − l,
two quorums do not fit while at least 2l + 1 are honest, and l chosen drops leave the honest less
l in the sum, so h = max(2l + 1, 2 + l). All chances are exact hypergeometric tails.
"""

from __future__ import annotations

import math

from muster.errors import PlanError

__all__ = ["anybody", "borne", "exposed", "honest_needed", "largest_count", "over"]


def honest_needed(losses: int) -> int:
    """Count the honest clients that a group needs, itself counted, to bear so many losses.

    >>> [honest_needed(losses) for losses in (0, 1, 2)]
    [2, 3, 5]
    """
    return max(2 * losses + 1, 2 + losses)


def borne(losses: float, size: int) -> int:
    """Count how many of a group may be lost, of this fraction: one of a small group, not none.

    >>> [borne(0.1, size) for size in (3, 10, 11)]
    [1, 1, 2]
    """
    return math.ceil(losses * size - 1e-9)  # a tenth of thirty is three, whatever floats say


def exposed(count: int, colluders: int, groups: int, honest: int) -> float:
    """Return the chance that one honest client's group has fewer than `honest` honest clients.

    >>> f"{exposed(99, 33, 33, 2):.4f}"
    '0.1111'
    """
    others, chance = count - 1, 0.0
    for size, times in _sizes(count, groups):
        ways = sum(
            math.comb(others - colluders, x) * math.comb(colluders, size - 1 - x)
            for x in range(min(honest - 1, size))
        )
        chance += size * times / count * (ways / math.comb(others, size - 1))
    return chance


def anybody(count: int, colluders: int, groups: int, honest: int) -> float:
    """Return the chance that any honest client is exposed, by the union over groups (at most 1).

    >>> f"{anybody(30, 10, 6, 2):.4f}"
    '0.1768'
    """
    total = 0.0
    for size, times in _sizes(count, groups):
        ways = sum(
            math.comb(count - colluders, x) * math.comb(colluders, size - x)
            for x in range(1, min(honest, size + 1))
        )
        total += times * (ways / math.comb(count, size))
    return min(1.0, total)


def _sizes(count: int, groups: int) -> tuple[tuple[int, int], ...]:
    """Return the sizes of so many groups, and how many have each."""
    size, more = divmod(count, groups)
    return ((size, groups - more), (size + 1, more)) if more else ((size, groups),)


def over(chance: float, rounds: int) -> float:
    """Return the chance of at least one such round in so many fresh draws.

    >>> f"{over(0.1088, 20):.2f}"
    '0.90'
    """
    return -math.expm1(rounds * math.log1p(-chance)) if chance < 1 else 1.0


def largest_count(count: int, colluders: int, losses: float, rounds: int, chance: float) -> int:
    """Return the most groups in which a client is exposed with at most this chance over rounds.

    `losses` is the fraction of a group that may fall silent; each group bears it rounded up, and
    one colluder at least.
    """
    for groups in range(count // 2, 0, -1):
        needed = {size: honest_needed(borne(losses, size)) for size, _ in _sizes(count, groups)}
        if any(honest >= size for size, honest in needed.items()):
            continue
        once = exposed(count, colluders, groups, max(needed.values()))
        if over(once, rounds) <= chance:
            return groups
    raise PlanError(
        f"{count} clients, {colluders} of whom may work with the server, hide nobody in any "
        f"group; invite more clients, or trust more of them"
    )
