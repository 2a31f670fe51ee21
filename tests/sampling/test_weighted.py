# SPDX-License-Identifier: Apache-2.0
"""Draws in proportion to rows, with replacement: repeats count, and the plain mean is unbiased."""

import math
from collections import Counter

import numpy as np
import pytest

from muster.errors import PlanError
from muster.keys import key
from muster.sampling import Weighted
from muster.types import Roster

ROWS = np.array([1, 2, 3, 4])
ROSTER = Roster(("a", "b", "c", "d"), lambda: ROWS)


def draw(count, round=1, roster=ROSTER):
    return Weighted(count).sample(roster, "state", round, key(0).at("sample", round), None)


def test_the_cohort_names_each_client_once_and_how_often_it_was_drawn():
    for round in range(50):
        cohort, state = draw(6, round)
        assert list(cohort.clients) == sorted(set(cohort.clients))
        assert sum(cohort.times) == 6
        assert min(cohort.times) >= 1
        assert cohort.counts() == dict(zip(cohort.clients, cohort.times, strict=True))
        assert state == "state"
    assert draw(6, 3) == draw(6, 3)


def test_multiplicities_are_multinomial():
    """Three draws with p = (1, 2, 3, 4)/10, all 20 outcomes; 43.82 is the 0.999 quantile at 19."""
    rounds, p = 8000, ROWS / 10
    seen = Counter(
        tuple(draw(3, round)[0].counts().get(c, 0) for c in ROSTER.clients)
        for round in range(rounds)
    )
    square, outcomes = 0.0, 0
    for times in np.ndindex(4, 4, 4, 4):
        if sum(times) == 3:
            ways = math.factorial(3) / math.prod(map(math.factorial, times))
            expected = rounds * ways * float(np.prod(p**times))
            square += (seen[times] - expected) ** 2 / expected
            outcomes += 1
    assert outcomes == 20
    assert square < 43.82


def test_the_plain_mean_of_the_draws_is_unbiased():
    deltas, counts = np.array([3.0, -1.0, 2.0, -5.0]), np.zeros(4)
    for round in range(4000):
        cohort = draw(2, round)[0].counts()
        counts += [cohort.get(c, 0) for c in ROSTER.clients]
    full = ROWS @ deltas / 10
    spread = math.sqrt((ROWS / 10) @ (deltas - full) ** 2)
    assert abs(counts @ deltas / 8000 - full) < 4 * spread / math.sqrt(8000)


def test_more_draws_than_clients_are_legal():
    cohort, _ = draw(9, roster=Roster(("a",), lambda: [5]))
    assert (cohort.clients, cohort.times) == (("a",), (9,))


def test_there_is_no_one_inclusion_probability():
    with pytest.raises(PlanError, match=r"Weighted\(count=3\).*use Mean\(denominator='replies'\)"):
        Weighted(3).share(ROSTER)


@pytest.mark.parametrize("count", [0, -1, 2.5])
def test_a_count_that_is_no_number_of_draws_is_refused(count):
    with pytest.raises(PlanError, match=r"Weighted.count=.*whole number, at least 1"):
        Weighted(count)
