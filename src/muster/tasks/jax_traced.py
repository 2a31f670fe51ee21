# SPDX-License-Identifier: Apache-2.0
"""The shared half of every JAX task: gradients, compiled rounds, evaluation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from math import prod
from typing import Any, ClassVar, Self

import numpy as np

from muster import keys
from muster.batches import Batches
from muster.errors import DataError, PlanError
from muster.extras import require
from muster.keys import Key
from muster.layout import Layout, TensorEntry
from muster.metrics import Metric
from muster.metrics.head import OutputHead
from muster.metrics.sums import MetricTally
from muster.spelling import Spelled
from muster.tasks.jax_steps import Parts, Steps, apart, join, kind, like, pack, pad, place, rounded
from muster.tasks.task import FunctionTask, Keyed, check_features
from muster.types import Batch, TaskTraits, Tree
from muster.vectors import leaves, rebuild, tree_map

jax = require("jax", extra="jax")
jnp, lax = jax.numpy, jax.lax

__all__ = ["Traced"]

CHUNK = 1024  # rows evaluated at once


def _per_row(losses: Any) -> Any:
    return losses.reshape(len(losses), -1).mean(1) if losses.ndim > 1 else losses


def _walk(keyed: Keyed, given: Any, carry: Any, steps: Steps) -> Any:
    descent = keyed.value
    shared = tree_map(descent.task.parted, given.shared)
    return descent.walk(given._replace(shared=shared), carry, steps)


_program = jax.jit(_walk, static_argnums=0)
_gradient = jax.jit(lambda keyed, w, batch: keyed.value.slope(w, batch), static_argnums=0)
_sums = jax.jit(lambda keyed, w, *rows: keyed.value.sums(w, *rows), static_argnums=0)


@lru_cache(256)
def _known(keyed: Keyed) -> tuple[Any, Layout]:
    """Return the parameters as they are drawn, with shapes in place of arrays; their layout."""
    task = keyed.value
    found: list[Any] = []

    def look() -> None:
        drawn = task.draw(keys.key(0))
        try:
            found.append(tree_map(lambda a: jax.ShapeDtypeStruct(a.shape, task.dtype), drawn))
        except AttributeError as error:  # of what was drawn, and not from inside the user's code
            raise PlanError(
                f"the parameters of {task} must be arrays in a dict, or in dicts of dicts: {error}"
            ) from error

    jax.eval_shape(look)
    entries = tuple(TensorEntry(name, tuple(leaf.shape)) for name, leaf in leaves(found[0]))
    return found[0], Layout(entries, task.dtype)


@lru_cache(256)
def _reads_integers(keyed: Keyed, shape: tuple[int, ...], dtype: Any) -> bool:
    """Return whether rows of whole numbers go through the model, or reals do not either."""
    task = keyed.value
    for given, reals in ((dtype, False), (task.dtype, True)):
        x = jax.ShapeDtypeStruct((2, *shape), given)
        try:
            jax.eval_shape(lambda p, x: task.forward(p, x, None), _known(keyed)[0], x)
        except (TypeError, ValueError, LookupError, AttributeError):
            continue
        return not reals
    return True


@lru_cache(256)
def _through(keyed: Keyed, *rows: tuple[Any, Any]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return shapes of the outputs and losses of two rows, by the shape and dtype of x and y."""
    task = keyed.value
    try:
        x, y = (jax.ShapeDtypeStruct((2, *shape), dtype) for shape, dtype in rows)
        out = jax.eval_shape(lambda p, x: task.outputs(p, x, None), _known(keyed)[0], x)
        return out.shape, jax.eval_shape(task.losses, out, y).shape
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        (x_shape, x_dtype), (y_shape, y_dtype) = rows
        raise DataError(
            f"rows of shape {x_shape} and {x_dtype}, with labels of shape {y_shape} and {y_dtype}, "
            f"do not go through {task}; change the data or the model: "
            f"{type(error).__name__}: {error}"
        ) from error


