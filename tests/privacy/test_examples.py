# SPDX-License-Identifier: Apache-2.0
"""DP-SGD on examples: every row is clipped by itself, noise is measured, bad rows are refused."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.errors import PlanError
from muster.extras import require
from muster.keys import key
from muster.local import Local
from muster.privacy.examples import (
    charged,
    clip_factors,
    clipped_rows,
    dp_sgd_spent,
    private_gradient,
    promise,
)
from muster.privacy.gaussian import gaussian_epsilon
from muster.privacy.ledger import PrivacyLedger
from muster.privacy.per_example import PerExample


def test_the_formula():
    rows = np.array([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    np.testing.assert_allclose(clipped_rows(rows, 1.0), [[0.6, 0.8], [0.3, 0.4], [0, 0]])
    quiet = private_gradient(rows, 1.0, 1e-9, 10.0, key(0))
    np.testing.assert_allclose(quiet, [0.09, 0.12], atol=1e-10)


@settings(deadline=None)
@given(
    st.lists(st.floats(-1.7e308, 1.7e308), min_size=2, max_size=2),
    st.sampled_from([1e-3, 1.0, 1e3]),
)
def test_no_row_is_longer_than_the_bound_however_huge(row, bound):
    out = clipped_rows(np.array([row]), bound)
    assert np.isfinite(out).all()
    assert np.linalg.norm(out) <= bound * (1 + 1e-12)


def test_one_row_moves_the_sum_by_no_more_than_the_bound():
    rows = np.random.default_rng(0).normal(size=(20, 5)) * 100
    whole = private_gradient(rows, 0.5, 1.0, 20.0, key(1))
    less = private_gradient(rows[1:], 0.5, 1.0, 20.0, key(1))
    assert np.linalg.norm(whole - less) * 20 == pytest.approx(0.5)


def test_noise_is_measured_by_the_bound_and_the_fixed_denominator():
    drawn = private_gradient(np.zeros((3, 50_000)), 0.5, 2.0, 10.0, key(2))
    assert drawn.std() == pytest.approx(2.0 * 0.5 / 10, rel=0.02)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_row_that_is_not_finite_counts_as_zeros(bad):
    found = private_gradient(np.array([[1.0, 2.0], [0.0, bad]]), 1.0, 1.0, 2.0, key(0))
    wanted = private_gradient(np.array([[1.0, 2.0], [0.0, 0.0]]), 1.0, 1.0, 2.0, key(0))
    assert found.tolist() == wanted.tolist()


@pytest.mark.parametrize("bound", [0.0, -1.0, math.inf, math.nan])
def test_a_bound_that_is_none_is_refused(bound):
    with pytest.raises(PlanError, match="clip bound"):
        clipped_rows(np.ones((1, 2)), bound)


@pytest.mark.parametrize("multiplier", [0.0, -1.0, math.nan])
def test_no_noise_is_refused(multiplier):
    with pytest.raises(PlanError, match="without noise nothing is private"):
        private_gradient(np.ones((1, 2)), 1.0, multiplier, 1.0, key(0))


@pytest.mark.parametrize("expected", [0.0, -2.0, math.inf])
def test_a_batch_of_nobody_is_refused(expected):
    with pytest.raises(PlanError, match="expected batch"):
        private_gradient(np.ones((1, 2)), 1.0, 1.0, expected, key(0))


def test_the_published_epsilon():
    assert dp_sgd_spent(1.1, 256 / 60000, 14062, 1e-5).epsilon == pytest.approx(2.3817, abs=1e-4)
    assert dp_sgd_spent(7.0, 1.0, 100, 1e-6).epsilon == pytest.approx(7.3726, abs=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_factors_are_those_of_clipped_rows_and_keep_the_bound(dtype):
    rows = np.random.default_rng(0).normal(size=(50, 4)) * np.logspace(-3, 3, 50)[:, None]
    factors = clip_factors(np.linalg.norm(rows, axis=1), 0.7, dtype)
    scaled = rows.astype(dtype) * factors.astype(dtype)[:, None]
    assert np.linalg.norm(scaled.astype(float), axis=1).max() <= 0.7
    np.testing.assert_allclose(scaled, clipped_rows(rows, 0.7), rtol=1e-5)
    assert clip_factors(np.zeros((2, 3)), 1.0).tolist() == [[1.0] * 3] * 2


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_norm_that_is_not_finite_has_no_factor(bad):
    assert clip_factors(np.array([[0.5, bad]]), 1.0).tolist() == [[1.0, 0.0]]


def local(batches="poisson", multiplier=1.1, **fields):
    return Local(**fields, examples=PerExample(2.0, multiplier, batches))


def test_poisson_batches_are_amplified():
    charge = charged(local(epochs=2, batch=32), 500, "run")
    assert (charge.release.multiplier, charge.release.sensitivity) == (1.1, 2.0)
    assert (charge.selection.kind, charge.selection.rate) == ("poisson", 32 / 500)
    assert (charge.rounds, charge.run) == (2 * 16, "run")  # ceil(500/32) steps an epoch
    assert charged(local(steps=7, batch=32), 500).rounds == 7


@pytest.mark.parametrize("batches", ["poisson", "shuffled"])
@pytest.mark.parametrize("batch", [None, 500, 900])
def test_a_full_batch_is_not(batches, batch):
    charge = charged(local(batches, epochs=3, batch=batch), 500)
    assert (charge.selection.amplification, charge.rounds) == (1.0, 3)
    assert charge.release.multiplier == 1.1


def test_shuffled_batches_cost_an_epoch_whole():
    charge = charged(local("shuffled", epochs=2, batch=32), 500)
    assert (charge.selection.amplification, charge.rounds) == (1.0, 2)
    assert charge.release.multiplier == pytest.approx(1.1 / math.sqrt(5))
    assert charge.release.sensitivity == pytest.approx(2.0 * math.sqrt(5))
    assert charged(local("shuffled", steps=17, batch=32), 500).rounds == 2  # an epoch and a step
    fixed, coins = (
        promise(local(b, 4.0, epochs=1, batch=32), 500, 10, 1e-4) for b in ("shuffled", "poisson")
    )
    assert fixed.epsilon == pytest.approx(gaussian_epsilon(1e-4, 4 / math.sqrt(5 * 10)))
    assert coins.epsilon < fixed.epsilon


def test_a_row_that_goes_moves_an_epoch_of_shuffled_batches_by_root_five():
    """The coupling behind that charge: the last row of the order takes the place that is free."""
    rng, n, batch = np.random.default_rng(3), 11, 4
    unit = np.eye(n)  # the worst case: every gradient at the bound, all at right angles
    worst = 0.0
    for _ in range(200):
        order = rng.permutation(n)
        place = int(np.flatnonzero(order == 0)[0])
        less = order.copy()
        less[place], less = less[-1], less[:-1]
        signs = rng.choice([-1, 1], n)[:, None] * np.where(rng.random((n, 1)) < 0.5, unit, unit[0])
        moved = 0.0
        for first in range(0, n, batch):
            one, two = (signs[o[first : first + batch]].sum(0) for o in (order, less[: n - 1]))
            moved += float(np.sum((one - two) ** 2))
        worst = max(worst, moved)
    assert 3 < worst <= 5 + 1e-12


def test_the_promise_is_dp_accountings():
    library = require("dp_accounting", extra="privacy")
    event = library.PoissonSampledDpEvent(16 / 200, library.GaussianDpEvent(1.3))
    pld = require("dp_accounting.pld", extra="privacy").PLDAccountant()
    wanted = pld.compose(event, 5 * 20).get_epsilon(200**-1.1)
    found = promise(local(steps=5, batch=16, multiplier=1.3), 200, 20, 200**-1.1)
    assert found.epsilon == pytest.approx(wanted, rel=1e-4)
    assert found.accountant == "PLD"
    mnist = promise(local(steps=1, batch=256), 60000, 14062, 1e-5)
    assert mnist.epsilon == pytest.approx(2.3817, abs=1e-4)


def test_a_ledger_takes_rounds_one_by_one():
    rule, ledger = local(steps=5, batch=16, multiplier=2.0), PrivacyLedger(1e-3)
    for round in range(1, 4):
        ledger = ledger.enter(round, charged(rule, 200, "run"))
    assert ledger.epsilon == pytest.approx(promise(rule, 200, 3, 1e-3).epsilon)


def test_local_training_that_keeps_no_row_private_promises_nothing():
    with pytest.raises(PlanError, match="keeps no row private; use Local"):
        promise(Local(epochs=1), 100, 1, 1e-3)
