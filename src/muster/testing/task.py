# SPDX-License-Identifier: Apache-2.0
"""`check_task`: vectors in, vectors out; true gradients; one client or many alike."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from muster import keys
from muster.algorithms import FedAvg, FedProx
from muster.errors import DataError
from muster.local import Group, Local, train
from muster.metrics.choice import usual
from muster.optimizers import SGD
from muster.plan import Plan
from muster.privacy.examples import clipped_rows
from muster.rounds import start
from muster.testing.claim import claim, close, copied, refused, same
from muster.types import Batch, Fusing, Task, TaskTraits
from muster.vectors import tree_map

__all__ = ["check_task"]

RATE, ROWS = 0.1, 4


def check_task(task: Task, x: Any, y: Any) -> None:
    """Raise `AssertionError` where a task breaks a promise of `Task`.

    `x`, `y` are at least eight rows it can be trained on. Gradients are checked in float64; what
    `layout.frozen` names must have none.

    >>> from muster.tasks.numpy import LinearRegression
    >>> check_task(LinearRegression(2), np.eye(8)[:, :2], np.arange(8.0))
    """
    x, y = np.asarray(x), np.asarray(y)
    claim(len(x) == len(y) >= 2 * ROWS, f"check_task was given {len(x)} rows; give eight or more")
    claim(task.framework, f"framework={task.framework!r}: name the package it computes with")
    traits = task.traits
    claim(isinstance(traits, TaskTraits), f"traits={traits!r}: a TaskTraits is needed")
    known = {"loop", "matrix", "fused"}
    claim(task.engines and known.issuperset(task.engines), f"engines={task.engines}: of {known}")
    claim(hash(task) == hash(task), f"{task} has no stable hash")
    claim(task.flops(8) > 0, f"{task}.flops(8) is {task.flops(8)}, not above 0")
    _start(task)
    _refusals(task, x, y)
    _sums(task, x, y)
    double = task.astype("float64")  # type: ignore[attr-defined]
    claim(double.layout.dtype == "float64", f"{task}.astype('float64') has another dtype")
    if traits.gradients:
        _gradients(double, *_rows(x, y))
    if traits.by_row and not double.mixing and not double.draws:
        _by_row(double, *_rows(x, y))
    _training(double, x, y)


def _start(task: Task) -> None:
    """Check layout, start and the two conversions."""
    layout, key = task.layout, keys.key(1)
    w, buffers = task.init(key)
    sizes, found = (layout.size, layout.buffers), (len(w), len(buffers))
    claim(sizes == found, f"{task}: the layout has sizes {sizes}, the start {found}")
    claim(w.dtype == layout.dtype, f"{task}: the start is {w.dtype}, the layout {layout.dtype}")
    claim(np.isfinite(w).all(), f"{task}: the start is not finite")
    claim(same((w, buffers), task.init(key)), f"{task}.init is not a function of its key")
    parts = layout.named(w) | layout.named(buffers, "buffer")
    again = layout.flat(parts), layout.flat(parts, "buffer")
    claim(same(again, (w, buffers)), f"{task}: its layout does not cut and join its vectors")
    tree = (w.copy(), None, {"b": buffers.copy(), "m": np.stack([w, 2 * w])})
    before = copied(tree)
    back = task.numpy(task.arrays(tree))
    claim(same(back, before), f"{task}: numpy is not the inverse of arrays")


def _refusals(task: Task, x: Any, y: Any) -> None:
    claim(refused(DataError, lambda: task.check(x, y)) is None, f"{task}.check refuses the rows")
    fewer = refused(DataError, lambda: task.check(x, y[:-1]))
    claim(fewer, f"{task}.check takes {len(x)} rows with {len(y) - 1} labels")
    if not task.traits.gradients:
        return  # whatever its own accept says
    if y.dtype.kind in "iu" and task.head.rows_of == "classes":
        wrong = y.copy()
        wrong[-1] = -1
        claim(refused(DataError, lambda: task.check(x, wrong)), f"{task}.check takes a label of -1")
    if x.dtype.kind == "f":
        hole = x.copy()
        hole[-1] = np.nan
        claim(refused(DataError, lambda: task.check(hole, y)), f"{task}.check takes NaN in x")


def _sums(task: Task, x: Any, y: Any) -> None:
    """Check that metric sums add up over rows."""
    w, buffers = task.init(keys.key(2))
    before = copied((w, buffers))
    measured = usual(task.head)
    whole = task.evaluate(w, buffers, x, y, measured)
    claim(same((w, buffers), before), f"{task}.evaluate changes the parameters or buffers")
    claim(whole.get("rows", 0) > 0, f"{task}.evaluate does not count its 'rows'")
    parts = [task.evaluate(w, buffers, x[a], y[a], measured) for a in (slice(3), slice(3, None))]
    added = {name: parts[0][name] + parts[1][name] for name in parts[0]}
    close(added, whole, 1e-4, f"{task}.evaluate in two parts")


def _rows(x: Any, y: Any) -> tuple[Any, Any]:
    """Return two clients' rows `(2, ROWS, ...)` in float64 or int64."""
    wide = (a.astype(np.float64 if a.dtype.kind == "f" else np.int64) for a in (x, y))
    one, two = (a[: 2 * ROWS].reshape(2, ROWS, *a.shape[1:]) for a in wide)
    return one, two


