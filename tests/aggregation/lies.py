# SPDX-License-Identifier: Apache-2.0
"""Rows to judge rules by, and the laws that every rule of coordinates keeps."""

import numpy as np
from hypothesis import strategies as st

# Seven rows, the last two of them lies.
REFERENCE = np.array(
    [
        [1, 2, 0],
        [1.2, 1.9, 0.1],
        [0.9, 2.2, -0.1],
        [1.1, 2.1, 0.05],
        [0.95, 1.85, -0.05],
        [100, -50, 30],
        [-3, 8, 1],
    ]
)
HONEST = REFERENCE[:5]


@st.composite
def rows_of(draw, least=1):
    """From `least` to nine rows of one to six numbers."""
    count, size = draw(st.integers(least, 9)), draw(st.integers(1, 6))
    return np.random.default_rng(draw(st.integers(0, 2**32 - 1))).normal(size=(count, size))


def moved(rule, rows):
    """R(x + c) = R(x) + c, R(−x) = −R(x), R(a·x) = a·R(x), and the order of rows is nothing."""
    found, shift = rule.aggregate(rows), np.arange(rows.shape[1])
    for other, wanted in (
        (rows + shift, found + shift),
        (-rows, -found),
        (rows * 7.0, found * 7.0),
        (rows[::-1], found),
        (np.repeat(rows[:1], 5, axis=0), rows[0]),
    ):
        np.testing.assert_allclose(rule.aggregate(other), wanted, atol=1e-9)


def within(rule, rows, count):
    """`count` lies of any size leave each coordinate between two honest values."""
    for lie in (1e30, -1e30):
        told = rows.copy()
        told[:count] = lie
        found, honest = rule.aggregate(told), rows[count:]
        assert (found >= honest.min(0) - 1e-12).all()
        assert (found <= honest.max(0) + 1e-12).all()
