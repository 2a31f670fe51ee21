# SPDX-License-Identifier: Apache-2.0
"""Tasks in JAX: any pure apply function, with local training compiled as one program.

Steps are a loop inside the program. Clients are a map around it (one after another, so that a
client's parameters stay in the cache, and each takes just its own steps) or, for tiny models
in lockstep, a vmap. Algorithms are traced as they are. The program is compiled once for each
descent and rounded size: rows and steps are rounded up to powers of two, clients and the width
of a batch to `SIZES`. Steps and clients that are added never run, and rows weigh nothing.

Between calls arrays stay NumPy's, which JAX takes as they are: 64-bit mode is then on only
inside the calls of float64 tasks, and float32 tasks beside them keep their bits.
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import accumulate, pairwise
from math import prod
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from muster import keys
from muster.batches import Batches
from muster.errors import DataError, PlanError
from muster.extras import require
from muster.keys import Key
from muster.layout import Entry, Layout
from muster.tasks.task import Squares, check_features, check_labels
from muster.types import Batch, Tree
from muster.vectors import aligned, leaves, rebuild, tree_map

jax = require("jax", extra="jax")
jnp, lax = jax.numpy, jax.lax

__all__ = ["MLP", "Classifier", "Model", "Regressor", "SoftmaxRegression", "dense", "dense_params"]

LOCKSTEP = 1 << 12  # parameters up to which clients with equal steps step together
CHUNK = 1024  # rows evaluated at once
NICE = (1, 1.25, 1.5, 2, 2.5, 3, 4, 5, 6, 8)  # times powers of ten
SIZES: list[int] = sorted(
    {*range(11), *(int(m * 10**e) for e in range(1, 9) for m in NICE), *(1 << e for e in range(31))}
)


class Parts(NDArrayOperatorsMixin):
    """A vector `(d,)` kept as its tensors while it is traced, so that no step cuts or joins it.

    Operators and `muster.vectors` work tensor by tensor; slices read the joined vector.
    """

    def __init__(self, arrays: Any) -> None:
        self.arrays = tuple(arrays)

    @property
    def shape(self) -> tuple[int]:
        """`(d,)`."""
        return (sum(a.size for a in self.arrays),)

    @property
    def flat(self) -> Any:
        """The vector itself."""
        return jnp.concatenate([a.reshape(-1) for a in self.arrays])

    def sum(self, axis: int = -1) -> Any:
        """The sum of all coordinates."""
        return sum(a.sum() for a in self.arrays)

    def __getitem__(self, place: Any) -> Any:
        return self.flat[place]

    def __array_ufunc__(self, ufunc: Any, method: str, *operands: Any, **options: Any) -> Any:
        if method != "__call__" or options:
            return NotImplemented
        rows = zip(*map(self.twin, operands), strict=True)
        return Parts(getattr(jnp, ufunc.__name__)(*row) for row in rows)

    def __array_function__(self, function: Any, types: Any, given: Any, options: Any) -> Any:
        if function is np.zeros_like:
            return Parts(map(jnp.zeros_like, self.arrays))
        return getattr(jnp, function.__name__)(*map(_join, given), **options)

    def twin(self, other: Any) -> tuple[Any, ...]:
        """Another operand tensor by tensor; a single number is repeated."""
        if isinstance(other, Parts):
            return other.arrays
        if np.size(other) == 1:
            return (other,) * len(self.arrays)
        return _cut(other, [a.shape for a in self.arrays]).arrays


jax.tree_util.register_pytree_node(Parts, lambda p: (p.arrays, None), lambda _, a: Parts(a))


def _cut(vector: Any, shapes: Any) -> Parts:
    ends = pairwise([0, *accumulate(map(prod, shapes))])
    return Parts(vector[a:b].reshape(s) for (a, b), s in zip(ends, shapes, strict=True))


def _join(a: Any) -> Any:
    return a.flat if isinstance(a, Parts) else a


def _like(new: Any, old: Any) -> Any:
    return Parts(old.twin(new)) if isinstance(old, Parts) else _join(new)


class Steps(NamedTuple):
    """Batches as arrays of rounded sizes: the rows, and which of them each step sees.

    `index`, `scale` `(clients, steps, B)`, `seeds` `(clients, steps)`, `count` `(clients,)` how
    many steps are real; one alone has no axis of clients. `lockstep` is `()` where all take the
    same steps at once, else None: part of the type that JAX compiles for.
    """

    x: Any
    y: Any
    index: Any
    scale: Any
    seeds: Any
    count: Any
    lockstep: tuple[()] | None


def _steps(batches: Any, size: int, dtype: str) -> Steps:
    """What `muster.batches.Batches` say, for a model of so many parameters."""
    steps, k, width = batches.index.shape
    count = (batches.active[:, None] > np.arange(k)).sum(0, dtype=np.int32)
    together = not batches.alone and size <= LOCKSTEP and bool((count == steps).all())
    seen = np.zeros(len(batches.x), bool)
    seen[batches.index] = True
    shape = (k if together or batches.alone else _up(k), _double(steps, 16), _up(width))
    index, scale = np.zeros(shape, np.int32), np.zeros(shape, dtype)
    seeds = np.zeros(shape[:2], np.uint32)
    index[:k, :steps, :width] = (seen.cumsum() - 1)[batches.index].swapaxes(0, 1)
    shares = 1 / width if batches.scale is None else batches.scale.swapaxes(0, 1)
    scale[:k, :steps, :width] = shares
    seeds[:k, :steps] = batches.seeds.T
    each = (index, scale, seeds, np.pad(count, (0, shape[0] - k)))
    each = tuple(a[0] for a in each) if batches.alone else each
    x, y = (_rows(a, seen, dtype) for a in (batches.x, batches.y))
    placed = [jnp.asarray(a) for a in (x, y, *each)]
    return Steps._make([*placed, () if together else None])


def _rows(a: Any, seen: Any, dtype: str) -> Any:
    """The rows that are seen, in order, then zeros up to a rounded number."""
    rows = np.flatnonzero(seen)
    span = slice(int(rows[0]), int(rows[-1]) + 1)
    part = np.asarray(a[span] if span.stop - span.start == len(rows) else a[rows])
    out = aligned((_double(len(rows), 64), *part.shape[1:]), _kind(part.dtype, dtype))
    out[: len(rows)], out[len(rows) :] = part, 0
    return out


def _double(size: int, least: int) -> int:
    return max(least, 1 << (size - 1).bit_length())


def _up(size: int) -> int:
    return SIZES[bisect_left(SIZES, size)]


def _kind(found: Any, dtype: str) -> Any:
    """Reals in the task's precision, whole numbers in at most 32 bits."""
    if found.kind == "f":
        return np.dtype(dtype)
    return np.dtype(np.int32) if found.kind in "iu" and found.itemsize > 2 else found


