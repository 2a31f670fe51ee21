# SPDX-License-Identifier: Apache-2.0
"""The banded matrix: published coefficients, sensitivity, and noise that running sums cancel."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.errors import PlanError
from muster.keys import key
from muster.privacy.gaussian import gaussian
from muster.privacy.matrix import correlated, mean_error, optimal, sensitivity, square_root


def matrix(coefficients, rounds):
    c = np.zeros((rounds, rounds))
    for k, value in enumerate(coefficients[:rounds]):
        c += value * np.eye(rounds, k=-k)
    return c


def play(coefficients, fresh):
    """The rows released for these fresh draws `(rounds, d)`."""
    past, rows = np.zeros((len(coefficients) - 1, fresh.shape[1])), []
    for z in fresh:
        row, past = correlated(z, past, coefficients)
        rows.append(row)
    return np.array(rows)


def test_a_long_run_is_counted_turn_by_turn_as_a_whole_column_is():
    """From where the bands overlap, a column of C times the turns repeats itself."""
    for bands, separation in ((1, 1), (4, 4), (4, 1), (7, 3), (3, 10), (16, 5)):
        c = np.array(square_root(bands))
        for rounds in (1, 2, 9, 33, 100, 257):
            column = np.zeros(rounds + bands)
            for start in range(0, rounds, separation):
                column[start : start + bands] += c
            whole = np.linalg.norm(column[:rounds])
            assert sensitivity(tuple(c), rounds, separation) == pytest.approx(whole, rel=1e-12)
    assert sensitivity(square_root(4), 4 * 10**12, 4) == pytest.approx(10**6)


def test_the_square_root_has_the_published_coefficients():
    c = np.array(square_root(64))
    np.testing.assert_allclose((c / c[0])[:5], [1, 0.5, 0.375, 0.3125, 0.2734375], rtol=1e-12)
    assert ((c / c[0]) ** 2).sum() == pytest.approx(2.388848, abs=1e-6)
    inverse = np.linalg.inv(matrix(c / c[0], 64))[:, 0]
    np.testing.assert_allclose(inverse[:5], [1, -0.5, -0.125, -0.0625, -0.0390625], atol=1e-12)


def test_the_optimum_of_another_library():
    """jax-privacy, 256 rounds and 16 bands: coefficients and mean error."""
    c = optimal(256, 16)
    np.testing.assert_allclose(c[:6], [0.5728, 0.3395, 0.2821, 0.2530, 0.2341, 0.2203], atol=5e-5)
    assert mean_error(c, 256) == pytest.approx(13.232, abs=1e-3)
    assert mean_error(square_root(16), 256) > 14
    assert mean_error((1.0,), 256) == pytest.approx(128.5)


@pytest.mark.parametrize(("rounds", "bands"), [(8, 2), (8, 8), (32, 5), (4, 9), (100, 1)])
def test_the_optimum_beats_its_neighbours(rounds, bands):
    c = np.array(optimal(rounds, bands))
    assert c @ c == pytest.approx(1)
    best = mean_error(tuple(c), rounds)
    for seed in range(20):
        moved = c + 1e-3 * np.random.default_rng(seed).normal(size=bands)
        assert mean_error(tuple(moved / np.sqrt(moved @ moved)), rounds) >= best - 1e-9


def test_turns_apart_cost_the_root_of_their_number():
    assert sensitivity(square_root(4), 16, 4) ** 2 == pytest.approx(4.0)
    assert sensitivity(square_root(4), 16, 7) ** 2 == pytest.approx(
        2.0 + square_root(4)[0] ** 2 + square_root(4)[1] ** 2
    )
    assert sensitivity((1.0,), 9, 1) == pytest.approx(3.0)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 9), st.integers(1, 5), st.integers(1, 5))
def test_no_pattern_of_turns_and_signs_adds_more(rounds, bands, separation):
    c = square_root(bands)
    made, most = matrix(c, rounds), sensitivity(c, rounds, separation)

    def patterns(start):
        if start >= rounds:
            yield ()
            return
        yield from patterns(start + 1)
        for rest in patterns(start + separation):
            yield (start, *rest)

    worst = max(np.linalg.norm(made[:, list(p)].sum(1)) for p in patterns(0))
    assert most == pytest.approx(worst)


def test_the_recurrence_is_the_inverse_matrix():
    fresh = np.random.default_rng(0).normal(size=(12, 3))
    for c in (square_root(1), square_root(5), optimal(12, 12)):
        rows = play(c, fresh)
        np.testing.assert_allclose(matrix(c, 12) @ rows, fresh, atol=1e-12)
        np.testing.assert_allclose(rows, np.linalg.inv(matrix(c, 12)) @ fresh, atol=1e-10)


def test_prefix_sums_have_the_variance_that_b_predicts():
    c, rounds, d = square_root(4), 16, 20_000
    fresh = np.stack([gaussian(key(7).at(t), d, 2.0) for t in range(rounds)])
    sums = play(c, fresh).cumsum(0)
    b = np.tril(np.ones((rounds, rounds))) @ np.linalg.inv(matrix(c, rounds))
    np.testing.assert_allclose(sums.var(1), 4 * (b**2).sum(1), rtol=0.05)
    assert sums[-1].var() < 0.5 * 4 * rounds  # independent noise would have added up to this


def test_one_band_is_independent_noise_bit_for_bit():
    fresh = np.random.default_rng(1).normal(size=(5, 7))
    assert play((1.0,), fresh).tobytes() == fresh.tobytes()
    assert optimal(9, 1) == square_root(1) == (1.0,)


def test_a_restart_from_the_kept_rows_goes_on_with_the_same_bits():
    fresh, c = np.random.default_rng(2).normal(size=(9, 4)), square_root(4)
    whole, past = play(c, fresh), np.zeros((3, 4))
    for z in fresh[:5]:
        _, past = correlated(z, past, c)
    stored = past.copy()
    for t in range(5, 9):
        row, stored = correlated(fresh[t], stored, c)
        assert row.tobytes() == whole[t].tobytes()


@pytest.mark.parametrize("bands", [0, -1, 1.5])
def test_bands_are_whole(bands):
    for make in (square_root, lambda b: optimal(10, b)):
        with pytest.raises(PlanError, match="a whole number of rounds, at least 1, is needed"):
            make(bands)


@pytest.mark.parametrize("coefficients", [(0.5, 0.8), (0.9, -0.1)])
def test_coefficients_without_a_known_worst_case_are_refused(coefficients):
    with pytest.raises(PlanError, match="they must fall from the first on and stay at least 0"):
        sensitivity(coefficients, 5, 1)
