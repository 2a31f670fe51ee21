# SPDX-License-Identifier: Apache-2.0
"""One module whose tensors are views of flat vectors.

`Flat` keeps one `nn.Module` per thread and task, by its mark, and points its parameters and float
buffers into the rows it is given, so results land there and nothing is flattened or copied back.
For a cohort `(clients, d)` the parameters are stacked views and the forward pass runs under vmap;
its gradient is taken by ordinary autograd on the stack, which costs less than vmap of grad.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from muster.errors import DataError, PlanError
from muster.extras import require
from muster.tasks.torch_facts import saved, seeded
from muster.tasks.torch_rows import per_row
from muster.types import Batch

torch: Any = require("torch", "torch")
nn = torch.nn

__all__ = ["Flat", "flat"]

_BACKWARD = torch.autograd.Variable._execution_engine.run_backward
_HERE = threading.local()
_KEPT = 8  # modules that a thread keeps for tasks it has met


def flat(task: Any) -> Flat:
    """Return this thread's module for a task."""
    kept: dict[str, Flat] = vars(_HERE)
    found = kept.get(task.mark)
    if found is None:
        if len(kept) >= _KEPT:
            kept.clear()
        found = kept[task.mark] = Flat(task)
    return found


class Flat:
    """A module on flat rows; pointers and mode are changed only when they must be."""

    def __init__(self, task: Any) -> None:
        self.task, self.draws, self.batched = task, task.draws, "matrix" in task.engines
        self.module = task.build().to(task.device)
        self.parameters = list(self.module.parameters())
        self.names = [name for name, _ in self.module.named_parameters()]
        self.trained = [p for p in self.parameters if p.requires_grad]
        everything = saved(self.module)
        self.floats = [_owner(self.module, n) for n, b in everything if b.is_floating_point()]
        self.integers = [(b, b.clone()) for _, b in everything if not b.is_floating_point()]
        self.generator = _generator(torch.device(task.device))
        self.hook: Any = _channels_last(self.module) if self._converts() else None
        self.forward = torch.func.vmap(self._call)
        self.row: Any = None  # what the parameters point at
        self.store: Any = None  # what the buffers point at
        self.moved: list[Any] = []  # the trained part of that row, as plain tensors
        self.views: list[Any] = []
        self.stack: list[Any] = []
        self.busy = self.tried = False
        self.answers: dict[tuple[tuple[int, ...], str], tuple[int, ...]] = {}
        self.integers_read: dict[tuple[int, ...], bool] = {}

    def _converts(self) -> bool:
        return bool(self.task.dtype == "float32" and torch.device(self.task.device).type == "cpu")

    def point(self, w: Any, buffers: Any) -> None:
        """Make the module's tensors views of these rows."""
        if w is not self.row:
            views = torch._C._nn.unflatten_dense_tensors(w, self.parameters)
            for parameter, view in zip(self.parameters, views, strict=True):
                parameter.data = view
            self.moved = [v for v, p in zip(views, self.parameters, strict=True) if p.requires_grad]
            self.row = w
        if self.floats and buffers is not self.store:
            old = [owner._buffers[name] for owner, name in self.floats]
            parts = buffers.split([b.numel() for b in old])
            self.views = [part.view(b.shape) for part, b in zip(parts, old, strict=True)]
            for view, (owner, name) in zip(self.views, self.floats, strict=True):
                owner._buffers[name] = view
            self.store = buffers

    @contextmanager
    def client(self) -> Iterator[None]:
        """Train one client inside: integer buffers start anew, torch's generator is kept."""
        for buffer, start in self.integers:
            buffer.copy_(start)
        state = self.generator.get_state() if self.draws else None
        self.busy = True
        try:
            yield
        finally:
            self.busy, self.stack = False, []
            if state is not None:
                self.generator.set_state(state)

    def output(self, x: Any, training: bool) -> Any:
        """Return the outputs of the rows pointed at."""
        if self.hook is not None and not self.tried:
            self._try_channels_last(x[:1])
        if self.module.training is not training:
            self.module.train(training)
        return self.module(x)

    def _try_channels_last(self, x: Any) -> None:
        """Try channels last; a model that calls `.view` on images is left as it is."""
        self.tried = True
        self.module.eval()
        try:
            with torch.no_grad():
                self.module(x)
        except RuntimeError:
            self.hook.remove()

    def reads_integers(self, shape: tuple[int, ...]) -> bool:
        """Return whether rows of whole numbers go in as such: not where only reals go through.

        Tried with zeros, once for each shape of a row. Where neither goes through, the kind whose
        error says more than that the dtype is wrong.
        """
        if shape not in self.integers_read:
            zeros = np.zeros((1, *shape), np.int64)
            wrong = self._fault(torch.from_numpy(zeros))
            wrong_dtype = bool(wrong) and re.search(r"dtype|scalar type|Long", wrong) is not None
            reals = torch.from_numpy(zeros.astype(self.task.dtype))
            self.integers_read[shape] = not wrong or (bool(self._fault(reals)) and not wrong_dtype)
        return self.integers_read[shape]

    def _fault(self, x: Any) -> str:
        """Say what a forward pass in evaluation mode raises; empty where it goes through."""
        try:
            with torch.no_grad():
                self.output(x.to(self.task.device), training=False)
        except Exception as error:  # a user's forward may raise anything
            return str(error) or type(error).__name__
        return ""

    def answer_to(self, shape: tuple[int, ...], dtype: str) -> tuple[int, ...]:
        """Return the shape of the output for one row of this shape, kept."""
        if (shape, dtype) not in self.answers:
            self.answers[shape, dtype] = self.answer(np.zeros((1, *shape), dtype))
        return self.answers[shape, dtype]

    def answer(self, x: Any) -> tuple[int, ...]:
        """Return the shape of the output for one of these rows; `DataError` if they do not fit."""
        try:
            with torch.no_grad():
                output = self.output(self.task.rows(x), training=False)
        except Exception as cause:  # a user's forward may raise anything
            raise DataError(
                f"the model cannot take rows of shape {x.shape[1:]} and dtype {x.dtype}; change "
                f"make_model or the data: {type(cause).__name__}: {cause}"
            ) from cause
        if torch.is_tensor(output):
            return tuple(output.shape[1:])
        if self.task.labels is None:
            return ()  # the loss takes it as it is
        raise DataError(
            f"the model answers with a {type(output).__name__}, and a {type(self.task).__name__} "
            f"needs one tensor (rows, ...); let forward return one of its parts, as in output, _ = "
            f"self.lstm(x) and then self.head(output[:, -1])"
        )

    def gradients(self, w: Any, buffers: Any, batch: Batch) -> tuple[Any, list[Any], Any]:
        """Return gradients of the trained parameters, the views of `w` they belong to, the loss.

        Buffers move in place.
        """
        if w.dim() > 1:
            return self._stacked(w, batch)
        self.point(w, buffers)
        grads, loss = self._seeded(batch)
        return grads, self.moved, loss

    def _seeded(self, batch: Batch) -> tuple[Any, Any]:
        if not self.draws:
            return self._gradients(batch)
        seed = 0 if batch.seed is None else int(batch.seed)
        if self.busy:
            self.generator.manual_seed(seed)
            return self._gradients(batch)
        with seeded(self.generator, seed):
            return self._gradients(batch)

    def _gradients(self, batch: Batch) -> tuple[Any, Any]:
        loss = self._loss(self.output(batch.x, training=True), batch)
        if self.floats:
            self._write_back()
        return _gradients_of(loss, self.trained), loss.detach()

    def _loss(self, output: Any, batch: Batch) -> Any:
        task = self.task
        if batch.scale is not None:
            return (per_row(task.loss(output, batch.y)) * batch.scale).sum()
        if task.average is not None:
            return task.average(output, batch.y)
        losses = task.loss(output, batch.y)
        return losses.mean() if losses.dim() else losses

    def _write_back(self) -> None:
        """Write back the value of a buffer that the model replaced instead of writing into it."""
        for view, (owner, name) in zip(self.views, self.floats, strict=True):
            if owner._buffers[name] is not view:
                view.copy_(owner._buffers[name].detach())
                owner._buffers[name] = view

    def whole(self, grads: Any, w: Any) -> Any:
        """Return the flat gradient, like `w`, zero where nothing is trained."""
        if len(self.trained) < len(self.parameters):
            found = {id(p): g for p, g in zip(self.trained, grads, strict=True)}
            empty = [w.new_zeros(*w.shape[:-1], p.numel()) for p in self.parameters]
            pairs = zip(self.parameters, empty, strict=True)
            grads = [found.get(id(p), zeros) for p, zeros in pairs]
        return torch.cat([g.reshape(*w.shape[:-1], -1) for g in grads], -1)

    def _stacked(self, w: Any, batch: Batch) -> tuple[Any, list[Any], Any]:
        if not self.batched:
            raise PlanError(
                f"{self.task} cannot be trained as a matrix of clients: its layers or loss do not "
                f"run under vmap; use engine='loop'"
            )
        clients, views = len(w), self._stack(w)
        trained = [v for v in views if v.requires_grad]
        if not self.module.training:
            self.module.train()
        output = self.forward(tuple(views), batch.x)
        losses = per_row(self.task.loss(output.flatten(0, 1), batch.y.flatten(0, 1)))
        losses = losses.view(clients, -1)
        mean = losses.mean(1) if batch.scale is None else (losses * batch.scale).sum(1)
        return _gradients_of(mean.sum(), trained), trained, mean.detach()

    def _stack(self, w: Any) -> list[Any]:
        """Return views `(clients, *shape)` of a matrix, kept while the same rows are trained."""
        old = self.stack
        # The kept views hold the memory, so the same address is the same matrix.
        if old and old[0].data_ptr() == w.data_ptr() and len(old[0]) == len(w):
            return old
        parts = w.detach().split([p.numel() for p in self.parameters], 1)
        self.stack = [
            part.view(len(w), *p.shape).requires_grad_(p.requires_grad)
            for part, p in zip(parts, self.parameters, strict=True)
        ]
        return self.stack

    def _call(self, values: tuple[Any, ...], x: Any) -> Any:
        named = dict(zip(self.names, values, strict=True))
        return torch.func.functional_call(self.module, named, (x,))


