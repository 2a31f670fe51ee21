# SPDX-License-Identifier: Apache-2.0
"""Every client walks its own rows, once an epoch, alone as in company; nothing is padded."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster import keys
from muster.batches import cut, fold, gather, step_counts
from muster.keys import key, numbers

KEY = key(0).at("train", 3)


def rows(sizes):
    """Row i of client c holds 1000 c + i, twice; labels hold minus that."""
    flat = np.concatenate([1000.0 * c + np.arange(n) for c, n in enumerate(sizes)])
    starts = np.cumsum([0, *sizes[:-1]])
    return np.stack([flat, flat], 1), -flat, starts


def cohort(sizes, batch, epochs=None, steps=None):
    """Sizes by falling steps, and the batches of all of them and of each alone."""
    counts = step_counts(np.array(sizes), epochs, steps, batch)
    rank = np.argsort(-counts, kind="stable")
    sizes, counts = np.array(sizes)[rank], counts[rank]
    x, y, starts = rows(sizes)
    ids = numbers(rank.tolist())
    together = cut(x, y, starts, sizes, ids, counts, batch, KEY)
    alone = [
        cut(
            x,
            y,
            starts[i : i + 1],
            sizes[i : i + 1],
            ids[i : i + 1],
            counts[i : i + 1],
            batch,
            KEY,
            alone=True,
        )
        for i in range(len(sizes))
    ]
    return sizes, counts, together, alone


SIZES = st.lists(st.integers(1, 13), min_size=1, max_size=6)
BATCH = st.none() | st.integers(1, 6)


@given(SIZES, st.integers(1, 3), st.integers(1, 6))
def test_an_epoch_is_the_ceiling_of_rows_by_batch(sizes, epochs, batch):
    expected = [epochs * math.ceil(n / batch) for n in sizes]
    assert step_counts(np.array(sizes), epochs, None, batch).tolist() == expected


def test_full_batches_and_steps_are_counted_without_rows():
    assert step_counts(np.array([3, 90]), 4, None, None).tolist() == [4, 4]
    assert step_counts(np.array([3, 90]), None, 7, 10).tolist() == [7, 7]


@settings(deadline=None, max_examples=200)
@given(SIZES, BATCH, st.integers(1, 3))
def test_each_row_is_seen_once_an_epoch_and_the_short_batch_is_kept(sizes, batch, epochs):
    sizes, counts, _, alone = cohort(sizes, batch, epochs)
    for c, (n, count, batches) in enumerate(zip(sizes, counts, alone, strict=True)):
        assert len(batches) == count
        seen = [batch_.x[:, 0] for _, batch_ in batches]
        lengths = [len(part) for part in seen]
        last = n % batch or batch if batch else n
        turn = [batch] * (math.ceil(n / batch) - 1) + [last] if batch else [n]
        assert lengths == turn * epochs
        for walk in np.split(np.concatenate(seen), epochs):
            assert sorted(walk) == [1000.0 * c + i for i in range(n)]


@settings(deadline=None, max_examples=200)
@given(SIZES, BATCH, st.integers(1, 3), st.booleans())
def test_alone_is_the_row_of_the_matrix(sizes, batch, amount, by_steps):
    chosen = {"steps": 5 * amount} if by_steps else {"epochs": amount}
    _, counts, together, alone = cohort(sizes, batch, **chosen)
    assert together.active.tolist() == [int((counts > t).sum()) for t in range(counts[0])]
    for t, (active, matrix) in enumerate(together):
        assert matrix.x.shape[0] == matrix.y.shape[0] == len(matrix.seed) == active
        for c in range(active):
            _, one = alone[c].at(t)
            n = len(one.y)
            np.testing.assert_array_equal(matrix.x[c, :n], one.x)
            np.testing.assert_array_equal(matrix.y[c, :n], one.y)
            assert matrix.seed[c] == one.seed
            if matrix.scale is None:
                assert n == matrix.x.shape[1]
            else:
                np.testing.assert_allclose(matrix.scale[c, :n], 1 / n, rtol=1e-6)
                assert not matrix.scale[c, n:].any()


@settings(deadline=None, max_examples=200)
@given(SIZES, BATCH)
def test_a_scaled_sum_is_the_mean_of_the_true_rows(sizes, batch):
    _, _, together, alone = cohort(sizes, batch, epochs=2)
    for t, (active, matrix) in enumerate(together):
        width = matrix.x.shape[1]
        scale = np.full((active, width), 1 / width) if matrix.scale is None else matrix.scale
        means = (matrix.x * scale[..., None]).sum(1)
        expected = [alone[c].at(t)[1].x.mean(0) for c in range(active)]
        np.testing.assert_allclose(means, expected, rtol=1e-5)


def test_padded_rows_stay_within_the_client():
    """A padded place repeats a row of the same client, so no stranger's row is even read."""
    sizes, _, together, _ = cohort([7, 3, 5], 4, epochs=2)
    for active, matrix in together:
        for c in range(active):
            assert set(matrix.x[c, :, 0]) <= {1000.0 * c + i for i in range(sizes[c])}


def test_equal_full_batches_need_no_scale():
    _, _, together, _ = cohort([8, 4, 8], 4, epochs=1)
    assert together.scale is None
    assert together.active.tolist() == [3, 2]


