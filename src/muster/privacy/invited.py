# SPDX-License-Identifier: Apache-2.0
"""The number of own clients that a server needs which invites whom it likes, and tells how many.

A site knows its plan and its own rules, not how many are drawn. So a server is free to say the size
that suits it, within what plan and rules let a site take part in. What a plan assumes of `corrupt`
then holds of that size alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

__all__ = ["Invited", "fewest_own"]

MOST = 65_520  # clients of a session


class Invited(NamedTuple):
    """A session of so many invited clients: the fewest whose sum opens, the colluders it bears."""

    minimum: int
    colluders: int


def fewest_own(session: Callable[[int], Invited | None], first: int) -> int | None:
    """Count the fewest clients of a server's own that open another's vector; None if none would.

    `session(n)` is what a site makes of n invited clients, None where it takes no part; `first`
    the fewest that the site's own rules let be invited, itself among them. The server also says
    how many advertise and who survives. With c colluders a session of h clients opens a secret
    with t = floor((h + c)/2) + 1 shares. Two ways lead to one vector: a sum in which all others
    are its own (the larger of the minimum and t, less one), and two stories about who is left,
    where neither is of fewer than that (2t - h, see `secagg.graph`). In a ring the second is what
    an adversary needs who is also lucky: the same number is given.

    >>> fewest_own(lambda n: Invited(3, n // 3), 3), fewest_own(lambda n: Invited(20, n // 3), 20)
    (2, 8)
    """
    best: int | None = None
    for invited in range(max(3, first), MOST + 1):
        made = session(invited)
        if made is None:
            continue
        if best is not None and best <= made.colluders + 1:
            break
        ways = [own for count in range(3, invited + 1) for own in _ways(count, made)]
        best = min([*ways, *([] if best is None else [best])], default=None)
    return best


def _ways(count: int, made: Invited) -> list[int]:
    """Return the numbers of own clients that open a vector where so many clients' keys came."""
    threshold = (count + made.colluders) // 2 + 1
    least = max(made.minimum, threshold)
    if least > count or threshold < made.colluders + 2:  # every client refuses it
        return []
    return [least - 1, *([2 * threshold - count] if least < count else [])]
