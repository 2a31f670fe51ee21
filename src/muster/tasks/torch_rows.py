# SPDX-License-Identifier: Apache-2.0
"""Torch models row by row: losses, and each row's own gradient.

A row's gradient is that of a batch of one, so nothing else can be in it. vmap takes many rows at
once, with a loop where a model has layers that vmap does not know (recurrent ones).
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from muster.extras import require
from muster.privacy.examples import clip_factors
from muster.tasks.torch_facts import seeded
from muster.types import Batch

torch: Any = require("torch", "torch")
_functional = torch.nn.functional

__all__ = [
    "RowGradients",
    "cross_entropy",
    "mean_cross_entropy",
    "per_row",
    "squares",
]

ROOM = 1 << 26  # bytes of row gradients that are held at once
BLOCK = 256  # numbers whose squares are added in the gradients' own precision
_HERE = threading.local()


def cross_entropy(output: Any, y: Any) -> Any:
    """Return −log softmax(output)[y]: classes are the output's last axis, labels its others.

    Labels may have an axis of length one behind those.

    >>> cross_entropy(torch.zeros(1, 2), torch.tensor([0]))
    tensor([0.6931])
    """
    flat_output, labels = output.flatten(0, -2), y.flatten()
    losses = _functional.cross_entropy(flat_output, labels, reduction="none")
    return losses.view(output.shape[:-1])


def squares(output: Any, y: Any) -> Any:
    """Return (output − y)² by row `(rows,)`, the mean over outputs, as torch's `MSELoss`."""
    return (output.reshape(y.shape) - y).square().reshape(len(y), -1).mean(1)


def mean_cross_entropy(output: Any, y: Any) -> Any:
    """Return the mean of `cross_entropy` in one call."""
    if output.dim() > 2 or y.dim() > 1:
        output, y = output.flatten(0, -2), y.flatten()
    return _functional.cross_entropy(output, y)


def per_row(losses: Any) -> Any:
    """Return losses `(rows,)` from losses by row and position `(rows, ...)`, by the mean.

    >>> per_row(torch.tensor([[1.0, 3.0]])).tolist()
    [2.0]
    """
    return losses if losses.dim() < 2 else losses.flatten(1).mean(1)


class RowGradients:
    """The half of a torch task that looks at single rows; abstract: the rest says `_Torch`."""

    l2: float = 0.0
    dtype: str

    @property
    def mixing(self) -> str:
        """A BatchNorm by name, whether it keeps statistics or not; empty without one."""
        return _single(self).mixing

    def gradients(self, w: Any, buffers: Any, batch: Batch) -> tuple[Any, Any]:
        """Return each row's gradient `(rows, d)` and its loss `(rows,)`."""
        parts = list(_single(self).parts(w, batch))
        grads = [torch.cat([g.flatten(1) for g in part], 1) for part, _ in parts]
        return torch.cat(grads), torch.cat([losses for _, losses in parts])

    def clipped(self, w: Any, buffers: Any, batch: Batch, bound: float) -> tuple[Any, Any]:
        """Return the sum of the rows' gradients, clipped one by one, like `w`; the mean loss.

        A chunk of rows at a time, so memory is bounded; a matrix client by client. A row whose
        gradient is not finite counts as zeros.
        """
        if w.dim() > 1:
            each = [self.clipped(one, None, _of(batch, i), bound) for i, one in enumerate(w)]
            return torch.stack([g for g, _ in each]), torch.stack([loss for _, loss in each])
        total, loss = torch.zeros_like(w), w.new_zeros(())
        for grads, losses in _single(self).parts(w, batch):
            norms = sum(map(_squares, grads)).sqrt().cpu().numpy()
            factors = torch.from_numpy(clip_factors(norms, bound, self.dtype)).to(w)
            if not np.isfinite(norms).all():
                odd = torch.from_numpy(~np.isfinite(norms)).to(w.device)
                grads = [g.masked_fill(odd.view(-1, *(1,) * (g.dim() - 1)), 0) for g in grads]
            total += torch.cat([torch.tensordot(factors, g, 1).flatten() for g in grads])
            loss += losses.sum()
        return total, loss / max(1, len(batch.x))


