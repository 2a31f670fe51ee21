# SPDX-License-Identifier: Apache-2.0
"""Linear layers with a backward pass written by hand, for one client or many at once.

Every client has its own weights, so a layer of a cohort is a stack of small products. What
decides the speed of such small steps, in this order:

- Small products take OpenBLAS's path for small matrices, which packs nothing and is two to
  three times faster at batch 10. Its limits are 10⁶ multiplications, and 1200 results where
  both factors run along the summed axis (the forward pass); wider layers are cut into bands.
- Parameters stay in cache: `numpy_walk.py` says how many clients are trained at a time.
- No gradient is kept where nothing reads it: `descend` takes a band's update off the weights
  while it is warm, the rate already in the slopes. A small model takes its whole update off in
  one sweep instead, because a few long additions beat many short ones.
- Scratch arrays are kept between steps (by thread), so that no step touches fresh memory.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

from muster.privacy.examples import clip_factors
from muster.tasks.task import RowLoss
from muster.types import Batch
from muster.vectors import aligned

__all__ = [
    "Layers",
    "NetworkSpec",
    "RowGradients",
    "clipped",
    "descend",
    "forward",
    "gradient",
    "scratch",
    "single",
    "views",
]

SMALL = 1_000_000  # multiplications in a small product
FEW = 1_200  # results of a small product in the forward pass
NARROW = 32  # a narrower band is not worth its call

Layers = list[tuple[Any, Any]]  # weight (clients, out, in) and bias (clients, out) by layer


class NetworkSpec(Protocol):
    """A task's facts for the passes over its layers."""

    loss: RowLoss
    activation: str
    l2: float


Sink = Callable[[int, Any, Any], None]


class _Scratch(threading.local):
    """Arrays by name that live as long as the thread; their content is lost at the next call."""

    def __init__(self) -> None:
        self.held: dict[tuple[str, Any], Any] = {}

    def __call__(self, name: str, shape: tuple[int, ...], dtype: Any) -> Any:
        size = 1
        for n in shape:
            size *= n
        held = self.held.get((name, dtype))
        if held is None or held.size < size:
            held = self.held[name, dtype] = aligned((size,), dtype)
        return held[:size].reshape(shape)


scratch = _Scratch()


def views(w: Any, widths: tuple[int, ...]) -> Layers:
    """Return the layers of `w` `(clients, d)`, by layer weight `(out, in)` and then bias, as views.

    >>> [part.shape for part in views(np.zeros((4, 8)), (3, 2))[0]]
    [(4, 2, 3), (4, 2)]
    """
    clients, layers, start = len(w), [], 0
    for fan, out in pairwise(widths):
        middle = start + out * fan
        weight = w[:, start:middle].reshape(clients, out, fan)
        start = middle + out
        layers.append((weight, w[:, middle:start]))
    return layers


def forward(layers: Layers, x: Any, activation: str) -> tuple[list[Any], Any]:
    """Return the inputs of every layer, `(clients, rows, in)` each, and the outputs of the last.

    The outputs stand as `(outputs, clients, rows)`, in scratch.
    """
    inputs = [x]
    clients, rows, _ = x.shape
    for i, (weight, bias) in enumerate(layers[:-1]):
        _, out, fan = weight.shape
        h = scratch(f"h{i}", (clients, rows, out), weight.dtype)
        for band in _bands(out, _forward_limit(rows, fan)):
            np.matmul(inputs[-1], weight[:, band].swapaxes(1, 2), out=h[:, :, band])
        h += bias[:, None]
        if activation == "relu":
            np.maximum(h, 0, out=h)
        else:
            np.tanh(h, out=h)
        inputs.append(h)
    weight, bias = layers[-1]
    _, out, fan = weight.shape
    z = scratch("z", (out, clients, rows), weight.dtype)
    for band in _bands(out, _forward_limit(rows, fan)):
        part = z[band].transpose(1, 0, 2)
        np.matmul(weight[:, band], inputs[-1].swapaxes(1, 2), out=part)
    z += bias.T[:, :, None]
    return inputs, z


