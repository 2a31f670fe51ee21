# SPDX-License-Identifier: Apache-2.0
"""Facts about a torch model before it sees data: layout, draws, cost, vmap or not.

A model does not say what rows it takes, so an example is guessed from its first layers and
tried. Where no guess fits, the careful answer is given: it may draw, it is not batched.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from typing import Any, NamedTuple

from muster.errors import PlanError
from muster.extras import require
from muster.layout import Layout, TensorEntry

torch: Any = require("torch", "torch")
nn = torch.nn

__all__ = ["ModelTraits", "build", "difference", "facts", "layout_of", "saved", "seeded"]

_DRAWING = (nn.modules.dropout._DropoutNd, nn.RReLU, nn.FractionalMaxPool2d)
_SLOW_BATCHED = (nn.modules.conv._ConvNd, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)
_SIDES = (28, 32, 64, 96, 128, 224)


class ModelTraits(NamedTuple):
    """`draws`: forward may draw; `batched`: it can run under vmap; `flops` of a step, by row.

    `width` is how many outputs a row (or each of its positions) has; None where no guess fits.
    `counts`: it counts its steps in buffers that are no part of its state.
    """

    layout: Layout
    draws: bool
    batched: bool
    flops: float
    width: int | None = None
    counts: bool = False


@contextmanager
def seeded(generator: Any, seed: int) -> Iterator[None]:
    """Draw from a torch generator as if fresh from this seed, and leave it as it was."""
    state = generator.get_state()
    generator.manual_seed(seed)
    try:
        yield
    finally:
        generator.set_state(state)


def build(make_model: Callable[[], Any], dtype: str, seed: int = 0) -> Any:
    """Return a fresh module on the CPU, drawn from a seed; the global generator is left alone."""
    with seeded(torch.default_generator, seed):
        module = make_model()
    if not isinstance(module, nn.Module):
        raise PlanError(
            f"make_model={make_model!r} returned {type(module).__name__}; "
            f"it must return a torch.nn.Module"
        )
    lazy = next((name for name, p in module.named_parameters() if nn.parameter.is_lazy(p)), None)
    if lazy is not None:
        raise PlanError(
            f"make_model={make_model!r} returned a model whose {lazy} has no shape before it has "
            f"seen rows (a lazy layer); give the sizes, such as nn.Linear(4, 3), or let make_model "
            f"call the model once on rows of zeros"
        )
    return module.to(dtype=getattr(torch, dtype))


def saved(module: Any) -> list[tuple[str, Any]]:
    """Return the buffers that belong to the model's state, by name."""
    kept = module.state_dict().keys()
    return [(name, buffer) for name, buffer in module.named_buffers() if name in kept]


def layout_of(module: Any, dtype: str) -> Layout:
    """Return the parameters in torch's order, then the float buffers; tied ones count once.

    >>> layout_of(torch.nn.Linear(2, 3), "float32").size
    9
    """
    entries = [TensorEntry(name, tuple(p.shape)) for name, p in module.named_parameters()]
    floats = [(name, b) for name, b in saved(module) if b.is_floating_point()]
    entries += [TensorEntry(name, tuple(b.shape), "buffer") for name, b in floats]
    frozen = tuple(name for name, p in module.named_parameters() if not p.requires_grad)
    return Layout(tuple(entries), dtype, frozen)


def difference(expected: Layout, found: Layout) -> str:
    """Return the first tensor in which two layouts differ, in words; empty when they agree."""
    for i in range(max(len(expected.entries), len(found.entries))):
        want, have = (
            f"{lay.entries[i].kind} {lay.entries[i].name} {lay.entries[i].shape}"
            if i < len(lay.entries)
            else "nothing"
            for lay in (expected, found)
        )
        if want != have:
            return f"{want} in one, {have} in another"
    for name in sorted({*expected.frozen} ^ {*found.frozen}):
        return f"{name} is trained in one and frozen in another"
    return ""


def facts(
    make_model: Callable[[], Any], loss: Callable[[Any, Any], Any], dtype: str
) -> ModelTraits:
    """Build the model once and look at it."""
    module = build(make_model, dtype)
    layout = layout_of(module, dtype)
    x = _example(module)
    draws = _draws(module, x)
    batched = (
        x is not None
        and not draws
        and not saved(module)
        and not any(isinstance(m, _SLOW_BATCHED) for m in module.modules())
        and _runs_batched(module, loss, x)
    )
    width = _width(module, x, loss)
    return ModelTraits(layout, draws, batched, _flops(module, x), width, _counts(module))


def _counts(module: Any) -> bool:
    """Return whether a model counts its steps in buffers, which begin anew with every piece.

    BatchNorm's own count is read by a cumulative average only (`momentum=None`).
    """
    whole = [name for name, b in module.named_buffers() if not b.is_floating_point()]
    cumulative = any(vars(part).get("momentum", 0) is None for part in module.modules())
    return cumulative or any(not name.endswith("num_batches_tracked") for name in whole)


