# SPDX-License-Identifier: Apache-2.0
"""Tasks in PyTorch: any `nn.Module` and loss, on a CPU or a GPU.

`Classifier(make_model)` and `Regressor(make_model)` cover most models, `Model` takes a loss.
`make_model` is a module-level function that builds the same layers at every call.

- Parameters are views of the flat row being trained: results land there, nothing is copied.
- No optimizer object is made (the first one imports torch's compiler, over a second): plain
  SGD is one in-place update, and every other optimizer is muster's own.
- Small models that vmap takes are trained as one matrix. Convolutions, recurrent layers,
  BatchNorm and dropout train one client at a time.
- Float buffers (BatchNorm's statistics) are a vector of their own, moved in place by training
  and averaged; whole-number buffers start anew with each client's round.
- Layers that draw are seeded by client and step; torch's global generator is left as it was.
- Real features become the task's precision, and so do whole ones (images in bytes), unless the
  model reads integers (token ids).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, ClassVar, Literal

import numpy as np

from muster.batches import Batches, fold
from muster.errors import DataError, PlanError
from muster.extras import require
from muster.keys import Key
from muster.layout import Layout
from muster.metrics import Metric
from muster.metrics.head import OutputHead
from muster.metrics.sums import MetricTally
from muster.spelling import Spelled
from muster.tasks import torch_rows as by_row
from muster.tasks.task import FunctionTask, Keyed, check_function, check_labels
from muster.tasks.torch_facts import ModelTraits, build, difference, facts, layout_of
from muster.tasks.torch_flat import flat
from muster.types import Batch, TaskTraits, Tree, Vector
from muster.vectors import tree_map

torch: Any = require("torch", "torch")

__all__ = ["Classifier", "Model", "Regressor"]

SMALL = 1 << 16  # parameters up to which a matrix of clients beats a loop over them
LONE_ROW = "BatchNorm got a batch of one row but needs two; use another batch size, or GroupNorm"
CHUNK = 512  # rows evaluated at once


class _Torch(by_row.RowGradients, FunctionTask, Spelled):
    """The shared part of the three tasks; each is a frozen value of the fields it adds."""

    framework: ClassVar[str] = "torch"
    labels: ClassVar[bool | None] = None  # y holds classes, numbers, or what the loss takes
    average: ClassVar[Any] = None  # the mean loss in one call, where torch has one
    make_model: Callable[[], Any]
    loss: Any
    dtype: str
    device: str

    def __post_init__(self) -> None:
        kind = type(self).__name__
        if isinstance(self.make_model, torch.nn.Module):
            name = type(self.make_model).__name__
            raise PlanError(
                f"{kind}(make_model={name}(...)): that is one model, and every process and client "
                f"builds its own; give a function that does: def make_model(): return {name}(...)"
            )
        check_function(
            kind,
            "make_model",
            self.make_model,
            (),
            "a function without arguments, or functools.partial(Net, width) for a class with some",
        )
        if isinstance(self.loss, type):
            raise PlanError(
                f"{kind}(loss={self.loss.__name__}): that is the class; give one of it, "
                f"{self.loss.__name__}()"
            )
        check_function(
            kind, "loss", self.loss, ("output", "y"), "def loss(output, y): losses by row"
        )
        if self.dtype not in ("float32", "float64"):
            raise PlanError(f"{self}: dtype must be 'float32' or 'float64'")

    def astype(self, dtype: str) -> Any:
        """Return the same task in another precision."""
        return dataclasses.replace(self, dtype=dtype)  # type: ignore[type-var]

    @property
    def layout(self) -> Layout:
        """Names and shapes as `named_parameters` and `named_buffers` give them."""
        return self._found.layout

    @property
    def draws(self) -> bool:
        """Return whether forward may draw: dropout and its kin, in layers or user code."""
        return self._found.draws

    @property
    def traits(self) -> TaskTraits:
        """The traits: rows are shown apart; what counts its steps in buffers is run as a whole."""
        return TaskTraits(by_row=True, whole=self._found.counts, threads="torch")

    @property
    def engines(self) -> tuple[str, ...]:
        """Best first; a matrix only for models that vmap takes and losses by row."""
        if not self._found.batched:
            return ("fused", "loop")
        return (
            ("fused", "matrix", "loop") if self.fuses == "cohort" else ("fused", "loop", "matrix")
        )

    @property
    def fuses(self) -> str:
        """The shape "fused" does best on: one "client" at a time, or a small model's "cohort"."""
        found = self._found
        return "cohort" if found.batched and found.layout.size <= SMALL else "client"

    def flops(self, batch: int) -> float:
        """Count six for each row, weight and place the weight is used at."""
        return batch * self._found.flops

    @cached_property
    def _found(self) -> ModelTraits:
        return _looked(self.keyed)

    def build(self, seed: int = 0) -> Any:
        """Build a fresh module; `PlanError` when its layout is not what it was at the last call."""
        module = build(self.make_model, self.dtype, seed)
        changed = difference(self.layout, layout_of(module, self.dtype))
        if changed:
            raise PlanError(
                f"make_model={self.make_model!r} builds another model at each call "
                f"({changed}); it must build the same layers every time"
            )
        return module

    def init(self, key: Key) -> tuple[Vector, Vector]:
        """Return the start as torch's layers draw it, and the buffers, as NumPy vectors."""
        module = self.build(key.integer())
        tensors = {n: t.detach().numpy() for n, t in module.named_parameters()}
        tensors |= {n: t.numpy() for n, t in module.named_buffers()}
        return self.layout.flat(tensors), self.layout.flat(tensors, "buffer")

    def model(self, w: Vector, buffers: Vector) -> Any:
        """Return a fresh module with these weights, in evaluation mode."""
        module = self.build().to(self.device)
        w, buffers = self.arrays((w, buffers))
        values = self.layout.named(w) | self.layout.named(buffers, "buffer")
        named = dict(module.named_parameters()) | dict(module.named_buffers())
        with torch.no_grad():
            for name, value in values.items():
                named[name].copy_(value)
        return module.eval()

    def check(self, x: Any, y: Any) -> None:
        """Raise `DataError` for rows that the model or the loss cannot take."""
        x, y = np.asarray(x), np.asarray(y)
        if len(x) != len(y) or not len(x):
            raise DataError(f"there are {len(x)} rows of features but {len(y)} labels; give both")
        for name, values in (("features", x), ("labels", y)):
            if values.dtype.kind not in "fiub":
                raise DataError(f"{name} have dtype {values.dtype}, but numbers are needed")
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                raise DataError(f"{name} hold NaN or Inf; drop or fill such rows")
        if x.dtype.kind in "iu":  # the largest and smallest token must be in the vocabulary
            ends = {int(at) // (x.size // len(x)) for at in (x.argmin(), x.argmax())}
            output = flat(self).answer(x[sorted(ends)])
        else:
            output = flat(self).answer_to(x.shape[1:], x.dtype.str)
        if self.labels:
            if not output or output[-1] < 2:
                raise DataError(
                    f"the model answers each row with {output or 'one number'}, and a Classifier "
                    f"needs (rows, classes), two classes or more; end the model in nn.Linear(..., "
                    f"classes), or use a Regressor"
                )
            if y.shape[1:] not in (output[:-1], (*output[:-1], 1)):
                raise DataError(
                    f"labels have shape {y.shape}, but the model answers each row with "
                    f"{output}, classes last; give one label for each answer"
                )
            check_labels(y.reshape(-1), output[-1])
        elif self.labels is False and np.prod(y.shape[1:]) != np.prod(output):
            raise DataError(
                f"targets have shape {y.shape}, but the model answers each row with {output}; "
                f"give one target for each output"
            )

    def arrays(self, tree: Tree) -> Tree:
        """Return NumPy arrays as tensors on the device; memory is shared if it may be written."""
        return tree_map(self._tensor, tree)

    def numpy(self, tree: Tree) -> Tree:
        """Return the inverse of `arrays`."""
        return tree_map(_to_numpy, tree)

    def _tensor(self, a: Any) -> Any:
        if not isinstance(a, np.ndarray):
            return a
        if not a.flags.writeable or min(a.strides, default=0) < 0:
            a = a.copy()
        return torch.from_numpy(a).to(self.device)

    def rows(self, x: Any) -> Any:
        """Return features in the task's precision, also whole numbers unless the model reads such.

        Whole numbers that it does read (token ids) have 64 bits.
        """
        if torch.is_tensor(x):
            return x.to(self.device)
        x = np.asarray(x)
        whole = x.dtype.kind != "f" and flat(self).reads_integers(x.shape[1:])
        return self._tensor(x.astype(np.int64 if whole else self.dtype, copy=False))

    def _targets(self, y: Any) -> Any:
        if not torch.is_tensor(y):
            y = np.asarray(y)
            kind = self.dtype if y.dtype.kind == "f" else np.int64
            y = self._tensor(y.astype(kind, copy=False))
        y = y.to(self.device)
        if self.labels is None:
            return y
        return y.to(torch.int64 if self.labels else getattr(torch, self.dtype))

    def gradient(self, w: Vector, buffers: Vector, batch: Batch) -> tuple[Vector, Any, Vector]:
        """Return gradient, loss and the buffers, which a step of training moves in place."""
        here = flat(self)
        grads, _, loss = here.gradients(w, buffers, batch)
        return here.whole(grads, w), loss, buffers

    def descend(self, w: Vector, buffers: Vector, batch: Batch, rate: float) -> Any:
        """Take one step of plain SGD in place; return the loss."""
        grads, moved, loss = flat(self).gradients(w, buffers, batch)
        with torch.no_grad():
            torch._foreach_add_(moved, grads, alpha=-float(rate))
        return loss

    def loop(self, step: Callable[[Tree, Batch], Tree], carry: Tree, batches: Any) -> Tree:
        """Loop in Python."""
        if not batches.alone:
            return fold(step, carry, batches)
        index, x, y = batches.index[:, 0].unbind(0), batches.x, batches.y
        if batches.scale is not None:
            lengths = (batches.scale[:, 0] > 0).sum(-1).tolist()
            index = [rows[:n] for rows, n in zip(index, lengths, strict=True)]
        nothing = (None,) * len(index)
        seeds = nothing if batches.seeds is None else batches.seeds[:, 0].tolist()
        marks = nothing if batches.private is None else batches.private[:, 0]
        for rows, seed, mark in zip(index, seeds, marks, strict=True):
            batch = Batch(x.index_select(0, rows), y.index_select(0, rows), None, seed, mark)
            carry = step(carry, batch)
        return carry

    def run(self, descent: Any, given: Tree, carry: Tree, batches: Batches) -> Tree:
        """Run all steps, on tensors that share memory with the arrays."""
        index, scale = self.arrays((batches.index, batches.scale))
        tensors = dataclasses.replace(
            batches, x=self.rows(batches.x), y=self._targets(batches.y), index=index, scale=scale
        )
        with flat(self).client():
            try:
                return descent.walk(given, carry, tensors)
            except ValueError as error:
                if "more than 1 value per channel" not in str(error):
                    raise
                raise DataError(LONE_ROW) from error

    def evaluate(
        self, w: Vector, buffers: Vector, x: Any, y: Any, metrics: Sequence[Metric] = ()
    ) -> dict[str, float]:
        """Sum over rows; where there is a label for each position, rows are positions."""
        here = flat(self)
        here.point(*self.arrays((w, buffers)))
        totals: dict[str, float] = {"rows": 0.0, "loss": 0.0}
        tally = MetricTally(metrics, self.head)
        with torch.no_grad():
            for start in range(0, len(x), CHUNK):
                part = slice(start, start + CHUNK)
                target = self._targets(y[part])
                output = here.output(self.rows(x[part]), training=False)
                losses = self.loss(output, target)
                rows = losses.numel() if losses.dim() else len(target)
                share = 1 if losses.dim() else rows
                totals["rows"] += rows
                totals["loss"] += float(losses.sum(dtype=torch.float64)) * share
                if tally:
                    native = tree_map(_on_cpu, (output, target))
                    outputs, labels = tree_map(_to_numpy, self._last(native))
                    tally.add(outputs, labels, native)
        return totals | tally.flat()

    def _last(self, pair: Tree) -> Tree:
        """Return outputs with the classes last, where a loss of torch has them on axis two."""
        output, target = pair
        if self.labels is None and self.head.kind == "softmax" and output.dim() > 2:
            output = output.movedim(1, -1)
        return output, target

    @property
    def head(self) -> OutputHead:
        """Classes, numbers, or (of a `Model` whose loss is not one of torch's) its own."""
        width = self._found.width
        if self.labels is not None:
            return OutputHead("softmax" if self.labels else "numbers", width, plain=True)
        return OutputHead(_kind(self.loss, width), width)


@dataclass(frozen=True)
class Model(_Torch):
    """Any module and loss: `loss(output, y)` gives losses by row `(rows,)`.

    A loss that gives one mean is taken as it is; its models never train as a matrix. Where it is
    one of torch's for classes (`CrossEntropyLoss`, `NLLLoss`, `BCEWithLogitsLoss` of one output)
    or for numbers (`MSELoss`, `L1Loss`, `SmoothL1Loss`, `HuberLoss`), metrics know what the outputs
    are; else they see them as they are.
    """

    make_model: Callable[[], Any]
    loss: Callable[[Any, Any], Any]
    dtype: str = "float32"
    device: str = "cpu"


@dataclass(frozen=True)
class Classifier(_Torch):
    """Cross-entropy; outputs are logits `(rows, classes)`, labels `(rows,)`.

    Outputs `(rows, T, classes)` take labels `(rows, T)`: each position is one answer.

    >>> import functools
    >>> Classifier(functools.partial(torch.nn.Linear, 2, 3)).layout.size
    9
    """

    make_model: Callable[[], Any]
    dtype: str = "float32"
    device: str = "cpu"
    loss = staticmethod(by_row.cross_entropy)
    average = staticmethod(by_row.mean_cross_entropy)
    labels = True


@dataclass(frozen=True)
class Regressor(_Torch):
    """Squared error, averaged over the outputs; targets are numbers."""

    make_model: Callable[[], Any]
    dtype: str = "float32"
    device: str = "cpu"
    loss = staticmethod(by_row.squares)
    labels = False


@lru_cache(64)
def _looked(keyed: Keyed) -> ModelTraits:
    task = keyed.value
    return facts(task.make_model, task.loss, task.dtype)


def _on_cpu(a: Any) -> Any:
    return a.detach().cpu()


def _kind(loss: Any, width: int | None) -> Literal["softmax", "sigmoid", "numbers", "own"]:
    """Return the kind of outputs that a loss takes, where it is one of torch's."""
    nn = torch.nn
    if isinstance(loss, (nn.CrossEntropyLoss, nn.NLLLoss)):
        return "softmax"
    if isinstance(loss, nn.BCEWithLogitsLoss) and width == 1:
        return "sigmoid"
    numbers = (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss)
    return "numbers" if isinstance(loss, numbers) else "own"


def _to_numpy(a: Any) -> Any:
    return a.detach().cpu().numpy() if torch.is_tensor(a) else a