def gradient(
    layers: Layers, rows: Sequence[Any], model: NetworkSpec, rate: float, into: Layers
) -> Any:
    """Write `rate` times the gradient of the mean loss into other layers; the mean losses.

    `rows` are features `(clients, rows, in)`, targets, and each row's share of the mean (a
    number, or `(clients, rows)`). The penalty of `l2` is the caller's.
    """

    def put(i: int, slopes: Any, inputs: Any) -> None:
        weight, bias = into[i]
        for band in _bands(weight.shape[1], SMALL // max(1, inputs[0].size)):
            np.matmul(slopes[:, :, band].swapaxes(1, 2), inputs, out=weight[:, band])
        np.matmul(_ones(len(slopes[0]), slopes.dtype), slopes, out=bias)

    return _mean(_backward(layers, rows, model, rate, put), rows[2])


def descend(layers: Layers, rows: Sequence[Any], model: NetworkSpec, rate: float) -> Any:
    """Take `rate` times the gradient, l2 included, off the layers; the mean losses without l2."""
    keep = 1.0 - rate * model.l2

    def take(i: int, slopes: Any, inputs: Any) -> None:
        for part in layers[i] if model.l2 else ():
            part *= keep
        weight, bias = layers[i]
        for band in _bands(weight.shape[1], SMALL // max(1, inputs[0].size)):
            view = weight[:, band]
            update = scratch("update", view.shape, view.dtype)
            np.matmul(slopes[:, :, band].swapaxes(1, 2), inputs, out=update)
            np.subtract(view, update, out=view)
        bias -= np.matmul(_ones(len(slopes[0]), slopes.dtype), slopes)

    return _mean(_backward(layers, rows, model, rate, take), rows[2])


def single(layers: Layers, rows: Sequence[Any], model: NetworkSpec, into: Layers) -> Any:
    """Write each row's own gradient, of one client, into layers of as many clients; the losses."""

    def put(i: int, slopes: Any, inputs: Any) -> None:
        weight, bias = into[i]
        np.multiply(slopes[0, :, :, None], inputs[0, :, None], out=weight)
        bias[...] = slopes[0]

    return _backward(layers, [*rows[:2], 1.0], model, 1.0, put)[0]


def clipped(
    layers: Layers, rows: Sequence[Any], model: NetworkSpec, bound: float, into: Layers
) -> Any:
    """Write the sum of each client's row gradients, each no longer than the bound; the losses.

    No row's gradient is ever made: that of a linear layer is slopes times inputs, so its squared
    norm is ‖slopes‖² (‖inputs‖² + 1), with one for the bias (Goodfellow 2015, arXiv 1510.01799).
    A row whose share is zero does not count, nor one whose gradient is not finite. Returns the mean
    losses.
    """
    passed: list[tuple[int, Any, Any]] = []
    losses = _backward(layers, [*rows[:2], 1.0], model, 1.0, lambda *layer: passed.append(layer))
    square: Any = sum(_square(slopes) * (_square(h) + 1) for _, slopes, h in passed)
    real = np.broadcast_to(np.asarray(rows[2]) > 0, square.shape)
    norms = np.sqrt(np.where(real, square, 0))
    factors, odd = clip_factors(norms, bound, losses.dtype.name) * real, ~np.isfinite(norms)
    for i, slopes, h in passed:
        if odd.any():
            slopes, h = (np.where(odd[..., None], 0, part) for part in (slopes, h))
        weight, bias = into[i]
        scaled = (slopes * factors[..., None]).astype(slopes.dtype)
        np.matmul(scaled.swapaxes(1, 2), h, out=weight)
        np.matmul(_ones(len(slopes[0]), slopes.dtype), scaled, out=bias)
    return _mean(losses, rows[2])


class RowGradients:
    """The half of a task that looks at single rows; abstract: who it is says `Network`."""

    mixing: str = ""
    loss: RowLoss
    activation: str
    l2: float

    @property
    def widths(self) -> tuple[int, ...]:
        """Features, the width of each hidden layer, outputs."""
        raise NotImplementedError

    def gradients(self, w: Any, buffers: Any, batch: Batch) -> tuple[Any, Any]:
        """Return each row's gradient `(rows, d)` of its loss, no penalty; losses `(rows,)`."""
        g = aligned((len(batch.x), len(w)), w.dtype)
        rows, mine = self._rows(w, batch), views(w[None], self.widths)
        with np.errstate(all="ignore"):
            losses = single(mine, rows, self, views(g, self.widths))
        return g, losses.copy()

    def clipped(self, w: Any, buffers: Any, batch: Batch, bound: float) -> tuple[Any, Any]:
        """Return the sum of the rows' gradients, clipped one by one, like `w`; the mean loss."""
        many = w.reshape(-1, w.shape[-1])
        g, mine = aligned(many.shape, many.dtype), views(many, self.widths)
        with np.errstate(all="ignore"):
            loss = clipped(mine, self._rows(w, batch), self, bound, views(g, self.widths))
        return (g, loss) if w.ndim > 1 else (g[0], loss[0])

    def _features(self, x: Any, w: Any) -> Any:
        x = np.asarray(x).reshape(*x.shape[:2], self.widths[0])
        return x if x.dtype == w.dtype else x.astype(w.dtype)

    def _rows(self, w: Any, batch: Batch) -> Sequence[Any]:
        """Return features, targets and shares of the mean, with the axis of clients in front."""
        x, y, scale = batch.x, batch.y, batch.scale
        if w.ndim == 1:
            x, y, scale = x[None], np.asarray(y)[None], None if scale is None else scale[None]
        share = 1.0 / max(1, x.shape[1]) if scale is None else scale.astype(w.dtype, copy=False)
        return self._features(x, w), y, share


def _square(rows: Any) -> Any:
    wide = rows.astype(np.float64)
    return np.vecdot(wide, wide)


def _mean(losses: Any, share: Any) -> Any:
    if isinstance(share, float):
        return losses.sum(-1) * share
    return np.einsum("kb,kb->k", losses, share)


def _backward(
    layers: Layers, rows: Sequence[Any], model: NetworkSpec, rate: float, sink: Sink
) -> Any:
    """Feed `sink` each layer's slopes `(clients, rows, out)`, times the rate, and its inputs.

    From the last layer to the first; a layer's weights are read before its sink may move them.
    Returns the losses `(clients, rows)`.
    """
    x, y, share = rows
    inputs, z = forward(layers, x, model.activation)
    losses = model.loss.slope(z, y)
    z *= share * rate
    slopes = z.transpose(1, 2, 0)
    for i in reversed(range(len(layers))):
        below, h = None, inputs[i]
        if i:
            below = scratch(f"s{i}", h.shape, h.dtype)
            weight = layers[i][0]
            for band in _bands(weight.shape[2], SMALL // max(1, slopes[0].size)):
                np.matmul(slopes, weight[:, :, band], out=below[:, :, band])
        sink(i, slopes, h)
        if i:
            below *= h > 0 if model.activation == "relu" else 1 - h * h
        slopes = below
    return losses


def _forward_limit(rows: int, fan: int) -> int:
    return min(FEW // max(1, rows), SMALL // max(1, rows * fan))


@lru_cache(maxsize=64)
def _ones(rows: int, dtype: Any) -> Any:
    """Return ones: a product with them sums ten rows faster than a sum does."""
    return np.ones(rows, dtype)


@lru_cache(maxsize=1024)
def _bands(width: int, limit: int) -> tuple[slice, ...]:
    """Cut into equal bands of at most `limit` columns; one band where they would be too narrow.

    >>> _bands(200, 127)
    (slice(0, 100, None), slice(100, 200, None))
    """
    if limit >= width or limit < NARROW:
        return (slice(0, width),)
    step = -(-width // -(-width // limit))
    return tuple(slice(i, min(i + step, width)) for i in range(0, width, step))
