# SPDX-License-Identifier: Apache-2.0
"""The chance of sitting with colluders, against a table worked out apart and against draws."""

import numpy as np
import pytest

from muster.errors import PlanError
from muster.secagg.groups import anybody, borne, exposed, honest_needed, largest_count, over

SETTINGS = [(100, 1e-3), (1000, 1e-6), (10**4, 2.0**-40)]  # rounds, and the chance over all
# smallest group x number of groups, for a given client / any client, with 2, 3 and 5 honest
TABLE = {
    (20, 2): ("4x5 5x4 10x2", "4x5 5x4 10x2", "4x5 5x4 10x2"),
    (30, 10): ("10x3/15x2 15x2 15x2", "15x2 15x2 15x2", "15x2 15x2 15x2"),
    (60, 20): ("12x5/15x4 15x4 20x3", "20x3 20x3 30x2", "30x2 30x2 30x2"),
    (100, 10): (
        "5x17/7x13 7x13/9x11 11x9/12x8",
        "9x11/10x10 11x9/12x8 14x7",
        "12x8 14x7 16x6",
    ),
    (100, 20): (
        "8x12/10x10 10x10/12x8 14x7/16x6",
        "12x8/14x7 16x6 20x5",
        "20x5 25x4 25x4",
    ),
    (100, 33): (
        "11x9/14x7 14x7/16x6 20x5",
        "20x5 20x5/25x4 25x4/33x3",
        "33x3 33x3 33x3/50x2",
    ),
    (300, 30): (
        "6x50/8x36 7x38/10x30 11x27/13x23",
        "10x30/12x25 12x25/13x22 15x20/16x18",
        "16x18/18x16 18x16/20x15 21x14/23x13",
    ),
    (300, 100): (
        "11x26/16x18 14x21/18x16 20x15/23x13",
        "20x15/25x12 23x13/27x11 30x10/33x9",
        "33x9/37x8 37x8/42x7 42x7/50x6",
    ),
    (1000, 100): (
        "6x166/9x111 7x126/10x93 10x91/13x72",
        "10x100/12x77 12x83/14x67 15x64/18x55",
        "16x59/19x51 19x52/21x46 22x44/25x40",
    ),
    (1000, 333): (
        "11x86/17x57 14x69/20x50 19x51/25x40",
        "20x50/25x39 23x43/28x35 29x34/34x29",
        "34x29/40x25 38x26/43x23 45x22/50x20",
    ),
}


def most(chance, count, honest, rounds, limit):
    """The most groups whose chance stays within the limit, as the table writes them."""
    for groups in range(count // honest, 0, -1):
        if over(chance(groups), rounds) <= limit:
            return f"{count // groups}x{groups}"
    raise AssertionError("none")


@pytest.mark.parametrize(("count", "colluders"), TABLE)
def test_the_smallest_groups_that_a_chance_allows(count, colluders):
    for (rounds, limit), cells in zip(SETTINGS, TABLE[count, colluders], strict=True):
        for honest, cell in zip((2, 3, 5), cells.split(), strict=True):
            given, anyone = cell.split("/")[0], cell.split("/")[-1]
            assert given == most(
                lambda g, h=honest: exposed(count, colluders, g, h), count, honest, rounds, limit
            )
            assert anyone == most(
                lambda g, h=honest: anybody(count, colluders, g, h), count, honest, rounds, limit
            )


@pytest.mark.parametrize(("groups", "chance"), [(33, 0.106), (20, 0.01087), (10, 2.228e-5)])
def test_a_hundred_clients_a_third_of_whom_collude(groups, chance):
    assert exposed(100, 33, groups, 2) == pytest.approx(chance, rel=2e-3)


def test_drawn_groups_expose_as_often():
    draws, count, colluders, groups = np.random.default_rng(0), 30, 10, 6
    alone = somebody = 0
    for _ in range(4000):
        order = draws.permutation(count)  # those below ten collude, the last one is ours
        honest = [(part >= colluders).sum() for part in np.array_split(order, groups)]
        alone += any(
            29 in part and (part >= colluders).sum() < 3 for part in np.array_split(order, groups)
        )
        somebody += any(1 <= n < 2 for n in honest)
    wanted = exposed(count, colluders, groups, 3)
    assert abs(alone / 4000 - wanted) < 5 * (wanted * (1 - wanted) / 4000) ** 0.5
    exact = 0.17446
    assert abs(somebody / 4000 - exact) < 5 * (exact * (1 - exact) / 4000) ** 0.5
    assert exact < anybody(count, colluders, groups, 2)


def test_one_group_is_everybody():
    assert exposed(9, 3, 1, 5) == anybody(9, 3, 1, 5) == 0.0
    assert exposed(9, 7, 1, 5) == 1.0


def test_over_many_rounds():
    assert over(0.1088, 20) == pytest.approx(1 - (1 - 0.1088) ** 20)
    assert over(1e-18, 1000) == pytest.approx(1e-15)
    assert over(1.0, 1) == 1.0


def test_losses_ask_for_more_honest_clients():
    assert [honest_needed(losses) for losses in range(4)] == [2, 3, 5, 7]
    assert largest_count(100, 10, 0.0, 100, 1e-3) == 17
    assert (
        largest_count(100, 10, 0.1, 100, 1e-3) == 13
    )  # of seven or eight, one of whom may be lost


def test_the_most_groups_leave_room_for_a_liar_and_the_losses_of_each():
    for count in range(3, 60):
        for losses in (0.0, 0.1, 0.2, 0.3):
            try:
                groups = largest_count(count, 1, losses, 1, 0.5)
            except PlanError:
                assert count - 1 < honest_needed(borne(losses, count))
                continue
            sizes = (count // groups, -(-count // groups))
            assert all(size - honest_needed(borne(losses, size)) >= 1 for size in sizes)
    assert borne(0.1, 30) == 3 and borne(0.1, 3) == 1


def test_where_nobody_is_hidden_no_groups_are_found():
    with pytest.raises(PlanError, match="invite more"):
        largest_count(5, 4, 0.0, 1, 1e-3)