class Traced(FunctionTask, Spelled):
    """The shared half of every JAX task.

    Abstract: a task draws its parameters, applies them, and says the losses of its outputs.
    """

    framework: str = "jax"
    fuses: str = "client"
    draws: bool = False
    engines: tuple[str, ...] = ("matrix", "loop")
    traits: ClassVar[TaskTraits] = TaskTraits(piece=16)  # what is compiled for is cut no smaller
    dtype: str

    def draw(self, key: Key) -> dict[str, Any]:
        """Draw fresh parameters: arrays by name, or dicts of them."""
        raise NotImplementedError

    def forward(self, params: dict[str, Any], x: Any, rng: Any) -> Any:
        """Return outputs `(rows, ...)`; `rng` is None in evaluation and if nothing is drawn."""
        raise NotImplementedError

    def outputs(self, params: dict[str, Any], x: Any, rng: Any) -> Any:
        """Call `forward`; whole numbers go in as reals where it takes reals alone (images)."""
        if x.dtype.kind in "iub" and not _reads_integers(self.keyed, x.shape[1:], x.dtype):
            x = x.astype(self.dtype)
        return self.forward(params, x, rng)

    def losses(self, out: Any, y: Any) -> Any:
        """Return one loss for each row, or for each of its positions."""
        raise NotImplementedError

    @property
    def head(self) -> OutputHead:
        """The head that the outputs have, as far as the loss says."""
        return OutputHead("own")

    def fits(self, y: Any, out: tuple[int, ...]) -> None:
        """Raise `DataError` for targets that do not fit outputs of this shape."""

    def __post_init__(self) -> None:
        if self.dtype not in ("float32", "float64"):
            raise PlanError(f"{self}: dtype must be 'float32' or 'float64'; choose one")

    def astype(self, dtype: str) -> Self:
        """Return the same task in the other precision."""
        return dataclasses.replace(self, dtype=dtype)  # type: ignore[type-var]

    @property
    def layout(self) -> Layout:
        """The parameters in the order of the dict, inner names behind outer ones with a dot."""
        with self._precise():
            return _known(self.keyed)[1]

    def init(self, key: Key) -> tuple[Any, Any]:
        """Return fresh parameters `(d,)` and no buffers `(0,)`."""
        with self._precise():
            drawn = {name: np.asarray(a) for name, a in leaves(self.draw(key))}
        return self.layout.flat(drawn), np.zeros(0, self.dtype)

    def check(self, x: Any, y: Any) -> None:
        """Raise `DataError` for rows that the model cannot take, and for NaN or Inf."""
        x, y = np.asarray(x), np.asarray(y)
        check_features(x, prod(x.shape[1:]), len(y))
        with self._precise():
            rows = ((a.shape[1:], kind(a.dtype, self.dtype)) for a in (x, y))
            out, loss = _through(self.keyed, *rows)
        if loss[:1] != (2,):
            raise PlanError(
                f"the loss of {self} has shape {loss} for two rows; let it return one loss for "
                f"each row, not their mean"
            )
        self.fits(y, out)

    def flops(self, batch: int) -> float:
        """Count six operations a parameter and row: right for dense layers, low where shared."""
        return 6.0 * batch * self.layout.size

    def arrays(self, tree: Tree) -> Tree:
        """Return the tree as it is: JAX takes NumPy arrays, and `run` places them."""
        return tree

    def numpy(self, tree: Tree) -> Tree:
        """Return NumPy arrays that may be written to."""
        return tree_map(lambda a: np.require(a, requirements="W"), tree)

    def model(self, w: Any, buffers: Any = None) -> dict[str, Any]:
        """Return parameters `(d,)` as JAX arrays in the dict that `apply` takes."""
        with self._precise():
            return self._params([jnp.array(a) for a in self.parted(np.asarray(w)).arrays])

    def gradient(self, w: Any, buffers: Any, batch: Batch) -> tuple[Any, Any, Any]:
        """Return the gradient of the mean loss, like `w`; the loss; the same buffers."""
        if isinstance(w, Parts | jax.core.Tracer):
            return (*self.slope(w, batch), buffers)
        with self._precise():
            x, y = (place(a, self.dtype) for a in (batch.x, batch.y))
            g, loss = _gradient(self.keyed, jnp.asarray(w), batch._replace(x=x, y=y))
        if isinstance(w, np.ndarray):
            g, loss = np.array(g), np.array(loss)
        return g, loss, buffers

    def slope(self, w: Any, batch: Batch) -> tuple[Any, Any]:
        """Return gradient and loss of traced values: one client's, or each's of `(clients, d)`."""
        if not isinstance(w, Parts) and w.ndim > 1:
            return jax.vmap(self.slope)(w, batch)  # type: ignore[no-any-return]
        loss, g = jax.value_and_grad(self._mean)(self.parted(w).arrays, batch)
        return (Parts(g) if isinstance(w, Parts) else Parts(g).flat), loss

    def _mean(self, arrays: Any, batch: Batch) -> Any:
        rng = jax.random.key(batch.seed) if self.draws and batch.seed is not None else None
        losses = _per_row(self.losses(self.outputs(self._params(arrays), batch.x, rng), batch.y))
        return losses.mean() if batch.scale is None else (losses * batch.scale).sum()

    def loop(self, step: Callable[[Tree, Batch], Tree], carry: Tree, batches: Any) -> Tree:
        """Loop inside the program over each client's own steps; a map or vmap over clients."""
        if isinstance(batches, Batches):
            batches = pack(batches, self.layout.size, self.dtype)
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
            return tree_map(like, step(now, Batch(x, y, scale[t], seeds[t])), now)

        carry = lax.fori_loop(0, count, body, tree_map(self.parted, carry))
        return tree_map(join, carry)

    def run(self, descent: Any, given: Any, carry: Any, batches: Any) -> Any:
        """Run `descent.walk` as one compiled program; return NumPy arrays."""
        k = None if batches.alone else len(carry.w)
        given = given._replace(rate=np.asarray(given.rate, self.dtype), round=np.int32(given.round))
        with self._precise():
            steps = pack(batches, self.layout.size, self.dtype)
            more = 0 if k is None else len(steps.count) - k
            walk = Keyed(descent, self.mark)
            done = _program(walk, given, tree_map(lambda a: pad(a, more), carry), steps)
        return tree_map(lambda a: np.asarray(a) if k is None else np.asarray(a)[:k], done)

    def evaluate(
        self, w: Any, buffers: Any, x: Any, y: Any, metrics: Sequence[Metric] = ()
    ) -> dict[str, float]:
        """Sum "rows", "loss" and the metrics over rows, a block of rows at a time."""
        loss, width, tally = 0.0, min(CHUNK, rounded(len(x))), MetricTally(metrics, self.head)
        with self._precise():
            w = jnp.asarray(w)
            for start in range(0, len(x), width):
                rows = np.arange(start, start + width)
                block = [place(a[np.minimum(rows, len(x) - 1)], self.dtype) for a in (x, y)]
                found, out = _sums(self.keyed, w, *block, rows < len(x))
                loss += float(found)
                if tally:
                    real = min(width, len(x) - start)
                    native = tree_map(lambda a, n=real: a[:n], (out, block[1]))
                    outputs, labels = tree_map(np.asarray, native)
                    tally.add(outputs, labels, native)
        return {"rows": float(len(x)), "loss": loss} | tally.flat()

    def sums(self, w: Any, x: Any, y: Any, real: Any) -> tuple[Any, Any]:
        """Return the sum of the loss over the real rows, and the outputs of all, traced."""
        out = self.outputs(self._params(self.parted(w).arrays), x, None)
        return jnp.where(real, _per_row(self.losses(out, y)), 0).sum(), out

    def parted(self, a: Any) -> Any:
        """Return a vector `(d,)` as its tensors; anything else as it is."""
        layout = self.layout
        if isinstance(a, Parts) or np.shape(a) != (layout.size,):
            return a
        return apart(a, [entry.shape for entry in layout.entries])

    def _params(self, arrays: Any) -> dict[str, Any]:
        template, layout = _known(self.keyed)
        names = [entry.name for entry in layout.entries]
        return rebuild(template, dict(zip(names, arrays, strict=True)))  # type: ignore[no-any-return]

    def _precise(self) -> Any:
        return jax.enable_x64(self.dtype == "float64")
