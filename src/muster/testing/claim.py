# SPDX-License-Identifier: Apache-2.0
"""Claims: a check says in one sentence that a promise is broken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from muster.errors import MusterError
from muster.identity.contents import unsaid
from muster.plan.registry import CATALOGUE, to_value
from muster.vectors import leaves, rebuild, tree_map

__all__ = ["check_tree", "check_value", "claim", "close", "closed", "copied", "refused", "same"]


def claim(holds: Any, sentence: str) -> None:
    """Raise `AssertionError` with the sentence unless it holds.

    >>> claim(1 < 2, "one is less than two")
    """
    if not holds:
        raise AssertionError(sentence)


@runtime_checkable
class _Closes(Protocol):
    """A thing that holds something to let go of."""

    def close(self) -> None:
        """Let go of it."""


def closed(thing: object) -> None:
    """Close what can be closed; leave anything else as it is."""
    if isinstance(thing, _Closes):
        thing.close()


def copied(tree: Any) -> Any:
    """Return the tree as NumPy arrays of its own."""
    return tree_map(lambda a: np.asarray(a).copy(), tree)


def same(a: Any, b: Any) -> bool:
    """Return whether two trees have the same names, dtypes, shapes and bits."""
    one, two = dict(leaves(a)), dict(leaves(b))
    return one.keys() == two.keys() and all(
        np.asarray(one[name]).dtype == np.asarray(two[name]).dtype
        and np.array_equal(np.asarray(one[name]), np.asarray(two[name]), equal_nan=True)
        for name in one
    )


def close(found: Any, wanted: Any, tolerance: float, what: str) -> None:
    """Claim that two trees agree to `tolerance`, relative to numbers above one."""
    one, two = dict(leaves(found)), dict(leaves(wanted))
    claim(one.keys() == two.keys(), f"{what}: it has {sorted(one)}, expected {sorted(two)}")
    for name, value in one.items():
        a, b = np.asarray(value, float), np.asarray(two[name], float)
        where = f"{what}{f' ({name})' if name else ''}"
        claim(a.shape == b.shape, f"{where}: its shape is {a.shape}, expected {b.shape}")
        error = float((np.abs(a - b) / np.maximum(1, np.abs(b))).max(initial=0))
        claim(error <= tolerance, f"{where}: off by {error:.2g}, at most {tolerance:g} is allowed")


def check_tree(tree: Any, what: str) -> None:
    """Claim that a state or memory survives being stored as arrays by name."""
    again = rebuild(tree, {name: np.asarray(leaf) for name, leaf in leaves(tree)})
    claim(
        same(again, tree) and type(again) is type(tree),
        f"{what} is lost when it is stored: let it be None, arrays, tuples and dicts of arrays",
    )


def check_value(thing: Any) -> None:
    """Claim that a part of a plan is a frozen value which prints, compares and travels."""
    kind = type(thing)
    frozen = is_dataclass(thing) and kind.__dataclass_params__.frozen
    claim(frozen, f"{kind.__name__} is not a frozen dataclass; write @dataclass(frozen=True)")
    known = {**CATALOGUE, kind.__name__: kind}
    try:
        again = eval(repr(thing), {"__builtins__": {}, **known})
    except (NameError, SyntaxError, TypeError) as error:
        raise AssertionError(f"repr {thing!r} does not rebuild the value: {error}") from error
    claim(again == thing, f"repr {thing!r} rebuilds another value, {again!r}")
    claim(hash(again) == hash(thing), f"{thing!r} and its equal copy have different hashes")
    names = [f.name for f in fields(thing) if not unsaid(f, vars(thing)[f.name])]
    claim(list(to_value(thing))[1:] == names, f"the recorded value of {thing!r} has not its fields")


def refused(kind: type[MusterError], call: Callable[[], Any]) -> str | None:
    """Return the message with which a call is refused, None when it passes.

    Any error of another kind is a broken promise.
    """
    try:
        call()
    except kind as error:
        claim(str(error).strip(), f"{kind.__name__} was raised without a sentence in it")
        return str(error)
    except Exception as error:
        raise AssertionError(
            f"{type(error).__name__} was raised instead of {kind.__name__}: {error}"
        ) from error
    return None
