# SPDX-License-Identifier: Apache-2.0
"""Integer noise follows its law: frequencies, moments, sums, tails and ties."""

import math

import numpy as np
import pytest

from muster.errors import PlanError
from muster.keys import key
from muster.privacy.discrete import Table, discrete_gaussian, skellam
from muster.privacy.randomness import Secret

DRAWS = 200_000


def gaussian_law(variance, reach=60):
    x = np.arange(-reach, reach + 1)
    p = np.exp(-(x**2) / (2 * variance))
    return p / p.sum()


def skellam_law(variance, reach=60):
    """The law of a difference: the convolution of two Poisson laws."""
    k = np.arange(4 * reach)
    log = k * math.log(variance / 2) - variance / 2 - [math.lgamma(i + 1) for i in k]
    p = np.exp(log)
    full = np.convolve(p, p[::-1])
    middle = len(full) // 2
    return full[middle - reach : middle + reach + 1]


@pytest.mark.parametrize("source", [key(11), Secret(bytes(32))])
@pytest.mark.parametrize("variance", [0.05, 0.7, 4.0, 30.5])
@pytest.mark.parametrize(
    ("draw", "law"), [(discrete_gaussian, gaussian_law), (skellam, skellam_law)]
)
def test_frequencies_follow_the_law(draw, law, variance, source):
    """Pearson's chi-square over all values that are expected ten times."""
    drawn = draw(source, DRAWS, variance)
    expected = law(variance) * DRAWS
    counts = np.bincount(np.clip(drawn, -60, 60) + 60, minlength=121)
    common = expected >= 10
    degrees = int(common.sum()) - 1
    statistic = ((counts - expected)[common] ** 2 / expected[common]).sum()
    assert statistic < degrees + 5 * math.sqrt(2 * degrees) + 8
    assert counts[~common].sum() <= expected[~common].sum() + 40


@pytest.mark.parametrize("draw", [discrete_gaussian, skellam])
@pytest.mark.parametrize("variance", [1.0, 1e4, 3.3e5, 2.0**28])
def test_moments_at_every_width(draw, variance):
    drawn = draw(key(3), DRAWS, variance).astype(float)
    deviation = math.sqrt(variance)
    assert abs(drawn.mean()) < 5 * deviation / math.sqrt(DRAWS)
    assert drawn.var() == pytest.approx(variance, rel=5 * math.sqrt(3 / DRAWS))
    assert np.abs(drawn).max() > 3.5 * deviation


def test_a_sum_of_skellam_shares_is_one_skellam():
    shares = sum(skellam(key(2).at(i), DRAWS, 0.5) for i in range(8))
    whole = skellam_law(4.0) * DRAWS
    counts = np.bincount(shares + 60, minlength=121)
    common = whole >= 10
    statistic = ((counts - whole)[common] ** 2 / whole[common]).sum()
    assert statistic < common.sum() + 5 * math.sqrt(2 * common.sum()) + 8


def test_draws_are_a_function_of_the_source():
    for draw in (discrete_gaussian, skellam):
        assert draw(key(1), 50, 9.0).tolist() == draw(key(1), 50, 9.0).tolist()
        assert draw(key(1), 50, 9.0).tolist() != draw(key(2), 50, 9.0).tolist()
        assert len(draw(key(1), 0, 9.0)) == 0


def test_the_low_half_decides_where_the_high_half_does_not():
    """Thresholds at 2⁶³·2⁶⁴ + (0, 2⁶³, 2⁶⁴ − 1): words of that high half are told by the low."""

    class Fixed:
        def __init__(self, values):
            self.values = values

        def at(self, _):
            return Fixed([0, 2**62, 2**63, 2**64 - 1])

        def generator(self):
            return self

        def integers(self, *args, **kwargs):
            return np.array(self.values, np.uint64)

    half = 2**63
    table = Table(-1, np.array([half] * 3, np.uint64), np.array([0, half, 2**64 - 1], np.uint64))
    drawn = table.draw(Fixed([half, half, half, half, 0, 2**64 - 1]), 6)
    assert drawn.tolist() == [0, 0, 1, 2, -1, 2]


@pytest.mark.parametrize("variance", [0.0, -1.0, math.nan, math.inf, 2.0**41])
def test_a_variance_that_is_none_is_refused(variance):
    for draw in (discrete_gaussian, skellam):
        with pytest.raises(PlanError, match=r"integer noise of variance .*change the noise mult"):
            draw(key(0), 3, variance)