def _place(a: Any, dtype: str) -> Any:
    a = np.asarray(a)
    return jnp.asarray(a.astype(_kind(a.dtype, dtype), copy=False))


def _pad(a: Any, more: int) -> Any:
    a = np.asarray(a)
    return jnp.asarray(np.concatenate([a, np.zeros((more, *a.shape[1:]), a.dtype)]) if more else a)


def _per_row(losses: Any) -> Any:
    return losses.reshape(len(losses), -1).mean(1) if losses.ndim > 1 else losses


def _walk(descent: Any, given: Any, carry: Any, steps: Steps) -> Any:
    shared = tree_map(descent.task.parted, given.shared)
    return descent.walk(given._replace(shared=shared), carry, steps)


_program = jax.jit(_walk, static_argnums=0)
_gradient = jax.jit(lambda task, w, batch: task.slope(w, batch), static_argnums=0)
_sums = jax.jit(lambda task, w, *rows: task.sums(w, *rows), static_argnums=0)


@lru_cache(256)
def _known(task: Any) -> tuple[Any, Layout]:
    """The parameters as they are drawn, with shapes in place of arrays; their layout."""
    found: list[Any] = []

    def look() -> None:
        drawn = task.draw(keys.key(0))
        found.append(tree_map(lambda a: jax.ShapeDtypeStruct(a.shape, task.dtype), drawn))

    try:
        jax.eval_shape(look)
    except AttributeError as error:
        raise PlanError(
            f"the parameters of {task} must be arrays in a dict, or in dicts of dicts: {error}"
        ) from error
    entries = tuple(Entry(name, tuple(leaf.shape)) for name, leaf in leaves(found[0]))
    return found[0], Layout(entries, task.dtype)


