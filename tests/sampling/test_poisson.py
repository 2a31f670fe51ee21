# SPDX-License-Identifier: Apache-2.0
"""Poisson cohorts: independent coins, a binomial size, and nobody is a legal cohort."""

import math
from collections import Counter

import numpy as np
import pytest

from muster.errors import PlanError
from muster.keys import key
from muster.sampling import Poisson
from muster.types import Roster


def draw(rate, n, round=1, seed=0):
    roster = Roster(tuple(range(n)), lambda: [1] * n)
    k = key(seed).at("sample", round)
    return Poisson(rate).sample(roster, "state", round, k, None)


def test_sizes_are_binomial():
    """|S| ~ Bin(8, 0.3) over 5000 rounds, cells 0 … 6+; 22.46 is the 0.999 quantile at 6."""
    sizes = Counter(min(6, len(draw(0.3, 8, round)[0].clients)) for round in range(5000))
    p = [math.comb(8, k) * 0.3**k * 0.7 ** (8 - k) for k in range(9)]
    expected = [*(5000 * q for q in p[:6]), 5000 * sum(p[6:])]
    square = sum((sizes[k] - e) ** 2 / e for k, e in enumerate(expected))
    assert square < 22.46


def test_clients_are_independent_of_each_other():
    """Counts of pairs of four coins at 1/2 are those of independent ones."""
    tables = np.zeros((4, 4))
    for round in range(4000):
        heads = list(draw(0.5, 4, round)[0].clients)
        tables[np.ix_(heads, heads)] += 1
    off = tables[~np.eye(4, dtype=bool)] / 4000
    assert np.abs(np.diag(tables) / 4000 - 0.5).max() < 4 * math.sqrt(0.25 / 4000)
    assert np.abs(off - 0.25).max() < 4 * math.sqrt(0.1875 / 4000)


def test_nobody_is_a_legal_cohort_and_everybody_too():
    cohort, state = draw(1e-9, 5)
    assert cohort.clients == ()
    assert cohort.counts() == {}
    assert state == "state"
    assert draw(1.0, 5)[0].clients == (0, 1, 2, 3, 4)


def test_a_round_is_a_function_of_seed_and_number():
    assert draw(0.5, 40, 2) == draw(0.5, 40, 2)
    drawn = {draw(0.5, 40, round, seed)[0] for round in range(10) for seed in range(5)}
    assert len(drawn) == 50


def test_the_share_is_the_rate_whoever_came():
    assert Poisson(0.3).share(Roster((1, 2), lambda: [1, 1])) == 0.3


@pytest.mark.parametrize("rate", [0, -0.1, 1.1, math.nan, math.inf])
def test_a_rate_outside_its_range_is_refused(rate):
    with pytest.raises(PlanError, match=r"Poisson.rate=.*must lie in \(0, 1\]"):
        Poisson(rate)
