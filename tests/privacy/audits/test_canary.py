# SPDX-License-Identifier: Apache-2.0
"""One-shot canaries find the epsilon of a Gaussian release, and find it high without noise."""

import numpy as np
import pytest

from muster.errors import MusterError
from muster.keys import key
from muster.privacy.audits.canary import (
    Normal,
    canary,
    canary_epsilon,
    cosine,
    fitted,
    hockey_stick,
)
from muster.privacy.gaussian import gaussian, gaussian_delta, gaussian_deviation

SIZE, COUNT = 30_000, 300


def released(multiplier, draw=0):
    """One sum of canaries of norm one with noise, and their cosines with it."""
    made = [canary(key(draw).at("canary", i), SIZE) for i in range(COUNT)]
    total = np.sum(made, 0) + gaussian(key(draw).at("noise"), SIZE, multiplier)
    return np.array([cosine(c, total) for c in made]), total


@pytest.mark.parametrize("epsilon", [1.0, 3.0, 10.0])
def test_the_estimate_comes_close_to_the_truth(epsilon):
    """Within the error of a mean of 300 cosines and the canaries' own crowding (M/d)."""
    multiplier = gaussian_deviation(epsilon, 1e-5)
    found = canary_epsilon(released(multiplier)[0], SIZE, 1e-5)
    assert epsilon * 0.7 < found < epsilon * 1.3


def test_without_noise_the_audit_has_power():
    assert canary_epsilon(released(0.01)[0], SIZE, 1e-5) > 50


def test_noise_measured_by_half_the_sensitivity_is_found_out():
    """The estimate for noise half as wide as claimed lies far above the claim."""
    claimed = 1.0
    multiplier = gaussian_deviation(claimed, 1e-5) / 2
    assert canary_epsilon(released(multiplier)[0], SIZE, 1e-5) > 1.4 * claimed


def test_canaries_that_took_no_part_show_nothing():
    _, total = released(1.0)
    unseen = np.array([cosine(canary(key(9).at(i), SIZE), total) for i in range(COUNT)])
    assert unseen.std() == pytest.approx(SIZE**-0.5, rel=0.15)
    assert canary_epsilon(unseen, SIZE, 1e-2) < 1.0


def test_when_all_rounds_are_seen_the_largest_cosine_counts():
    """Eight rounds of one canary set against canaries that were left out of all of them."""
    rounds, d, count, multiplier = 8, 5000, 200, 2.0
    seen, unseen = [], []
    for i in range(count):
        seen.append(canary(key(1).at(i), d))
        unseen.append(canary(key(2).at(i), d))
    best = np.full((2, count), -1.0)
    for t in range(rounds):
        total = np.sum(seen, 0) + gaussian(key(3).at(t), d, multiplier)
        for row, group in enumerate((seen, unseen)):
            best[row] = np.maximum(best[row], [cosine(c, total) for c in group])
    assert canary_epsilon(best[0], best[1], 1e-3) > 1.0
    assert canary_epsilon(best[1][:100], best[1][100:], 1e-3) < 1.0


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 2.0, 8.0])
@pytest.mark.parametrize("mu", [0.2, 1.0, 4.0])
def test_for_equal_deviations_it_is_the_gaussian_mechanism(epsilon, mu):
    delta = gaussian_delta(epsilon, 1 / mu)
    for p, q in ((Normal(mu, 1), Normal(0, 1)), (Normal(-3 * mu, 3), Normal(0, 3))):
        assert hockey_stick(epsilon, p, q) == pytest.approx(delta, rel=1e-6, abs=1e-14)


@pytest.mark.parametrize(
    ("p", "q"),
    [
        (Normal(mean, deviation), Normal(0, 1))
        for mean, deviation in ((0.5, 1.3), (0.5, 0.7), (0, 2), (0, 0.5), (0, 1), (1, 1))
    ],
)
@pytest.mark.parametrize("epsilon", [0.0, 0.5, 3.0])
def test_it_equals_numerical_integration(p, q, epsilon):
    x = np.linspace(-30, 30, 400_001)

    def density(law):
        return np.exp(-(((x - law.mean) / law.deviation) ** 2) / 2) / law.deviation

    gap = np.maximum(0, density(p) - np.exp(epsilon) * density(q))
    wanted = gap.sum() * (x[1] - x[0]) / np.sqrt(2 * np.pi)
    assert hockey_stick(epsilon, p, q) == pytest.approx(wanted, abs=1e-6)


def test_a_canary_is_uniform_on_the_sphere():
    made = np.array([canary(key(0).at(i), 3) for i in range(3000)])
    np.testing.assert_allclose(np.linalg.norm(made, axis=1), 1)
    np.testing.assert_allclose(made.mean(0), 0, atol=0.05)
    np.testing.assert_allclose(np.cov(made.T), np.eye(3) / 3, atol=0.03)


@pytest.mark.parametrize("cosines", [[], [0.1], [0.1, np.nan]])
def test_too_few_cosines_are_refused(cosines):
    with pytest.raises(MusterError, match="at least two finite ones are needed; use hundreds"):
        fitted(np.array(cosines))
