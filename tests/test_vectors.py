# SPDX-License-Identifier: Apache-2.0
"""One text for NumPy, torch and JAX arrays; trees come apart and together again."""

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster import vectors


class Pair(NamedTuple):
    left: object
    right: object


def make(framework):
    """How to build an array of a framework, or skip."""
    if framework == "numpy":
        return np.asarray
    module = pytest.importorskip("torch" if framework == "torch" else "jax.numpy")
    return module.tensor if framework == "torch" else module.asarray


FRAMEWORKS = pytest.mark.parametrize("framework", ["numpy", "torch", "jax"])
ROWS = [[3.0, -4.0], [0.0, 2.25]]


@FRAMEWORKS
def test_an_array_knows_its_namespace(framework):
    expected = {"numpy": "numpy", "torch": "torch", "jax": "jax.numpy"}[framework]
    assert vectors.of(make(framework)(ROWS)).__name__ == expected


@FRAMEWORKS
@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        (vectors.norm, [[5.0], [2.25]]),
        (vectors.sign, [[1, -1], [0, 1]]),
        (vectors.absolute, [[3, 4], [0, 2.25]]),
        (vectors.zeros, [[0, 0], [0, 0]]),
        (lambda x: vectors.sqrt(x * x), [[3, 4], [0, 2.25]]),
        (lambda x: vectors.where(x > 0, x, -x), [[3, 4], [0, 2.25]]),
    ],
)
def test_operations_agree_and_stay_in_their_framework(framework, operation, expected):
    x = make(framework)(ROWS)
    result = operation(x)
    assert type(result) is type(x)
    assert result.dtype == x.dtype
    np.testing.assert_allclose(np.asarray(result), expected, rtol=1e-6)


@FRAMEWORKS
def test_the_norm_of_one_vector_keeps_an_axis(framework):
    assert tuple(vectors.norm(make(framework)([3.0, 4.0])).shape) == (1,)


@pytest.mark.parametrize("shape", [(1,), (3, 5), (0, 4), (2, 0)])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
def test_aligned_arrays_start_at_a_cache_line(shape, dtype):
    for _ in range(8):
        array = vectors.aligned(shape, dtype)
        assert array.size == 0 or array.ctypes.data % 64 == 0
        assert (array.shape, array.dtype) == (shape, dtype)
        array[...] = 1  # owned and writeable


@pytest.mark.parametrize("width", [1, 2, 33])
def test_in_order_adds_first_to_last(width):
    """Float32 sums depend on the order: compared bit for bit with a plain loop."""
    rows = np.random.default_rng(width).lognormal(0, 6, (500, width)).astype(np.float32)
    total = rows[0]
    for row in rows[1:]:
        total = total + row
    np.testing.assert_array_equal(vectors.in_order(rows), total)
    other = vectors.in_order(rows[::-1])
    assert (other != total).any()  # the data can tell one order from another


TREES = st.recursive(
    st.none() | st.integers(),
    lambda inner: (
        st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
        | st.builds(Pair, inner, inner)
    ),
    max_leaves=8,
)


@settings(deadline=None)
@given(TREES)
def test_rebuild_undoes_leaves(tree):
    found = list(vectors.leaves(tree))
    assert len({name for name, _ in found}) == len(found)
    assert vectors.rebuild(tree, dict(found)) == tree


@settings(deadline=None)
@given(TREES)
def test_tree_map_keeps_the_shape_and_maps_every_leaf(tree):
    mapped = vectors.tree_map(lambda a, b: a + 2 * b, tree, tree)
    assert type(mapped) is type(tree)
    names = [name for name, _ in vectors.leaves(tree)]
    assert [name for name, _ in vectors.leaves(mapped)] == names
    assert [v for _, v in vectors.leaves(mapped)] == [3 * v for _, v in vectors.leaves(tree)]


def test_named_tuples_are_named_in_paths():
    tree = Pair(1, {"c": (2, None, 3)})
    assert dict(vectors.leaves(tree)) == {"left": 1, "right.c.0": 2, "right.c.2": 3}
    assert dict(vectors.leaves(5, "x")) == {"x": 5}


def test_a_missing_leaf_is_an_error():
    with pytest.raises(KeyError):
        vectors.rebuild((0, 0), {"0": 1})


def test_divided_uses_the_memory_of_a_float_array_alone():
    own = np.array([1.0, 3.0], "float32")
    assert (
        vectors.divided(own, 3.0) is own and own.tobytes() == (np.float32([1, 3]) / 3.0).tobytes()
    )
    kept, frozen = np.array([1, 3]), np.array([1.0, 3.0])
    frozen.flags.writeable = False
    assert (
        vectors.divided(kept, 2.0).tolist() == vectors.divided(frozen, 2.0).tolist() == [0.5, 1.5]
    )
    assert kept.tolist() == [1, 3] and frozen.tolist() == [1.0, 3.0]
