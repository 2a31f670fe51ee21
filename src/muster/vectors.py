# SPDX-License-Identifier: Apache-2.0
"""The few operations beyond operators that must work on NumPy, torch and JAX arrays alike.

The last axis holds parameters, leading axes hold clients. No framework is imported here: an
array is asked for its own module, so a torch tensor stays a torch tensor and a traced JAX
value stays traced. Trees of arrays are None, arrays, numbers, tuples, named tuples and dicts.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import numpy as np

__all__ = [
    "absolute",
    "aligned",
    "along",
    "divided",
    "in_order",
    "leaves",
    "norm",
    "of",
    "rebuild",
    "sign",
    "sqrt",
    "tree_map",
    "where",
    "zeros",
]


def of(x: Any) -> Any:
    """Return the namespace (numpy, torch or jax.numpy) that an array belongs to.

    >>> of(np.zeros(2)).__name__
    'numpy'
    """
    root = type(x).__module__.split(".")[0]
    if root == "torch":
        return sys.modules["torch"]
    if root in ("jax", "jaxlib"):
        return sys.modules["jax.numpy"]
    return np


def aligned(shape: tuple[int, ...], dtype: Any) -> Any:
    """Return an uninitialised NumPy array at a multiple of 64 bytes, as kernels like it.

    >>> aligned((2, 3), "float32").ctypes.data % 64
    0
    """
    size = prod(shape) * np.dtype(dtype).itemsize
    raw = np.empty(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)


def along(x: Any, direction: Any, rate: Any) -> Any:
    """Return x + rate · direction, in as few passes over memory as the library allows.

    >>> along(np.ones(1), np.ones(1), 0.5)
    array([1.5])
    """
    library = of(x)
    if library is np and isinstance(direction, np.ndarray):
        moved = direction * rate
        return np.add(moved, x, out=moved) if moved.dtype == x.dtype else moved + x
    if library.__name__ == "torch" and isinstance(rate, (int, float)):
        return library.add(x, direction, alpha=rate)
    return x + rate * direction


def divided(x: Any, by: float) -> Any:
    """Return x / by; a NumPy array that nobody needs any more lends its memory to the result.

    >>> divided(np.array([1.0, 2.0]), 2.0)
    array([0.5, 1. ])
    """
    if isinstance(x, np.ndarray) and x.dtype.kind == "f" and x.flags.writeable:
        return np.divide(x, by, out=x)
    return x / by


def in_order(rows: Any) -> Any:
    """Return the sum over the first axis of NumPy rows `(k, d)`, added strictly from first to last.

    >>> in_order(np.array([[1.0, 2.0], [3.0, 4.0]]))
    array([4., 6.])
    """
    if rows.shape[-1] > 1:  # numpy reduces the outer axis row by row, unless it is the inner one
        return np.add.reduce(rows, axis=0)
    return np.add.accumulate(rows, axis=0)[-1]


def sqrt(x: Any) -> Any:
    """Return the element-wise square root."""
    return of(x).sqrt(x)


def sign(x: Any) -> Any:
    """Return the element-wise sign: -1, 0 or 1."""
    return of(x).sign(x)


def absolute(x: Any) -> Any:
    """Return the element-wise absolute value."""
    return of(x).abs(x)


def zeros(x: Any) -> Any:
    """Return zeros of the shape, dtype and library of `x`."""
    return of(x).zeros_like(x)


def where(mask: Any, a: Any, b: Any) -> Any:
    """Return `a` where the mask holds, else `b`."""
    return of(a).where(mask, a, b)


def norm(x: Any) -> Any:
    """Return the L2 norm over the last axis: `(..., d)` to `(..., 1)`.

    >>> norm(np.array([3.0, 4.0]))
    array([5.])
    """
    return sqrt((x * x).sum(-1))[..., None]


def tree_map(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """Apply a function to every array of a tree (and its twins), keeping the tree's shape.

    >>> tree_map(lambda a: a + 1, (1, None, {"c": 2}))
    (2, None, {'c': 3})
    """
    if tree is None:
        return None
    if isinstance(tree, dict):
        return {k: tree_map(function, v, *(o[k] for o in others)) for k, v in tree.items()}
    if isinstance(tree, tuple):
        parts = [tree_map(function, v, *(o[i] for o in others)) for i, v in enumerate(tree)]
        return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)
    return function(tree, *others)


def leaves(tree: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every array of a tree with its path, in a fixed order.

    >>> dict(leaves({"a": (1, None), "b": 2}))
    {'a.0': 1, 'b': 2}
    """
    if tree is None:
        return
    if isinstance(tree, dict):
        parts = [(str(k), v) for k, v in tree.items()]
    elif isinstance(tree, tuple):
        fields = getattr(tree, "_fields", None) or range(len(tree))
        parts = [(str(k), v) for k, v in zip(fields, tree, strict=True)]
    else:
        yield name, tree
        return
    for part, value in parts:
        yield from leaves(value, f"{name}.{part}" if name else part)


def rebuild(template: Any, arrays: dict[str, Any], name: str = "") -> Any:
    """Return the inverse of `leaves`: a tree of the template's shape with these arrays in it.

    Raises `KeyError` when an array is missing.

    >>> rebuild((0, {"b": 0}), {"0": 5, "1.b": 7})
    (5, {'b': 7})
    """
    names = iter([path for path, _ in leaves(template, name)])
    return tree_map(lambda _: arrays[next(names)], template)