def _gradients_of(loss: Any, tensors: list[Any]) -> Any:
    """Call `torch.autograd.grad` with zeros for what the loss does not read, without its checks.

    They cost a fifth of a small step.
    """
    one = torch.ones_like(loss)
    grads = _BACKWARD(
        (loss,), (one,), False, False, tuple(tensors), allow_unreachable=True, accumulate_grad=False
    )
    if any(g is None for g in grads):
        pairs = zip(grads, tensors, strict=True)
        return [torch.zeros_like(t) if g is None else g for g, t in pairs]
    return grads


def _owner(module: Any, name: str) -> tuple[Any, str]:
    """Return the submodule that holds a buffer, and the buffer's name in it."""
    path, _, last = name.rpartition(".")
    return module.get_submodule(path), last


def _generator(device: Any) -> Any:
    """Return the generator that layers on a device draw from."""
    if device.type != "cuda":
        return torch.default_generator
    torch.cuda.init()
    return torch.cuda.default_generators[device.index or 0]


def _channels_last(module: Any) -> Any:
    """Let the first convolution read channels last, and what follows it keep them so.

    The weights stay as the layout has them; 1.2 times as fast on CPUs.
    """
    first = next((m for m in module.modules() if isinstance(m, nn.Conv2d)), None)
    return first and first.register_forward_pre_hook(_to_channels_last)


def _to_channels_last(_: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    x, *rest = inputs
    if x.dim() == 4 and x.shape[1] == 1:  # one channel is both formats: say which it is
        n, _, h, w = x.stride()
        return (x.as_strided(x.shape, (n, 1, h, w)), *rest)
    if x.dim() == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    return (x, *rest)
