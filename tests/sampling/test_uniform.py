# SPDX-License-Identifier: Apache-2.0
"""Uniform cohorts: their size, their inclusion probabilities, and which estimator is unbiased."""

import math
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.errors import PlanError
from muster.keys import key
from muster.sampling import Uniform
from muster.types import Roster


def roster(n):
    return Roster(tuple(range(n)), lambda: [1] * n)


def draw(sampling, n, round=1, seed=0):
    cohort, _ = sampling.sample(roster(n), None, round, key(seed).at("sample", round), None)
    return cohort.clients


@pytest.mark.parametrize(
    ("fraction", "population", "size"),
    [
        (0.1, 100, 10),
        (0.1, 3, 1),
        (0.001, 10, 1),
        (1.0, 7, 7),
        (1, 7, 7),
        (0.1, 25, 2),
        (0.1, 26, 3),
        (0.5, 3, 2),
        (0.5, 5, 2),
        (0.5, 7, 4),
        (0.99, 10, 10),
    ],
)
def test_a_fraction_rounds_halves_to_even_and_is_never_nobody(fraction, population, size):
    assert Uniform(fraction=fraction).size(population) == size
    assert len(draw(Uniform(fraction=fraction), population)) == size


@given(st.floats(0, 1, exclude_min=True), st.integers(1, 300))
def test_any_fraction_gives_a_legal_cohort(fraction, population):
    size = Uniform(fraction=fraction).size(population)
    assert 1 <= size <= population
    assert abs(size - fraction * population) <= 1


@given(st.integers(1, 40), st.data())
def test_cohorts_are_sorted_and_without_repeats(population, data):
    count = data.draw(st.integers(1, population))
    clients = draw(Uniform(count=count), population, data.draw(st.integers(1, 99)))
    assert len(clients) == count
    assert list(clients) == sorted(set(clients))
    assert set(clients) <= set(range(population))


@pytest.mark.parametrize("fraction", [0, -0.1, 1.01, 10, math.nan, math.inf])
def test_a_fraction_outside_its_range_is_refused(fraction):
    with pytest.raises(PlanError, match=r"must lie in \(0, 1\]; .* use Uniform\(count=...\)"):
        Uniform(fraction=fraction)


@pytest.mark.parametrize("count", [0, -3, 2.5])
def test_a_count_that_is_no_number_of_clients_is_refused(count):
    with pytest.raises(PlanError, match=r"Uniform.count=.*whole number, at least 1"):
        Uniform(count=count)


@pytest.mark.parametrize("fields", [{}, {"fraction": 0.5, "count": 3}])
def test_exactly_one_of_fraction_and_count_is_needed(fields):
    with pytest.raises(PlanError, match="give exactly one of fraction and count"):
        Uniform(**fields)


def test_a_count_above_the_population_is_refused_with_the_most():
    with pytest.raises(PlanError, match=r"count=8.* more than the 7 clients .* use at most 7"):
        draw(Uniform(count=8), 7)
    assert draw(Uniform(count=7), 7) == tuple(range(7))


def test_a_round_draws_the_same_cohort_always_and_another_round_another():
    sampling = Uniform(count=10)
    assert draw(sampling, 100, 3) == draw(sampling, 100, 3)
    drawn = {draw(sampling, 100, round, seed) for round in range(1, 20) for seed in range(5)}
    assert len(drawn) == 95


def test_clients_and_pairs_are_drawn_alike_often():
    """Cohorts of 3 out of 8, 4000 rounds: each client in 3/8, each pair in 3·2/(8·7) of them.

    The counts of a round are dependent, which makes the sum smaller than chi-square: 24.32 and
    55.48 are its 0.999 quantiles at 7 and 27 degrees.
    """
    rounds = 4000
    cohorts = [draw(Uniform(count=3), 8, round) for round in range(1, rounds + 1)]
    clients = Counter(client for cohort in cohorts for client in cohort)
    pairs = Counter(pair for cohort in cohorts for pair in combinations(cohort, 2))
    for counts, cells, expected in (
        (clients, 8, rounds * 3 / 8),
        (pairs, 28, rounds * 6 / 56),
    ):
        assert len(counts) == cells
        square = sum((count - expected) ** 2 / expected for count in counts.values())
        assert square < {8: 24.32, 28: 55.48}[cells]


def test_the_inclusion_probability_is_the_size_over_the_population():
    assert Uniform(count=3).share(roster(12)) == 0.25
    assert Uniform(fraction=0.1).share(roster(26)) == 3 / 26


@pytest.mark.parametrize("m", [1, 2, 3])
def test_only_the_fixed_denominator_is_unbiased_under_unequal_sizes(m):
    """Every cohort of m out of 6: its mean is D exactly; that of the ratio estimator is not."""
    rows = np.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
    deltas = np.array([3.0, -1.0, 2.0, 5.0, -4.0, 1.0])
    full = rows @ deltas / rows.sum()
    share = Uniform(count=m).share(roster(6))
    subsets = [list(subset) for subset in combinations(range(6), m)]
    sums = [rows[s] @ deltas[s] for s in subsets]
    expected = np.mean([total / (share * rows.sum()) for total in sums])
    ratio = np.mean([total / rows[s].sum() for total, s in zip(sums, subsets, strict=True)])
    assert expected == pytest.approx(full, abs=1e-12)
    assert abs(ratio - full) > 1e-2
