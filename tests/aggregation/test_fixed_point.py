# SPDX-License-Identifier: Apache-2.0
"""Sums in fixed point: one value whatever the order, and never far from the exact sum."""

import json
import math
import pickle
import tracemalloc
from fractions import Fraction
from functools import reduce

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.aggregation import fixed_point
from muster.aggregation.fixed_point import LARGEST, MOST, ExactFloat, FixedPointSum
from muster.errors import SumError

SIZE = 5
WIDE = {"float32": float(np.finfo(np.float32).max), "float64": LARGEST}
WORDS = {"float32": 2, "float64": 3}


def numbers(dtype):
    """Finite numbers of every kind: of all sizes, around one size, near the cuts, and zero."""
    width = int(dtype[5:])
    anything = st.floats(-WIDE[dtype], WIDE[dtype], width=width)
    small = st.floats(-1000, 1000, width=width)
    edges = st.builds(
        lambda sign, power, step: float(
            np.nextafter(np.dtype(dtype).type(sign * 2.0**power), np.dtype(dtype).type(step))
        ),
        st.sampled_from([-1, 1]),
        st.sampled_from([-121, -120, -81, -41, -40, -1, 0, 39, 40, 79, 80, 119, 120]),
        st.sampled_from([-np.inf, 0.0, np.inf]),
    )
    return st.one_of(anything, small, edges, st.sampled_from([0.0, 1e30, 1e-30, -1e30, 1.0]))


@st.composite
def tables(draw):
    dtype = draw(st.sampled_from(["float32", "float64"]))
    count = draw(st.integers(1, 12))
    each = st.lists(numbers(dtype), min_size=SIZE, max_size=SIZE)
    return np.array(draw(st.lists(each, min_size=count, max_size=count)), dtype)


