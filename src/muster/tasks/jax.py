# SPDX-License-Identifier: Apache-2.0
"""Tasks in JAX: any pure apply function, with local training compiled as one program.

Steps are a loop inside the program. Clients are a map around it (one after another, so that a
client's parameters stay in the cache, and each takes just its own steps) or, for tiny models
in lockstep, a vmap. Algorithms are traced as they are. The program is compiled once for each
descent and rounded size: rows and steps are rounded up to powers of two, clients and the width
of a batch to `jax_steps.SIZES`. Steps and clients that are added never run, and rows weigh nothing.

Between calls arrays stay NumPy's, which JAX takes as they are: 64-bit mode is then on only
inside the calls of float64 tasks, and float32 tasks beside them keep their bits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np

from muster.errors import PlanError
from muster.extras import require
from muster.keys import Key
from muster.metrics.head import OutputHead
from muster.tasks.jax_traced import Traced
from muster.tasks.task import Squares, check_function, check_labels

jax = require("jax", extra="jax")
jnp = jax.numpy

__all__ = ["Classifier", "MLP", "Model", "Regressor", "SoftmaxRegression", "dense", "dense_params"]


class _Made(Traced):
    """Parameters and forward pass from the user's functions."""

    make_params: Callable[[Any], dict[str, Any]]
    apply: Callable[..., Any]

    def __post_init__(self) -> None:
        super().__post_init__()
        kind, given = type(self).__name__, ("params", "x", *(("rng",) if self.draws else ()))
        check_function(
            kind,
            "make_params",
            self.make_params,
            ("key",),
            "def make_params(key): a dict of arrays drawn from a JAX key",
        )
        check_function(
            kind, "apply", self.apply, given, f"def apply({', '.join(given)}): outputs (rows, ...)"
        )

    def draw(self, key: Key) -> dict[str, Any]:
        """Return the parameters that make_params draws."""
        return self.make_params(jax.random.key(np.uint32(key.integer() % 2**32)))

    def forward(self, params: dict[str, Any], x: Any, rng: Any) -> Any:
        """Return the outputs of apply."""
        return self.apply(params, x, rng) if self.draws else self.apply(params, x)


class _Classes(Traced):
    """Cross-entropy over the last axis of the outputs."""

    @property
    def head(self) -> OutputHead:
        """Classes; how many, where the layers say it."""
        return OutputHead("softmax", self.width, plain=True)

    @property
    def width(self) -> int | None:
        """The number of classes, where that is known before rows are."""
        return None

    def losses(self, out: Any, y: Any) -> Any:
        """Return −log softmax(out)[y]."""
        hot = y.reshape(*out.shape[:-1], 1).astype(np.int32) == jnp.arange(
            out.shape[-1], dtype=np.int32
        )
        return -jnp.where(hot, jax.nn.log_softmax(out), 0).sum(-1)

    def fits(self, y: Any, out: tuple[int, ...]) -> None:
        """Check that labels are whole numbers below the width of the output."""
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

    def __post_init__(self) -> None:
        super().__post_init__()
        check_function(
            "Model", "loss", self.loss, ("outputs", "y"), "def loss(outputs, y): losses by row"
        )

    def losses(self, out: Any, y: Any) -> Any:
        """Return the user's losses."""
        return self.loss(out, y)


@dataclass(frozen=True)
class Classifier(_Classes, _Made):
    """A model whose last axis of outputs is classes: cross-entropy."""

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
        """Return (out − y)²."""
        return (out - y.reshape(out.shape)) ** 2

    @property
    def head(self) -> OutputHead:
        """Numbers."""
        return OutputHead("numbers", plain=True)

    def fits(self, y: Any, out: tuple[int, ...]) -> None:
        """Check for one finite number for each output."""
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

    @property
    def width(self) -> int:
        """The last of the sizes."""
        return self.sizes[-1]

    def draw(self, key: Key) -> dict[str, Any]:
        """Draw uniformly on ±1/sqrt(fan-in), torch's default, in float64 layer by layer."""
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
        """Compute the outputs layer by layer."""
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

    @property
    def width(self) -> int:
        """The classes."""
        return self.classes

    def draw(self, key: Key) -> dict[str, Any]:
        """Return zeros: the problem is convex."""
        return {"weight": np.zeros((self.classes, self.features)), "bias": np.zeros(self.classes)}

    def forward(self, params: dict[str, Any], x: Any, rng: Any) -> Any:
        """Return the scores of the classes."""
        return dense(params, x.reshape(len(x), -1))


def dense(layer: dict[str, Any], x: Any) -> Any:
    """Return `x W^T + b` with torch's `Linear` layout: "weight" `(out, in)`, "bias" `(out,)`."""
    return x @ layer["weight"].T + layer["bias"]


def dense_params(key: Any, inputs: int, outputs: int) -> dict[str, Any]:
    """Return a dense layer from a JAX key, uniform on ±1/sqrt(inputs), torch's default.

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
