# SPDX-License-Identifier: Apache-2.0
"""Tasks in NumPy alone: linear, logistic and softmax regression, and a multilayer perceptron.

Gradients are written by hand (`numpy_layers.py`) for one client `(d,)` or many `(clients, d)`.
Vectors are laid out as torch's `Linear` does, layer by layer the weight `(out, in)` and then the
bias, so one vector fits the NumPy, torch and JAX model alike. Linear models call the tensors
"weight" and "bias", the perceptron "layers.0.weight", "layers.0.bias", "layers.1.weight" …

`l2` adds l2/2 ‖w‖² (biases included, as torch's `weight_decay`) to the training loss and its
gradient; evaluation reports the loss without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, ClassVar, Self

import numpy as np

from muster.batches import Batches, fold, gather
from muster.errors import PlanError
from muster.keys import Key
from muster.layout import Layout, TensorEntry
from muster.metrics import Metric
from muster.metrics.head import OutputHead
from muster.metrics.sums import MetricTally
from muster.spelling import Spelled
from muster.tasks import numpy_layers as layers
from muster.tasks import numpy_walk as walk
from muster.tasks.task import CrossEntropy, Logistic, RowLoss, Squares, check_features
from muster.types import Batch, TaskTraits, Tree
from muster.vectors import aligned

__all__ = ["DenseNetwork", "LinearRegression", "LogisticRegression", "MLP", "SoftmaxRegression"]

DRAWN = 1 << 20  # numbers of a layer that are drawn at once
BLOCK = 1 << 20  # numbers in the widest layer of one block of rows under evaluation


class DenseNetwork(layers.RowGradients, Spelled):
    """The shared half of every task of this file: fully connected layers under a loss.

    Abstract: a task gives its `widths` (features, hidden layers, outputs) and its `loss`.
    """

    framework: str = "numpy"
    fuses: str = "cohort"
    draws: bool = False
    engines: tuple[str, ...] = ("fused", "matrix", "loop")
    traits: ClassVar[TaskTraits] = TaskTraits(by_row=True)
    loss: RowLoss
    naming: str = "{part}"
    activation: str = "relu"
    l2: float
    dtype: str

    def __post_init__(self) -> None:
        if any(not isinstance(width, int) or width < 1 for width in self.widths):
            raise PlanError(f"{self}: every width must be a whole number above 0")
        if not self.l2 >= 0:
            raise PlanError(f"{self}: l2 must be 0 or more; give one such as 1e-4")
        if self.dtype not in ("float32", "float64"):
            raise PlanError(f"{self}: dtype must be 'float32' or 'float64'; choose one")
        if self.activation not in ("relu", "tanh"):
            raise PlanError(f"{self}: activation must be 'relu' or 'tanh'; choose one")

    @cached_property
    def layout(self) -> Layout:
        """Weight and bias of each layer, named as the head of this file says."""
        entries = [
            TensorEntry(self.naming.format(layer=i, part=part), shape)
            for i, (fan, out) in enumerate(pairwise(self.widths))
            for part, shape in (("weight", (out, fan)), ("bias", (out,)))
        ]
        return Layout(tuple(entries), self.dtype)

    def astype(self, dtype: str) -> Self:
        """Return the same task in the other precision."""
        return replace(self, dtype=dtype)  # type: ignore[type-var]

    def init(self, key: Key) -> tuple[Any, Any]:
        """Return the start `(d,)`, and no buffers `(0,)`: zeros, since a linear model is convex."""
        x = aligned((self.layout.size,), self.dtype)
        x[...] = 0
        return x, np.zeros(0, self.dtype)

    def check(self, x: Any, y: Any) -> None:
        """Raise `DataError` for rows of another width, labels outside the classes, NaN or Inf."""
        check_features(x, self.widths[0], len(y))
        self.loss.check(y, self.widths[-1])

    def flops(self, batch: int) -> float:
        """Count 6 operations a weight and row, less the slopes of features, which nobody needs."""
        sizes = [a * b for a, b in pairwise(self.widths)]
        return float(batch * (6 * sum(sizes) - 2 * sizes[0]))

    def arrays(self, tree: Tree) -> Tree:
        """Return the tree as it is."""
        return tree

    def numpy(self, tree: Tree) -> Tree:
        """Return the tree as it is."""
        return tree

    def model(self, w: Any, buffers: Any = None) -> dict[str, Any]:
        """Return parameters `(d,)` as arrays by name, copied."""
        return {name: part.copy() for name, part in self.layout.named(np.asarray(w)).items()}

    def gradient(self, w: Any, buffers: Any, batch: Batch) -> tuple[Any, Any, Any]:
        """Return the mean loss's gradient, like `w`; the loss `()` or `(clients,)`; the buffers."""
        many = w.reshape(-1, w.shape[-1])
        g = aligned(many.shape, many.dtype)
        with np.errstate(all="ignore"):
            loss = self._gradient(many, self._rows(w, batch), 1.0, g)
        return (g, loss, buffers) if w.ndim > 1 else (g[0], loss[0], buffers)

    def descend(self, w: Any, buffers: Any, batch: Batch, rate: float) -> Any:
        """Do `w −= rate · gradient` in place; return the loss `()` or `(clients,)`."""
        rows = self._rows(w, batch)
        with np.errstate(all="ignore"):  # a client that diverges is found by its update
            if w.ndim == 1:
                return self._descend(w[None], rows, rate)[0]
            parts = [
                self._descend(w[few], [p[few] if np.ndim(p) else p for p in rows], rate)
                for few in walk.chunks(w)
            ]
        return np.concatenate(parts)

    def loop(self, step: Callable[[Tree, Batch], Tree], carry: Tree, batches: Batches) -> Tree:
        """Loop in Python."""
        return fold(step, carry, batches)

    def run(self, descent: Any, given: Tree, carry: Tree, batches: Batches) -> Tree:
        """Run all steps, few clients at a time (`numpy_walk.py`)."""
        with np.errstate(all="ignore"):
            if not batches.alone and len(carry.w) <= walk.together(carry.w):
                batches = gather(batches, walk.ROWS, layers.scratch)
            if descent.fused and walk.sweeps(self.widths, self.l2, batches):
                loss = walk.sweep(carry.w, self.widths, self.loss, batches, given.rate)
                return carry._replace(loss=carry.loss + loss)
            return walk.walk(descent, given, carry, batches)

    @property
    def head(self) -> OutputHead:
        """Logits of classes, one logit, or numbers, as the loss takes them."""
        return OutputHead(self.loss.kind, self.widths[-1], plain=True)

    def evaluate(
        self, w: Any, buffers: Any, x: Any, y: Any, metrics: Sequence[Metric] = ()
    ) -> dict[str, float]:
        """Sum over rows: "rows", "loss", and those of the metrics, flat."""
        tally, loss, y = MetricTally(metrics, self.head), 0.0, np.asarray(y)
        for rows, z in self._outputs(w, x):
            with np.errstate(all="ignore"):
                if tally:
                    tally.add(z.T, y[rows])
                loss += self.loss.total(z, y[rows])
        return {"rows": float(len(y)), "loss": loss} | tally.flat()

    def predict(self, w: Any, x: Any) -> Any:
        """Return labels `(rows,)`; for a regression its values, `(rows,)` or `(rows, outputs)`."""
        return np.concatenate([np.array(self.loss.predict(z)) for _, z in self._outputs(w, x)])

    def _outputs(self, w: Any, x: Any) -> Iterator[tuple[slice, Any]]:
        """Yield blocks of rows and their outputs `(outputs, rows)`, in bounded memory."""
        few, parts = max(1, BLOCK // max(self.widths)), layers.views(w[None], self.widths)
        for rows in (slice(i, i + few) for i in range(0, max(1, len(x)), few)):
            with np.errstate(all="ignore"):
                z = layers.forward(parts, self._features(x[None, rows], w), self.activation)[1]
            yield rows, z[:, 0]

    def _gradient(self, many: Any, rows: Sequence[Any], rate: float, g: Any) -> Any:
        """Write `rate` times the gradient into `g`; the losses."""
        mine, into = layers.views(many, self.widths), layers.views(g, self.widths)
        losses = layers.gradient(mine, rows, self, rate, into) + self._penalty(many)
        if self.l2:
            g += rate * self.l2 * many
        return losses

    def _descend(self, many: Any, rows: Sequence[Any], rate: float) -> Any:
        if walk.together(many) > 1:  # a small model: one sweep for the whole update
            update = layers.scratch("whole", many.shape, many.dtype)
            losses = self._gradient(many, rows, rate, update)
            np.subtract(many, update, out=many)
            return losses
        penalty, mine = self._penalty(many), layers.views(many, self.widths)
        return layers.descend(mine, rows, self, rate) + penalty

    def _penalty(self, many: Any) -> Any:
        return self.l2 / 2 * np.vecdot(many, many) if self.l2 else 0


@dataclass(frozen=True)
class LinearRegression(DenseNetwork):
    """Least squares: the loss of a row is the mean of (Wx + b − y)² over the outputs.

    As torch's `MSELoss`, without a factor ½. Targets are `(rows,)` or `(rows, outputs)`.

    >>> LinearRegression(3).layout.size
    4
    """

    features: int
    outputs: int = 1
    l2: float = 0.0
    dtype: str = "float32"
    loss = Squares()

    @property
    def widths(self) -> tuple[int, ...]:
        """(features, outputs)."""
        return self.features, self.outputs


@dataclass(frozen=True)
class LogisticRegression(DenseNetwork):
    """Two classes, labels 0 and 1, one logit (torch's `BCEWithLogitsLoss`).

    >>> LogisticRegression(3).evaluate(np.zeros(4), None, np.ones((2, 3)), np.array([0, 1]))
    {'rows': 2.0, 'loss': 1.3862943611198906}
    """

    features: int
    l2: float = 0.0
    dtype: str = "float32"
    loss = Logistic()

    @property
    def widths(self) -> tuple[int, ...]:
        """(features, 1)."""
        return self.features, 1


@dataclass(frozen=True)
class SoftmaxRegression(DenseNetwork):
    """Multinomial logistic regression: cross-entropy over classes 0 … classes − 1.

    >>> SoftmaxRegression(64, 10).layout.entries[0]
    TensorEntry(name='weight', shape=(10, 64), kind='parameter')
    """

    features: int
    classes: int
    l2: float = 0.0
    dtype: str = "float32"
    loss = CrossEntropy()

    @property
    def widths(self) -> tuple[int, ...]:
        """(features, classes)."""
        return self.features, self.classes


@dataclass(frozen=True)
class MLP(DenseNetwork):
    """Fully connected layers under a cross-entropy: `MLP([784, 200, 200, 10])` is the 2NN.

    `sizes` are features, hidden widths, classes; `activation` is "relu" or "tanh". Source of the
    2NN: McMahan et al. 2017 (arXiv 1602.05629, section 3).

    >>> MLP([784, 200, 200, 10]).layout.size
    199210
    """

    sizes: Sequence[int]
    activation: str = "relu"
    l2: float = 0.0
    dtype: str = "float32"
    loss = CrossEntropy()
    naming = "layers.{layer}.{part}"

    def __post_init__(self) -> None:
        object.__setattr__(self, "sizes", tuple(self.sizes))
        if len(self.sizes) < 2:
            raise PlanError(f"{self}: give at least features and classes, such as MLP([64, 10])")
        super().__post_init__()

    @property
    def widths(self) -> tuple[int, ...]:
        """The sizes."""
        return tuple(self.sizes)

    def init(self, key: Key) -> tuple[Any, Any]:
        """Return the start `(d,)`, uniform on ±1/sqrt(fan-in) as torch's `Linear`, and no buffers.

        Drawn in the order of the layout in float64, so that both precisions start alike.
        """
        x, buffers = super().init(key)
        draw = key.generator()
        for weight, bias in layers.views(x[None], self.widths):
            bound = weight.shape[-1] ** -0.5
            few = max(1, DRAWN // weight.shape[-1])  # a whole layer in float64 is twice the layer
            for rows in (weight[0, i : i + few] for i in range(0, weight.shape[1], few)):
                rows[...] = draw.uniform(-bound, bound, rows.shape)
            bias[...] = draw.uniform(-bound, bound, bias.shape)
        return x, buffers