def test_a_full_batch_reads_the_rows_as_they_stand():
    _, _, together, alone = cohort([4], None, epochs=2)
    assert [batch.x[:, 0].tolist() for _, batch in alone[0]] == [[0, 1, 2, 3]] * 2
    assert together.scale is None


def test_a_single_row_is_trained_on_whatever_the_batch():
    for batch in (None, 1, 5):
        _, counts, _, (alone,) = cohort([1], batch, epochs=3)
        assert counts.tolist() == [3]
        assert [batch_.y.tolist() for _, batch_ in alone] == [[0.0]] * 3


def test_single_sample_steps_walk_every_row():
    _, counts, _, (alone,) = cohort([6], 1, epochs=2)
    assert counts.tolist() == [12]
    assert {b.y.shape for _, b in alone} == {(1,)}


def test_steps_walk_as_many_epochs_as_they_need():
    _, counts, _, alone = cohort([2, 5], 2, steps=7)
    assert counts.tolist() == [7, 7]
    small = np.concatenate([batch.x[:, 0] for _, batch in alone[0]])
    assert [sorted(small[i : i + 2]) for i in range(0, 14, 2)] == [[0, 1]] * 7
    assert len({tuple(small[i : i + 2]) for i in range(0, 14, 2)}) == 2  # in both orders


def test_epochs_rounds_and_clients_draw_differently():
    x, y, starts = rows([30, 30])
    args = (x, y, starts, np.array([30, 30]), numbers([0, 1]), np.array([6, 6]), 10)
    first, second = cut(*args, KEY), cut(*args, key(0).at("train", 4))
    walks = [b.index[i : i + 3, c].ravel() for b in (first, second) for c in (0, 1) for i in (0, 3)]
    assert len({tuple(walk % 30) for walk in walks}) == 8
    assert len({*first.seeds.ravel().tolist(), *second.seeds.ravel().tolist()}) == 24


def test_fold_turns_the_carry_and_keeps_the_rows_of_the_finished():
    """Each client adds up its labels and counts its steps; a None and a constant pass through."""
    sizes, counts, together, alone = cohort([9, 2, 5, 1], 2, epochs=2)

    def step(carry, batch):
        total, steps, fixed, nothing = carry
        scale = 1.0 if batch.scale is None else (batch.scale > 0)
        return total + (batch.y * scale).sum(-1), steps + 1, fixed, nothing

    fixed = np.arange(4.0)
    total, steps, same, nothing = fold(step, (np.zeros(4), np.zeros(4), fixed, None), together)
    assert steps.tolist() == counts.tolist() == [10, 6, 2, 2]
    expected = [2 * -sum(1000.0 * c + i for i in range(n)) for c, n in enumerate(sizes)]
    assert total.tolist() == expected
    assert same is fixed
    assert nothing is None
    one = fold(step, (np.zeros(()), np.zeros(()), None, None), alone[0])
    assert (one[0], one[1]) == (expected[0], 10)


def test_fold_leaves_what_it_was_given():
    _, _, together, _ = cohort([4, 1], 1, epochs=1)
    start = np.zeros(2)
    end = fold(lambda carry, batch: (carry[0] + 1,), (start,), together)
    assert start.tolist() == [0, 0]
    assert end[0].tolist() == [4, 1]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_scales_have_the_dtype_of_the_model(dtype):
    x, y, starts = rows([3])
    args = (x, y, starts, np.array([3]), numbers([0]), np.array([2]), 2, KEY, dtype)
    assert cut(*args).scale.dtype == dtype


def test_gathered_rows_are_the_rows_of_every_step():
    sizes = np.array([7, 5, 5])
    x = np.arange(17 * 2, dtype="float32").reshape(17, 2)
    starts, clients = sizes.cumsum() - sizes, keys.numbers(range(3))
    counts = step_counts(sizes, 2, None, 3)
    batches = cut(x, np.arange(17), starts, sizes, clients, counts, 3, keys.key(0))
    taken = gather(batches, 1 << 20, lambda name, shape, dtype: np.empty(shape, dtype))
    assert taken.gathered and len(taken) == len(batches)
    for (k, one), (j, other) in zip(batches, taken, strict=True):
        assert k == j
        assert np.array_equal(one.x, other.x) and np.array_equal(one.y, other.y)
        assert one.scale is other.scale or np.array_equal(one.scale, other.scale)
    assert gather(batches, 8, np.empty) is batches  # more bytes than allowed


@settings(deadline=None, max_examples=50)
@given(SIZES, BATCH, st.integers(1, 3), st.integers(1, 7))
def test_slices_of_the_steps_are_the_steps(sizes, batch, epochs, few):
    _, _, together, alone = cohort(sizes, batch, epochs)
    for batches in (together, *alone):
        parts = [batches.steps(i, i + few) for i in range(0, len(batches), few)]
        assert sum(map(len, parts)) == len(batches)
        sliced = [step for part in parts for step in part]
        for (k, whole), (j, part) in zip(batches, sliced, strict=True):
            assert k == j
            for a, b in zip(whole, part, strict=True):
                assert (a is None and b is None) or np.array_equal(a, b)
