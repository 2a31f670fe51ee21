# SPDX-License-Identifier: Apache-2.0
"""The number of own clients that a server needs which invites whom it likes, and tells how many.

A site knows its plan and its own rules, not how many are drawn. So a server is free to say the size
that suits it, within what plan and rules let a site take part in. What a plan assumes of `corrupt`
then holds of that size alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

__all__ = ["Invited", "MOST", "fewest_own"]

MOST = 65_520  # clients of a session
ANY = range(3, MOST + 1)


class Invited(NamedTuple):
    """A session of so many invited clients: the fewest whose sum opens, the colluders it bears."""

    minimum: int
    colluders: int


def fewest_own(
    session: Callable[[int], Invited | None], first: int, seen: range = ANY
) -> int | None:
    """Count the fewest clients of a server's own that open another's vector; None if none would.

    `session(n)` is what a site makes of n invited clients, None where it takes no part; `first`
    the fewest that may be invited; `seen` how many clients the site's rules let it see, itself
    among them: in the roster, and in what is left. The server also says how many advertise and who
    survives. With c colluders a session of h clients opens a secret with t = floor((h + c)/2) + 1
    shares. Three ways lead to one vector: a sum in which all others are its own (the largest of the
    minimum, t and the site's least, less one), two stories about who is left, where neither is of
    fewer than the minimum and t (2t - h, see `secagg.graph`), and t of its own, who ask nobody. A
    story in which the site is missing is told to others, who may have no rules. In a ring the
    second way is what an adversary needs who is also lucky: the same number is given.

    >>> fewest_own(lambda n: Invited(3, n // 3), 3), fewest_own(lambda n: Invited(20, n // 3), 20)
    (2, 8)
    >>> fewest_own(lambda n: Invited(3, n // 3), 9, range(9, 10))
    5
    """
    best: int | None = None
    for invited in range(max(3, first), MOST + 1 if seen else 0):
        made = session(invited)
        if made is None:
            continue
        if best is not None and best <= made.colluders + 1:
            break
        counts = range(max(3, seen.start), min(invited + 1, seen.stop))
        if counts and made.colluders > counts[-1]:
            break  # no such roster is shared by enough, nor one of more invited
        ways = [own for count in counts for own in _ways(count, made, seen.start)]
        best = min([*ways, *([] if best is None else [best])], default=None)
    return best


def _ways(count: int, made: Invited, asked: int) -> list[int]:
    """Return how many own ones open a vector in a session in which so many clients' keys came.

    `asked` is how many the site's rules ask for in a sum, itself among them.
    """
    threshold = (count + made.colluders) // 2 + 1
    least = max(made.minimum, threshold)
    if least > count or threshold < made.colluders + 2:  # every client refuses it
        return []
    stories = [2 * threshold - count] if least < count else []
    return [max(least, asked) - 1, threshold, *stories]
