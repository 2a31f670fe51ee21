# SPDX-License-Identifier: Apache-2.0
"""Confidence bounds equal a statistics package's and cover as promised."""

import math

import numpy as np
import pytest

from muster.errors import MusterError
from muster.extras import require
from muster.privacy.audits import clopper_pearson, one_run_epsilon


@pytest.mark.parametrize("trials", [1, 7, 100, 20_000])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.999])
def test_it_equals_a_statistics_package(trials, confidence):
    beta = require("scipy.stats", extra="privacy").beta
    tail = (1 - confidence) / 2
    for hits in sorted({0, 1, trials // 3, trials - 1, trials}):
        low, high = clopper_pearson(hits, trials, confidence)
        assert low == pytest.approx(0 if hits == 0 else beta.ppf(tail, hits, trials - hits + 1))
        wanted = 1 if hits == trials else beta.ppf(1 - tail, hits + 1, trials - hits)
        assert high == pytest.approx(wanted)


def test_it_covers_the_rate():
    hits = np.random.default_rng(0).binomial(50, 0.1, 2000)
    made = {int(h): clopper_pearson(int(h), 50) for h in set(hits.tolist())}
    assert np.mean([made[int(h)][0] <= 0.1 <= made[int(h)][1] for h in hits]) >= 0.95


@pytest.mark.parametrize(
    ("hits", "trials", "confidence"), [(-1, 5, 0.9), (6, 5, 0.9), (0, 0, 0.9), (1, 5, 1.0)]
)
def test_counts_that_are_none_are_refused(hits, trials, confidence):
    with pytest.raises(MusterError, match=r"0 <= hits <= trials"):
        clopper_pearson(hits, trials, confidence)


def test_coins_guessed_by_chance_refute_nothing_and_right_ones_do():
    assert one_run_epsilon(500, 1000) == 0.0
    assert one_run_epsilon(0, 10) == 0.0
    assert one_run_epsilon(1000, 1000) == pytest.approx(
        math.log(0.05**1e-3 / -math.expm1(math.log(0.05) / 1000)), rel=1e-6
    )
    truth = 1.5  # randomised response of this epsilon is refuted below it, and not above
    right = np.random.default_rng(1).binomial(5000, 1 / (1 + math.exp(-truth)))
    assert truth - 0.2 < one_run_epsilon(int(right), 5000) <= truth
