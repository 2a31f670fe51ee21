# SPDX-License-Identifier: Apache-2.0
"""Plain values as bytes: what goes in comes out, and what would not is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.errors import DataError
from muster.plain import packed, unpacked

NUMBERS = st.integers(-(2**63), 2**70) | st.floats(allow_nan=False)
LEAVES = st.none() | st.booleans() | NUMBERS | st.text()
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text() | st.integers(), inner)
    ),
)


@given(VALUES)
def test_a_value_comes_back_as_it_was(value):
    again = unpacked(packed(value))
    assert again == value and type(again) is type(value)
    assert repr(again) == repr(value)


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint64", "float32", ">f8", "float16"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3)])
def test_an_array_comes_back_with_its_shape_and_may_be_written_to(dtype, shape):
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    (again,) = unpacked(packed([array]))
    assert (again.shape, again.dtype) == (array.shape, array.dtype.newbyteorder("<"))
    np.testing.assert_array_equal(again, array)
    again[...] = 0


def test_numbers_of_numpy_are_numbers():
    assert unpacked(packed({np.int64(3): np.float32(0.5)})) == {3: 0.5}


def test_nothing_is_nothing():
    assert packed(None) is None and unpacked(None) is None


@pytest.mark.parametrize(
    "value", [{1, 2}, object(), 1j, b"x", {1.5: 0}, {True: 0}, np.array(["x"]), [[{(): 1}]]]
)
def test_what_would_not_come_back_is_refused(value):
    with pytest.raises(DataError, match="between rounds; use"):
        packed(value)


@pytest.mark.parametrize(
    "text",
    ["{", '{"what": 1}', "{}", '{"dict": 3}', '{"array": ["<f8", [2], "AAAA"]}', '{"tuple": 1}'],
)
def test_other_bytes_are_refused(text):
    with pytest.raises(DataError, match="no plain value"):
        unpacked(np.frombuffer(text.encode(), np.uint8))