def _example(module: Any) -> Any:
    """Return two rows of zeros that the model takes, or None."""
    module.eval()
    for shape, kind in _guesses(module):
        x = torch.zeros((2, *shape), dtype=kind)
        try:
            with torch.no_grad(), seeded(torch.default_generator, 0):
                module(x)
        except Exception:  # a wrong guess may raise anything in a user's forward
            continue
        return x
    return None


def _width(module: Any, x: Any, loss: Any) -> int | None:
    """Return the outputs of a row or position: the last axis, for torch's own losses the second."""
    if x is None:
        return None
    with torch.no_grad(), seeded(torch.default_generator, 0):
        output = module(x)
    if not torch.is_tensor(output) or output.dim() < 2:
        return 1 if torch.is_tensor(output) else None
    second = isinstance(loss, nn.CrossEntropyLoss | nn.NLLLoss)
    return int(output.shape[1 if second else -1])


def _guesses(module: Any) -> Iterator[tuple[tuple[int, ...], Any]]:
    number = next((p.dtype for p in module.parameters()), torch.float32)
    for layer in module.modules():
        if isinstance(layer, nn.Unflatten):
            yield (prod(layer.unflattened_size),), number
        elif isinstance(layer, nn.Linear):
            yield (layer.in_features,), number
            yield (16, layer.in_features), number
        elif isinstance(layer, nn.Embedding):
            yield (16,), torch.int64
        elif isinstance(layer, nn.RNNBase):
            yield (16, layer.input_size), number
        elif isinstance(layer, nn.modules.conv._ConvNd):
            axes = len(layer.kernel_size)
            for side in _SIDES if axes < 3 else _SIDES[:2]:
                shape = (layer.in_channels, *[side] * axes)
                yield shape, number
                yield (prod(shape),), number
        elif isinstance(layer, nn.BatchNorm1d):
            yield (layer.num_features,), number
        elif isinstance(layer, nn.LayerNorm):
            yield tuple(layer.normalized_shape), number


def _draws(module: Any, x: Any) -> bool:
    for layer in module.modules():
        inner = isinstance(layer, nn.RNNBase | nn.MultiheadAttention) and layer.dropout > 0
        if inner or isinstance(layer, _DRAWING):
            return True
    if x is None:  # layers of the user's own may draw
        return any(not type(m).__module__.startswith("torch.nn") for m in module.modules())
    before = torch.default_generator.get_state()
    module.train()
    try:
        with torch.no_grad():
            module(x)
    except Exception:  # it takes rows in evaluation only: be careful
        return True
    finally:
        module.eval()
        after = torch.default_generator.get_state()
        torch.default_generator.set_state(before)
    return not bool(torch.equal(before, after))


def _runs_batched(module: Any, loss: Callable[[Any, Any], Any], x: Any) -> bool:
    """Return whether vmap over two clients works without falling back, and the loss is by row.

    Tried as it will be run, in training and with a backward pass, and in evaluation: a model may
    look at its numbers in one mode alone.
    """
    return all(_batched(module.train(mode), loss, x) for mode in (True, False))


def _batched(module: Any, loss: Callable[[Any, Any], Any], x: Any) -> bool:
    names = [name for name, _ in module.named_parameters()]
    stack = tuple(
        p.detach().expand(2, *p.shape).requires_grad_(p.requires_grad) for p in module.parameters()
    )

    def call(values: tuple[Any, ...], rows: Any) -> Any:
        return torch.func.functional_call(module, dict(zip(names, values, strict=True)), (rows,))

    try:
        with warnings.catch_warnings(), torch.set_grad_enabled(module.training):
            warnings.simplefilter("error")
            output = torch.func.vmap(call)(stack, x.expand(2, *x.shape))
            if module.training:
                output.sum().backward()
    except Exception:  # vmap has no rule for something in the user's forward
        return False
    return bool(output.shape[1] == len(x)) and _by_row(loss, output.flatten(0, 1))


def _by_row(loss: Callable[[Any, Any], Any], output: Any) -> bool:
    labels = torch.zeros(output.shape[:-1], dtype=torch.int64)
    for y in (labels, torch.zeros_like(output), torch.zeros(len(output), dtype=output.dtype)):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                losses = loss(output, y)
        except Exception:  # not the kind of label that this loss takes
            continue
        return bool(losses.dim() > 0 and len(losses) == len(output))
    return False


def _flops(module: Any, x: Any) -> float:
    """Count six for each weight and position: two for the forward pass, four for the backward."""
    dense: float = 6.0 * sum(p.numel() for p in module.parameters())
    if x is None:
        return dense
    total = [0.0]

    def count(layer: Any, _: Any, output: Any) -> None:
        output = output[0] if isinstance(output, tuple) else output
        own = sum(p.numel() for p in layer.parameters(recurse=False))
        if own and not isinstance(layer, nn.Embedding):
            weight = getattr(layer, "weight", None)
            channels = output.shape[-1] if weight is None else len(weight)
            total[0] += 6.0 * own * max(1.0, output.numel() / (len(x) * channels))

    hooks = [m.register_forward_hook(count) for m in module.modules()]
    with torch.no_grad():
        module(x)
    for hook in hooks:
        hook.remove()
    return total[0] or dense
