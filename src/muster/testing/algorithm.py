# SPDX-License-Identifier: Apache-2.0
"""`check_algorithm`: the hooks are pure, and one text for every framework and any cohort."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple, get_type_hints

import numpy as np

from muster.algorithms.algorithm import Algorithm
from muster.errors import MissingExtra, PlanError
from muster.extras import require
from muster.local import Local
from muster.optimizers import SGD, Adam, Momentum
from muster.testing.claim import check_tree, check_value, claim, close, copied, refused, same
from muster.types import LocalWork, Scalar
from muster.vectors import leaves, rebuild, tree_map

__all__ = ["check_algorithm"]

SIZE, CLIENTS, ROUNDS, SHARE = 6, 3, 3, 0.5
LOCALS = (
    Local(steps=1, optimizer=SGD(0.1)),
    Local(epochs=2, batch=4, optimizer=Momentum(0.1)),
    Local(steps=3, batch=1, optimizer=Adam(0.1)),
)
Place = Callable[[Any], Any]


def check_algorithm(algorithm: Algorithm) -> None:
    """Raise `AssertionError` where an algorithm breaks a promise of `Algorithm`.

    >>> from muster.algorithms import FedProx
    >>> check_algorithm(FedProx(mu=0.1))
    """
    check_value(algorithm)
    for local in LOCALS:
        for weighting in ("examples", "equal"):
            refused(PlanError, partial(algorithm.accept, local, weighting))
    _flags(algorithm)
    for dtype in ("float32", "float64"):
        _shapes(algorithm, dtype)
    _still(algorithm)
    matrix = _play(algorithm, np.asarray)
    close(_play(algorithm, np.asarray, alone=True), matrix, 1e-12, "one client (d,), in NumPy")
    for framework, place, precise in _frameworks():
        with precise:
            found = _play(algorithm, place)
            close(found, matrix, 1e-10, f"a cohort (clients, d), in {framework}")
            found = _play(algorithm, place, alone=True)
            close(found, matrix, 1e-10, f"one client (d,), in {framework}")
    if algorithm.modifies_gradient:
        _traced(algorithm)


def _frameworks() -> Iterator[tuple[str, Place, Any]]:
    """Yield the optional ones installed: how an array gets there, and a context for it."""
    with contextlib.suppress(MissingExtra):
        torch = require("torch", extra="torch")
        yield "torch", lambda a: torch.from_numpy(np.array(a)), contextlib.nullcontext()
    with contextlib.suppress(MissingExtra):
        jax = require("jax", extra="jax")
        yield "jax", jax.numpy.asarray, jax.enable_x64(True)


def _traced(algorithm: Algorithm) -> None:
    """Check that JAX compiles `correct` into local training: it may not look at values."""
    try:
        jax = require("jax", extra="jax")
    except MissingExtra:
        return
    x = np.linspace(-1, 1, SIZE, dtype=np.float32)
    made = tree_map(lambda a: a[0], _made(x, 0, "float32"))
    given = made.g, made.w, algorithm.init(x).shared, algorithm.memory(x)
    try:
        found = jax.jit(algorithm.correct)(*given)
    except Exception as error:
        raise AssertionError(
            f"{algorithm}.correct cannot be traced by JAX ({type(error).__name__}); use operators "
            f"and muster.vectors only, and no if on values"
        ) from error
    close(found, algorithm.correct(*given), 1e-5, f"{algorithm}.correct, traced by JAX")


class InventedWork(NamedTuple):
    """Invented work of one round: gradients and local models of a cohort."""

    g: Any
    w: Any
    work: LocalWork


def _made(x: Any, round: int, dtype: str = "float64") -> InventedWork:
    draw = np.random.default_rng(round)
    g, walked = draw.normal(size=(2, CLIENTS, SIZE))
    steps = np.array([[1.0], [4.0], [2.0]])
    work = LocalWork(*(a.astype(dtype) for a in (steps, 0.25 * steps, steps)))
    return InventedWork(g.astype(dtype), (np.asarray(x) + 0.1 * walked).astype(dtype), work)


def _play(algorithm: Algorithm, place: Place, *, alone: bool = False) -> Any:
    """Play a few rounds by hand; return all that came out of any hook, as NumPy arrays."""
    x = place(np.linspace(-1.0, 1.0, SIZE))
    state, blank = algorithm.init(x), algorithm.memory(x)
    memory = tree_map(lambda a: place(np.stack([np.asarray(a)] * CLIENTS)), blank)
    seen: list[Any] = []
    for round in range(ROUNDS):
        made = tree_map(place, _made(np.asarray(state.shared.x), round))
        before = copied((state, memory, made))
        hooks = _one_by_one if alone else _at_once
        bent, payload, memory_new = hooks(algorithm, state.shared, memory, made, place)
        mean = tree_map(lambda a: place(np.asarray(a).mean(0)), payload)
        kept = copied(mean)
        after = algorithm.step(state, mean, SHARE)
        pure = same(copied((state, memory, made)), before) and same(copied(mean), kept)
        claim(pure, f"{algorithm} changes what its hooks are given; let them return new arrays")
        state, memory = after, memory_new
        seen.append(copied((bent, payload, memory, state)))
    return tuple(seen)


def _at_once(
    algorithm: Algorithm, sent: Any, memory: Any, made: InventedWork, place: Place
) -> tuple[Any, Any, Any]:
    bent = algorithm.correct(made.g, made.w, sent, memory)
    return bent, *algorithm.report(made.w, sent, memory, made.work)


def _one_by_one(
    algorithm: Algorithm, sent: Any, memory: Any, made: InventedWork, place: Place
) -> tuple[Any, Any, Any]:
    rows = []
    for i in range(CLIENTS):
        own, mine = tree_map(lambda a, i=i: a[i], made), tree_map(lambda a, i=i: a[i], memory)
        rows.append(_at_once(algorithm, sent, mine, own, place))
    stacked = tree_map(lambda *parts: place(np.stack([np.asarray(p) for p in parts])), *rows)
    return stacked  # type: ignore[no-any-return]


def _flags(algorithm: Algorithm) -> None:
    """Check that `modifies_gradient` and `remembers` say what the hooks do."""
    x = np.ones(SIZE)
    memory = algorithm.memory(x)
    claim(
        (memory is not None) == algorithm.remembers,
        f"{algorithm}.remembers is {algorithm.remembers}, but memory(x) is {memory!r}",
    )
    g = np.arange(SIZE, dtype=float)
    if not algorithm.modifies_gradient:
        bent = algorithm.correct(g, 2 * x, algorithm.init(x).shared, memory)
        claim(
            same(bent, g),
            f"{algorithm}.modifies_gradient is False, but correct changes the gradient",
        )


def _shapes(algorithm: Algorithm, dtype: str) -> None:
    """Check that what comes out has the shapes and the precision of what went in."""
    x = np.linspace(-1, 1, SIZE).astype(dtype)
    state, memory = algorithm.init(x), algorithm.memory(x)
    claim(same(state.shared.x, x), f"{algorithm}.init(x).shared.x is not x")
    check_tree(state, f"the state of {algorithm}")
    check_tree(memory, f"the memory of {algorithm}")
    made = tree_map(lambda a: a[0], _made(x, 0, dtype))
    bent = algorithm.correct(made.g, made.w, state.shared, memory)
    claim(bent.shape == (SIZE,), f"{algorithm}.correct returned shape {bent.shape} for ({SIZE},)")
    payload, kept = algorithm.report(made.w, state.shared, memory, made.work)
    claim(
        type(payload) is algorithm.payload,
        f"{algorithm}.report sends {type(payload).__name__}, not its {algorithm.payload.__name__}",
    )
    kinds = get_type_hints(algorithm.payload)
    for name, field in zip(payload._fields, payload, strict=True):
        shape = (1,) if kinds[name] is Scalar else (SIZE,)
        claim(
            np.shape(field) == shape, f"{algorithm} sends {name} of {np.shape(field)}, not {shape}"
        )
    shapes = [{n: np.shape(leaf) for n, leaf in leaves(m)} for m in (memory, kept)]
    claim(shapes[0] == shapes[1], f"{algorithm}: the shapes of its memory change between rounds")
    after = algorithm.step(state, payload, SHARE)
    check_tree(after, f"the state of {algorithm}")
    names = [[name for name, _ in leaves(s)] for s in (state, after)]
    claim(names[0] == names[1], f"{algorithm}.step returns a state of another shape than init")
    for name, leaf in leaves({"g": bent, "payload": payload, "memory": kept, "state": after}):
        found = np.asarray(leaf).dtype
        claim(found == dtype, f"{algorithm}: {name} became {found} where {dtype} went in")


def _still(algorithm: Algorithm) -> None:
    """Check that still clients leave a finite model; a stored state goes on as it was."""
    x = np.linspace(-1, 1, SIZE)
    state = algorithm.init(x)
    work = LocalWork(*(np.ones(1) for _ in range(3)))
    payload, _ = algorithm.report(x, state.shared, algorithm.memory(x), work)
    zero = tree_map(lambda a: a * 0, payload)
    for name, mean in (("clients that did not move", payload), ("a mean of zeros", zero)):
        after = algorithm.step(state, mean, SHARE)
        finite = all(np.isfinite(leaf).all() for _, leaf in leaves(after))
        claim(finite, f"{algorithm}.step is not finite after {name}")
    stored = rebuild(state, dict(leaves(copied(state))))
    claim(
        same(algorithm.step(stored, payload, SHARE), algorithm.step(state, payload, SHARE)),
        f"{algorithm} goes on otherwise from a state that was stored",
    )