@pytest.fixture(autouse=True, scope="module")
def small_blocks():
    """Three blocks in five coordinates, and few rows at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fixed_point, "BLOCK", 2)
        patch.setattr(fixed_point, "TOGETHER", 6)
        yield


def summed(rows, dtype=None):
    total = FixedPointSum(rows.shape[1], dtype or rows.dtype)
    total.deposit(rows)
    return total


def value(total):
    """Its value, or that it is too large for the dtype: that, too, depends on no order."""
    try:
        return total.value().tobytes()
    except SumError:
        return None


def doubles(total):
    """The sum in float64, before it is rounded to its dtype."""
    return np.concatenate([total._float(b, cut) for b, cut in enumerate(total._blocks())])


@st.composite
def orders(draw):
    rows = draw(tables())
    return rows, draw(st.permutations(range(len(rows)))), draw(st.randoms(use_true_random=False))


@given(orders())
def test_any_order_grouping_and_tree_gives_the_same_bits(drawn):
    rows, order, chance = drawn
    wanted = value(summed(rows))
    assert value(summed(rows[list(order)])) == wanted
    one_by_one = FixedPointSum(SIZE, rows.dtype)
    for i in order:
        one_by_one.deposit(rows[i])
    assert value(one_by_one) == wanted
    tree = [summed(rows[i : i + 1]) for i in order]
    while len(tree) > 1:  # two of them, whichever, become one; on the way they may travel
        a, b = (tree.pop(chance.randrange(len(tree))) for _ in range(2))
        a.merge(pickle.loads(pickle.dumps(b)))
        if chance.random() < 0.3:
            a.deposit(np.zeros((2, SIZE), rows.dtype))  # zeros change nothing
        tree.append(a)
    assert value(tree[0]) == wanted


@given(tables())
def test_the_error_is_bounded(rows):
    total = summed(rows)
    bits = 40 * (WORDS[str(rows.dtype)] - 1)
    found, n = doubles(total), len(rows)
    for i in range(SIZE):
        exact = sum(map(Fraction, rows[:, i].tolist()))
        block = rows[:, i // 2 * 2 : i // 2 * 2 + 2]
        largest = Fraction(float(np.abs(block.astype(float)).max()))
        rounded = n * max(largest * Fraction(2) ** -bits, Fraction(2) ** -1041)
        assert abs(Fraction(found[i]) - exact) <= rounded + abs(exact) * Fraction(2) ** -51
        assert (
            largest * Fraction(2) ** -bits * 2 >= Fraction(total.units[i // 2]) or largest < 2e-300
        )


@given(tables())
def test_the_value_is_that_in_its_dtype(rows):
    total = summed(rows)
    with np.errstate(over="ignore"):
        wanted = doubles(total).astype(rows.dtype)
    if np.isfinite(wanted).all():
        assert total.value().tobytes() == wanted.tobytes()
    else:
        with pytest.raises(SumError, match=r"a sum of \d+ replies is beyond .*clip"):
            total.value()


def test_by_hand():
    """In float32, 1 + 2^-38 + 2^-38 − 1 is 0; the second unit, 2^-40, holds the small ones."""
    rows = np.float32([[1.0], [2.0**-38], [2.0**-38], [-1.0], [2.0**-42]])
    assert summed(rows).value()[0] == 2.0**-37  # the last is below half a unit
    assert summed(rows[1:3]).units == [2.0**-40 * 2.0**-40]
    assert summed(rows).units == [2.0**-40]
    assert summed(rows[-1:]).value()[0] == 2.0**-42


def test_half_a_unit_goes_to_the_even_one_in_any_company():
    """At a tie float sums in place look at what is there already; these do not."""
    half = 2.0**-41
    alone = summed(np.float32([[1.0], [half]])).value()
    beside = summed(np.float32([[1.0 + 2.0**-23], [half]])).value()
    assert (alone[0], beside[0]) == (1.0, 1.0 + 2.0**-23)
    assert summed(np.float64([[1.0], [half], [2.0**-81]])).value()[0] == 1.0 + half


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_most_replies_of_the_largest_multiple_do_not_overflow(dtype):
    high = np.array([2.0**39, -(2.0**39)], dtype)
    total = summed(np.tile(high, (2, 1)))
    for _ in range(22):
        total.merge(pickle.loads(pickle.dumps(total)))
    assert total.replies == MOST
    assert total.value().tolist() == [2.0**62, -(2.0**62)]
    for more in (lambda: total.deposit(high), lambda: total.merge(summed(high[None]))):
        with pytest.raises(SumError, match=r"8388608 replies, and 8388609 came; .*sum='float'"):
            more()


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf, 2 * LARGEST, -2 * LARGEST])
def test_what_is_none_is_refused(odd):
    for at in range(SIZE):
        rows = np.zeros((2, SIZE))
        rows[1, at] = odd
        with pytest.raises(SumError, match="is no number that a sum in fixed point has room for"):
            summed(rows)


def test_the_largest_is_not_refused():
    rows = np.float64([[LARGEST, -LARGEST], [LARGEST, 1.0]])
    assert summed(rows).value().tolist() == [2 * LARGEST, -LARGEST]


@pytest.mark.parametrize("size", [0, 1, 4, 5])
def test_of_any_size(size):
    total = FixedPointSum(size, "float32")
    assert total.value().tolist() == [0.0] * size
    total.deposit(np.ones((7, size), np.float32))
    assert total.value().tolist() == [7.0] * size
    assert (total.value().dtype, total.replies) == (np.float32, 7)


@pytest.mark.parametrize(("dtype", "held"), [("float32", 16), ("float64", 24)])
def test_a_sum_holds_sixteen_bytes_a_coordinate(dtype, held):
    """Or twenty-four; while rows are added, too, beside what one block of them needs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fixed_point, "BLOCK", 1 << 14)
        size, row = 1 << 20, np.ones(1 << 20, dtype)
        tracemalloc.start()
        try:
            total = FixedPointSum(size, dtype)
            for _ in range(3):
                total.deposit(row)
            total.merge(total)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert held * size <= peak < (held + 1.5) * size


def test_rows_may_be_read_only_and_strided():
    rows = np.arange(40, dtype=np.float32).reshape(4, 10)[:, ::2]
    rows.flags.writeable = False
    assert summed(rows).value().tolist() == rows.sum(0).tolist()


floats = st.floats(allow_nan=True, allow_infinity=True)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1), st.randoms())
def test_exact_floats_are_the_nearest_to_the_exact_sum(given, chance):
    total = reduce(lambda a, b: a + b, given[1:], ExactFloat(given[0]))
    try:
        wanted = math.fsum(given)
    except OverflowError:
        return  # it has no room for what is between
    assert total == wanted
    chance.shuffle(given)
    half = len(given) // 2
    left = sum(given[:half], ExactFloat(0.0))
    both = pickle.loads(pickle.dumps(left)) + sum(given[half:], ExactFloat(0.0))
    assert (both, both.units) == (total, total.units)
    assert json.loads(json.dumps(total)) == total


@given(st.lists(floats, min_size=1, max_size=8), st.randoms())
def test_exact_floats_of_anything_add_up_in_any_order(given, chance):
    total = sum(given, ExactFloat(0.0))
    chance.shuffle(given)
    again = sum(given, ExactFloat(0.0))
    assert again == total or (math.isnan(again) and math.isnan(total))
    if any(map(math.isnan, given)) or {math.inf, -math.inf} <= set(given):
        assert math.isnan(total)
    elif {math.inf, -math.inf} & set(given):
        assert math.isinf(total)