@lru_cache(256)
def _through(task: Any, *rows: tuple[Any, Any]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of the outputs and losses of two rows, given the shape and dtype of x and of y."""
    try:
        x, y = (jax.ShapeDtypeStruct((2, *shape), dtype) for shape, dtype in rows)
        out = jax.eval_shape(lambda p, x: task.forward(p, x, None), _known(task)[0], x)
        return out.shape, jax.eval_shape(task.losses, out, y).shape
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        (x_shape, x_dtype), (y_shape, y_dtype) = rows
        raise DataError(
            f"rows of shape {x_shape} and {x_dtype}, with labels of shape {y_shape} and {y_dtype}, "
            f"do not go through {task}; change the data or the model: {error}"
        ) from error


class Traced:
    """The shared half of every JAX task.

    Abstract: a task draws its parameters, applies them, and says the losses of its outputs.
    """

    framework: str = "jax"
    fuses: str = "client"
    draws: bool = False
    engines: tuple[str, ...] = ("matrix", "loop")
    dtype: str

    def draw(self, key: Key) -> dict[str, Any]:
        """Fresh parameters: arrays by name, or dicts of them."""
        raise NotImplementedError

    def forward(self, params: dict[str, Any], x: Any, rng: Any) -> Any:
        """Outputs `(rows, ...)`; `rng` is None in evaluation and where nothing is drawn."""
        raise NotImplementedError

    def losses(self, out: Any, y: Any) -> Any:
        """One loss for each row, or for each of its positions."""
        raise NotImplementedError

    def scores(self, out: Any, y: Any) -> dict[str, Any]:
        """Further metrics, one number for each row or position."""
        return {}

    def fits(self, y: Any, out: tuple[int, ...]) -> None:
        """Raise `DataError` for targets that do not fit outputs of this shape."""

    def __post_init__(self) -> None:
        if self.dtype not in ("float32", "float64"):
            raise PlanError(f"{self}: dtype must be 'float32' or 'float64'; choose one")

    def astype(self, dtype: str) -> Self:
        """The same task in the other precision."""
        return dataclasses.replace(self, dtype=dtype)  # type: ignore[type-var]

    @property
    def layout(self) -> Layout:
        """The parameters in the order of the dict, inner names behind outer ones with a dot."""
        with self._precise():
            return _known(self)[1]

    def init(self, key: Key) -> tuple[Any, Any]:
        """Fresh parameters `(d,)` and no buffers `(0,)`."""
        with self._precise():
            drawn = {name: np.asarray(a) for name, a in leaves(self.draw(key))}
        return self.layout.flat(drawn), np.zeros(0, self.dtype)

    def check(self, x: Any, y: Any) -> None:
        """Raise `DataError` for rows that the model cannot take, and for NaN or Inf."""
        x, y = np.asarray(x), np.asarray(y)
        check_features(x, prod(x.shape[1:]), len(y))
        with self._precise():
            out, loss = _through(self, *((a.shape[1:], _kind(a.dtype, self.dtype)) for a in (x, y)))
        if loss[:1] != (2,):
            raise PlanError(
                f"the loss of {self} has shape {loss} for two rows; let it return one loss for "
                f"each row, not their mean"
            )
        self.fits(y, out)

    def flops(self, batch: int) -> float:
        """Six operations a parameter and row: right for dense layers, low for shared weights."""
        return 6.0 * batch * self.layout.size

    def arrays(self, tree: Tree) -> Tree:
        """The tree as it is: JAX takes NumPy arrays, and `run` places them."""
        return tree

    def numpy(self, tree: Tree) -> Tree:
        """NumPy arrays that may be written to."""
        return tree_map(lambda a: np.require(a, requirements="W"), tree)

    def model(self, w: Any) -> dict[str, Any]:
        """Parameters `(d,)` as JAX arrays in the dict that `apply` takes."""
        with self._precise():
            return self._params([jnp.array(a) for a in self.parted(np.asarray(w)).arrays])

    def gradient(self, w: Any, buffers: Any, batch: Batch) -> tuple[Any, Any, Any]:
        """Gradient of the mean loss, like `w`; the loss; the same buffers."""
        if isinstance(w, Parts | jax.core.Tracer):
            return (*self.slope(w, batch), buffers)
        with self._precise():
            x, y = (_place(a, self.dtype) for a in (batch.x, batch.y))
            g, loss = _gradient(self, jnp.asarray(w), batch._replace(x=x, y=y))
        if isinstance(w, np.ndarray):
            g, loss = np.array(g), np.array(loss)
        return g, loss, buffers

    def slope(self, w: Any, batch: Batch) -> tuple[Any, Any]:
        """Gradient and loss of traced values, for one client or, `w` `(clients, d)`, for each."""
        if not isinstance(w, Parts) and w.ndim > 1:
            return jax.vmap(self.slope)(w, batch)  # type: ignore[no-any-return]
        loss, g = jax.value_and_grad(self._mean)(self.parted(w).arrays, batch)
        return (Parts(g) if isinstance(w, Parts) else Parts(g).flat), loss

    def _mean(self, arrays: Any, batch: Batch) -> Any:
        rng = jax.random.key(batch.seed) if self.draws and batch.seed is not None else None
        losses = _per_row(self.losses(self.forward(self._params(arrays), batch.x, rng), batch.y))
        return losses.mean() if batch.scale is None else (losses * batch.scale).sum()

    def loop(self, step: Callable[[Tree, Batch], Tree], carry: Tree, batches: Any) -> Tree:
        """A loop inside the program over each client's own steps; a map or vmap over clients."""
        if isinstance(batches, Batches):
            batches = _steps(batches, self.layout.size, self.dtype)
        one = partial(self._one, step, batches)
        each = (carry, batches.index, batches.scale, batches.seeds)
        if batches.index.ndim == 2:
            return one(batches.count, each)
        if batches.lockstep is not None:
            return jax.vmap(partial(one, batches.count[0]))(each)
        return lax.map(lambda a: one(*a), (batches.count, each))

    def _one(self, step: Any, rows: Steps, count: Any, each: tuple[Any, ...]) -> Any:
        carry, index, scale, seeds = each

        def body(t: Any, now: Any) -> Any:
            x, y = (a.at[index[t]].get(mode="promise_in_bounds") for a in (rows.x, rows.y))
            return tree_map(_like, step(now, Batch(x, y, scale[t], seeds[t])), now)

        carry = lax.fori_loop(0, count, body, tree_map(self.parted, carry))
        return tree_map(_join, carry)

    def run(self, descent: Any, given: Any, carry: Any, batches: Any) -> Any:
        """`descent.walk` as one compiled program; returns NumPy arrays."""
        k = None if batches.alone else len(carry.w)
        given = given._replace(rate=np.asarray(given.rate, self.dtype), round=np.int32(given.round))
        with self._precise():
            steps = _steps(batches, self.layout.size, self.dtype)
            more = 0 if k is None else len(steps.count) - k
            done = _program(descent, given, tree_map(lambda a: _pad(a, more), carry), steps)
        return tree_map(lambda a: np.asarray(a) if k is None else np.asarray(a)[:k], done)

    def evaluate(self, w: Any, buffers: Any, x: Any, y: Any) -> dict[str, float]:
        """Sums over rows of "rows", "loss" and the scores, a block of rows at a time."""
        total, width = {"rows": float(len(x))}, min(CHUNK, _up(len(x)))
        with self._precise():
            w = jnp.asarray(w)
            for start in range(0, len(x), width):
                rows = np.arange(start, start + width)
                block = [_place(a[np.minimum(rows, len(x) - 1)], self.dtype) for a in (x, y)]
                for name, value in _sums(self, w, *block, rows < len(x)).items():
                    total[name] = total.get(name, 0.0) + float(value)
        return total

    def sums(self, w: Any, x: Any, y: Any, real: Any) -> dict[str, Any]:
        """Sums of loss and scores over the real rows, traced."""
        out = self.forward(self._params(self.parted(w).arrays), x, None)
        found = {"loss": self.losses(out, y), **self.scores(out, y)}
        return {name: jnp.where(real, _per_row(a), 0).sum() for name, a in found.items()}

    def parted(self, a: Any) -> Any:
        """A vector `(d,)` as its tensors; anything else as it is."""
        layout = self.layout
        if isinstance(a, Parts) or np.shape(a) != (layout.size,):
            return a
        return _cut(a, [entry.shape for entry in layout.entries])

    def _params(self, arrays: Any) -> dict[str, Any]:
        template, layout = _known(self)
        names = [entry.name for entry in layout.entries]
        return rebuild(template, dict(zip(names, arrays, strict=True)))  # type: ignore[no-any-return]

    def _precise(self) -> Any:
        return jax.enable_x64(self.dtype == "float64")


class _Made(Traced):
    """Parameters and forward pass from the user's functions."""

    make_params: Callable[[Any], dict[str, Any]]
    apply: Callable[..., Any]

    def draw(self, key: Key) -> dict[str, Any]:
        """What make_params draws."""
        return self.make_params(jax.random.key(np.uint32(key.integer() % 2**32)))

    def forward(self, params: dict[str, Any], x: Any, rng: Any) -> Any:
        """What apply says."""
        return self.apply(params, x, rng) if self.draws else self.apply(params, x)


class _Classes(Traced):
    """Cross-entropy over the last axis of the outputs, and hits."""

    def losses(self, out: Any, y: Any) -> Any:
        """−log softmax(out)[y]."""
        hot = y[..., None].astype(np.int32) == jnp.arange(out.shape[-1], dtype=np.int32)
        return -jnp.where(hot, jax.nn.log_softmax(out), 0).sum(-1)

    def scores(self, out: Any, y: Any) -> dict[str, Any]:
        """Accuracy."""
        return {"accuracy": (out.argmax(-1) == y).astype(out.dtype)}

    def fits(self, y: Any, out: tuple[int, ...]) -> None:
        """Labels are whole numbers below the width of the output."""
        check_labels(y.reshape(-1), out[-1])


@dataclass(frozen=True)
class Model(_Made):
    """Any model and loss: `make_params(key)`, `apply(params, x)` and `loss(outputs, y)` by row.

    `make_params` returns a dict of arrays or of such dicts. With `draws=True`, apply is called
    as `apply(params, x, rng)`, where `rng` is None in evaluation. Rows must not see each other:
    a short batch is filled up with rows that weigh nothing.
    """

    make_params: Callable[[Any], dict[str, Any]]
    apply: Callable[..., Any]
    loss: Callable[[Any, Any], Any]
    dtype: str = "float32"
    draws: bool = False

    def losses(self, out: Any, y: Any) -> Any:
        """The user's."""
        return self.loss(out, y)


@dataclass(frozen=True)
class Classifier(_Classes, _Made):
    """A model whose last axis of outputs is classes: cross-entropy and accuracy."""

    make_params: Callable[[Any], dict[str, Any]]
    apply: Callable[..., Any]
    dtype: str = "float32"
    draws: bool = False


@dataclass(frozen=True)
class Regressor(_Made):
    """A model of real targets: squared error, averaged over the outputs of a row."""

    make_params: Callable[[Any], dict[str, Any]]
    apply: Callable[..., Any]
    dtype: str = "float32"
    draws: bool = False

    def losses(self, out: Any, y: Any) -> Any:
        """(out − y)²."""
        return (out - y.reshape(out.shape)) ** 2

    def scores(self, out: Any, y: Any) -> dict[str, Any]:
        """|out − y|."""
        return {"error": abs(out - y.reshape(out.shape))}

    def fits(self, y: Any, out: tuple[int, ...]) -> None:
        """One finite number for each output."""
        Squares().check(y, prod(out[1:]))


@dataclass(frozen=True)
class MLP(_Classes):
    """Dense layers with relu between them, as `muster.tasks.numpy.MLP`: same names, same start.

    >>> MLP((784, 200, 200, 10)).layout.size
    199210
    """

    sizes: tuple[int, ...]
    dtype: str = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "sizes", tuple(self.sizes))
        if len(self.sizes) < 2 or min(self.sizes) < 1:
            raise PlanError(f"{self}: give the width of the input, the hidden layers, the output")

    def draw(self, key: Key) -> dict[str, Any]:
        """Uniform on ±1/sqrt(fan-in), torch's default, drawn in float64 layer by layer."""
        draw = key.generator().uniform
        return {
            "layers": {
                str(i): {
                    "weight": draw(-(a**-0.5), a**-0.5, (b, a)),
                    "bias": draw(-(a**-0.5), a**-0.5, b),
                }
                for i, (a, b) in enumerate(pairwise(self.sizes))
            }
        }

    def forward(self, params: dict[str, Any], x: Any, rng: Any) -> Any:
        """Layer by layer."""
        x, layers = x.reshape(len(x), -1), list(params["layers"].values())
        for layer in layers[:-1]:
            x = jax.nn.relu(dense(layer, x))
        return dense(layers[-1], x)