def _gradients(task: Task, x: Any, y: Any) -> None:
    w, buffers = task.init(keys.key(3))
    walk = 0.1 * np.random.default_rng(4).normal(size=(2, len(w)))
    many = w + walk
    alone = [_gradient(task, many[i], buffers, Batch(x[i], y[i], None, 7)) for i in (0, 1)]
    batch = Batch(x[0], y[0], None, 7)
    claim(
        same(_gradient(task, many[0], buffers, batch), alone[0]),
        f"{task}.gradient is not a function of parameters, buffers, rows and seed",
    )
    for name in task.layout.frozen:
        still = not task.layout.named(alone[0][0])[name].any()
        claim(still, f"{task}.layout.frozen names {name!r}, which has a gradient")
    for direction in np.random.default_rng(5).normal(size=(3, len(w))):
        for name in task.layout.frozen:
            task.layout.named(direction)[name][...] = 0
        direction /= np.linalg.norm(direction)
        ends = [_gradient(task, many[0] + h * direction, buffers, batch) for h in (1e-5, -1e-5)]
        slope = (float(ends[0][1]) - float(ends[1][1])) / 2e-5
        close(alone[0][0] @ direction, slope, 1e-5, f"{task}: gradient against a difference")
    if "matrix" in task.engines:
        rows = Batch(x, y, None, np.array([7, 7], np.uint32))
        found = _gradient(task, many, np.stack([buffers] * 2), rows)
        wanted = tree_map(lambda *parts: np.stack(parts), *alone)
        close(found[:2], wanted[:2], 1e-12, f"{task}: gradient of a matrix against one by one")
    if "fused" in task.engines:
        moved, loss = _descended(task, many[0], buffers, batch)
        wanted = many[0] - RATE * alone[0][0], alone[0][1]
        close((moved, loss), wanted, 1e-12, f"{task}: descend against a gradient step")


def _by_row(task: Any, x: Any, y: Any) -> None:
    """Check that each row's gradient is its own, and the sum of the clipped ones just that."""
    w, buffers = task.init(keys.key(6))
    w = w + 0.1 * np.random.default_rng(7).normal(size=w.shape)
    batch = Batch(*(a.reshape(-1, *a.shape[2:]) for a in (x, y)))
    mean, loss, _ = _gradient(task, w, buffers, batch)
    given = task.arrays(copied((w, buffers, batch.x, batch.y)))
    rows = Batch(*given[2:])
    grads, losses = copied(task.numpy(task.gradients(*given[:2], rows)))
    penalty = task.l2 * w, task.l2 / 2 * w @ w
    found = grads.mean(0) + penalty[0], losses.mean() + penalty[1]
    close(found, (mean, loss), 1e-12, f"{task}: the mean of gradients against the gradient")
    one = Batch(batch.x[1:2], batch.y[1:2])
    alone = _gradient(task, w, buffers, one)[0] - penalty[0]
    close(grads[1], alone, 1e-12, f"{task}: the gradient of a row against that of a batch of one")
    bound = float(np.median(np.linalg.norm(grads, axis=1)))
    for few, told in ((slice(None), "of rows"), (slice(0), "of no row")):
        part = Batch(rows.x[few], rows.y[few])
        total = copied(task.numpy(task.clipped(*given[:2], part, bound)[0]))
        wanted = clipped_rows(grads[few], bound).sum(0)
        close(total, wanted, 1e-10, f"{task}: the clipped sum {told}")


def _gradient(task: Task, w: Any, buffers: Any, batch: Batch) -> Any:
    """Return gradient, loss and buffers as NumPy arrays, on copies of what is given."""
    w, buffers, x, y = task.arrays(copied((w, buffers, batch.x, batch.y)))
    return copied(task.numpy(task.gradient(w, buffers, batch._replace(x=x, y=y))))


def _descended(task: Task, w: Any, buffers: Any, batch: Batch) -> Any:
    w, buffers, x, y = task.arrays(copied((w, buffers, batch.x, batch.y)))
    loss = cast("Fusing", task).descend(w, buffers, batch._replace(x=x, y=y), RATE)
    return copied(task.numpy((w, loss)))


def _training(task: Task, x: Any, y: Any) -> None:
    """Check that two unequal clients trained under every engine end in the same place."""
    sizes = np.array([5, len(x) - 5])
    local = Local(epochs=2, batch=3, optimizer=SGD(0.05))
    algorithms = [FedAvg()] if not task.traits.gradients else [FedAvg(), FedProx(mu=0.5)]
    for algorithm in algorithms:
        plan = Plan(task=task, algorithm=algorithm, local=local, dtype="float64")
        group = Group(("a", "b"), (1, 1), x, y, np.array([0, 5]), sizes)
        found: dict[str, Any] = {}
        for engine in task.engines:
            if engine != "fused" or plan.fusible:
                found[engine] = _trained(plan, engine, group)
        again = _trained(plan, "loop", group)
        claim(same(again, found["loop"]), f"{task}: the same training gives other bits")
        for engine, moved in found.items():
            close(moved, found["loop"], 1e-10, f"{task}: engine {engine!r} against 'loop'")


def _trained(plan: Plan, engine: str, group: Group) -> Any:
    """Return update, buffers and loss of each client."""
    groups = [group] if engine == "matrix" else group.alone()
    outcomes = [train(plan, engine, 1, start(plan).sent(), part) for part in groups]
    rows = [(o.payload["delta"], o.buffers, o.metrics["loss"]) for o in outcomes]
    return tuple(np.concatenate(parts) for parts in zip(*rows, strict=True))
