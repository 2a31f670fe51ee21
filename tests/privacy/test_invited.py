# SPDX-License-Identifier: Apache-2.0
"""The needs of a server that chooses whom it invites, against a search over all it can say."""

import itertools

import pytest

from muster.privacy.invited import Invited, fewest_own


def suffice(own, count, made, asked=3):
    """Return whether so many of the server's own open one vector, where so many clients' keys came.

    `asked` is how many the site's rules ask for in each sum that it is in.
    """
    threshold = next(t for t in itertools.count() if 2 * t > count + made.colluders)
    if threshold > count or threshold - made.colluders < 2:
        return False  # no client takes part
    sums = range(max(made.minimum, threshold), count + 1)
    if not sums:
        return False
    if own >= threshold:
        return True  # they hold enough shares of both secrets, and ask nobody
    if any(own >= size - 1 for size in sums if size >= asked):
        return True  # all others in a sum that opens are its own
    if count - 1 not in sums:
        return False  # there is no second story
    honest = count - own
    splits = itertools.product(range(honest + 1), repeat=2)
    return any(a + b <= honest and min(a, b) + own >= threshold for a, b in splits)


@pytest.mark.parametrize("corrupt", [0.0, 0.1, 1 / 3, 0.45])
@pytest.mark.parametrize("minimum", [3, 4, 7, 12])
def test_it_is_what_a_search_over_all_that_a_server_can_say_finds(minimum, corrupt):
    def session(size):
        known = max(1, int(corrupt * size + 1e-9))
        return Invited(minimum, known) if size >= minimum else None

    for first in (3, 6, 13):
        found = next(
            own
            for own in range(1, 22)
            for invited in range(max(3, first), 22)
            if (made := session(invited)) is not None
            for count in range(3, invited + 1)
            if suffice(own, count, made)
        )
        assert fewest_own(session, first) == found


@pytest.mark.parametrize("corrupt", [0.1, 1 / 3])
@pytest.mark.parametrize("asked", [range(5, 30), range(9, 10), range(9, 14), range(3, 6)])
def test_a_sites_rules_bind_the_rosters_that_it_sees(asked, corrupt):
    def session(size):
        return Invited(3, max(1, int(corrupt * size + 1e-9)))

    found = next(
        own
        for own in range(1, 22)
        for invited in range(asked.start, 22)
        for count in range(asked.start, min(invited + 1, asked.stop))
        if suffice(own, count, session(invited), asked.start)
    )
    assert fewest_own(session, asked.start, asked) == found


def test_where_no_site_takes_part_no_number_is_enough():
    assert fewest_own(lambda size: None, 3) is None