def _squares(g: Any) -> Any:
    """Return rows' squared norms `(rows,)` in float64: short blocks round little, read once."""
    g = g.flatten(1)
    whole = g.shape[1] // BLOCK * BLOCK
    blocks = g[:, :whole].unflatten(1, (-1, BLOCK)) if whole else g[:, None, :0]
    norms = (torch.linalg.vector_norm(part, dim=-1) for part in (blocks, g[:, None, whole:]))
    return sum((part.double() ** 2).sum(-1) for part in norms)


def _of(batch: Batch, client: int) -> Batch:
    """Return one client's rows of a matrix, without those that only fill it up."""
    x, y, scale = batch.x[client], batch.y[client], batch.scale
    if scale is not None:
        real = scale[client] > 0
        x, y = x[real], y[real]
    return Batch(x, y, None, None if batch.seed is None else batch.seed[client])


def _single(task: Any) -> Single:
    """Return this thread's model of a task, for rows by themselves."""
    kept: dict[str, Single] = vars(_HERE)
    if task.mark not in kept:
        kept.clear()
        kept[task.mark] = Single(task)
    return kept[task.mark]


class Single:
    """A module in training mode that is called with one row at a time, and given its tensors."""

    def __init__(self, task: Any) -> None:
        self.task, self.module = task, task.build().to(task.device).train()
        named = dict(self.module.named_parameters())
        self.shapes = {name: p.shape for name, p in named.items()}
        self.frozen = task.layout.frozen
        norm = torch.nn.modules.batchnorm._NormBase
        self.mixing = next(
            (
                type(m).__name__
                for m in self.module.modules()
                if isinstance(m, norm)
                and not isinstance(m, torch.nn.modules.instancenorm._InstanceNorm)
            ),
            "",
        )
        self.generator = (
            torch.default_generator
            if torch.device(task.device).type != "cuda"
            else torch.cuda.default_generators[torch.device(task.device).index or 0]
        )
        slope = torch.func.grad(self.loss, has_aux=True)
        self.mapped: Any = torch.func.vmap(slope, (None, None, 0, 0), randomness="different")
        self.known = False  # whether vmap takes this model

    def loss(self, moving: Any, still: Any, x: Any, y: Any) -> tuple[Any, Any]:
        """Return the loss of one row, twice."""
        output = torch.func.functional_call(self.module, moving | still, (x[None],))
        loss = self.task.loss(output, y[None]).mean()
        return loss, loss.detach()

    def parts(self, w: Any, batch: Batch) -> Iterator[tuple[list[Any], Any]]:
        """Yield chunk by chunk each parameter's gradients `(rows, *shape)` and losses `(rows,)`."""
        sizes = [shape.numel() for shape in self.shapes.values()]
        views = w.detach().split(sizes)
        values = {n: v.view(s) for (n, s), v in zip(self.shapes.items(), views, strict=True)}
        still = {name: values.pop(name) for name in self.frozen}
        few = max(1, ROOM // max(1, w.numel() * w.element_size()))
        seed = 0 if batch.seed is None else int(batch.seed)
        for start in range(0, len(batch.x), few):
            x, y = batch.x[start : start + few], batch.y[start : start + few]
            with seeded(self.generator, seed + start):
                grads, losses = self._slopes(values, still, x, y)
            empty = {n: v.new_zeros((len(x), *v.shape)) for n, v in still.items()}
            yield [(grads | empty)[name] for name in self.shapes], losses

    def _slopes(self, moving: Any, still: Any, x: Any, y: Any) -> tuple[dict[str, Any], Any]:
        if self.mapped is not None and not self.known:
            self._try(moving, still, x, y)
        if self.mapped is not None:
            found: tuple[dict[str, Any], Any] = self.mapped(moving, still, x, y)
            return found
        leaves = {name: value.clone().requires_grad_() for name, value in moving.items()}
        rows = []
        for row, target in zip(x, y, strict=True):
            loss, value = self.loss(leaves, still, row, target)
            grads = torch.autograd.grad(loss, leaves.values(), materialize_grads=True)
            rows.append((*grads, value))
        *grads, losses = (torch.stack(part) for part in zip(*rows, strict=True))
        return dict(zip(leaves, grads, strict=True)), losses

    def _try(self, moving: Any, still: Any, x: Any, y: Any) -> None:
        """Try whether vmap has a rule for all of the user's forward; if not, it is a loop."""
        try:
            with warnings.catch_warnings(), seeded(self.generator, 0):
                warnings.simplefilter("error")
                self.mapped(moving, still, x[:1], y[:1])
        except Exception:  # a user's forward may raise anything under vmap
            self.mapped = None
        self.known = True