@dataclass(frozen=True)
class SoftmaxRegression(_Classes):
    """One dense layer that starts at zero, as `muster.tasks.numpy.SoftmaxRegression`.

    >>> [entry.name for entry in SoftmaxRegression(60, 10).layout.entries]
    ['weight', 'bias']
    """

    features: int
    classes: int
    dtype: str = "float32"

    def draw(self, key: Key) -> dict[str, Any]:
        """Zeros: the problem is convex."""
        return {"weight": np.zeros((self.classes, self.features)), "bias": np.zeros(self.classes)}

    def forward(self, params: dict[str, Any], x: Any, rng: Any) -> Any:
        """The scores of the classes."""
        return dense(params, x.reshape(len(x), -1))


def dense(layer: dict[str, Any], x: Any) -> Any:
    """`x W^T + b` with torch's `Linear` layout: "weight" `(out, in)`, "bias" `(out,)`."""
    return x @ layer["weight"].T + layer["bias"]


def dense_params(key: Any, inputs: int, outputs: int) -> dict[str, Any]:
    """A dense layer from a JAX key, uniform on ±1/sqrt(inputs), torch's default.

    >>> dense_params(jax.random.key(0), 3, 2)["weight"].shape
    (2, 3)
    """
    one, two = jax.random.split(key)
    bound = inputs**-0.5
    weight = jax.random.uniform(one, (outputs, inputs), minval=-bound, maxval=bound)
    return {
        "weight": weight,
        "bias": jax.random.uniform(two, (outputs,), minval=-bound, maxval=bound),
    }
