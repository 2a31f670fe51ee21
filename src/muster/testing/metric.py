# SPDX-License-Identifier: Apache-2.0
"""`check_metric`: sums that add up in any order, a value, and the declared direction."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from muster.metrics import Metric
from muster.metrics.choice import chosen
from muster.metrics.head import OutputHead, read
from muster.metrics.sums import flat, sums_of, value_of
from muster.metrics.trial import Tried, made_up
from muster.testing.claim import check_value, claim, close, copied, same

__all__ = ["check_metric"]

PARAMS = "__dataclass_params__"  # that mypy does not know
SURE = 8.0  # logits of one class above those of the others


def check_metric(metric: Metric, outputs: Any = None, y: Any = None) -> None:
    """Raise `AssertionError` where a metric breaks a promise of `Metric`.

    `outputs` `(rows, outputs)` and `y` `(rows, ...)` are rows that it takes, six or more; without
    them it is tried on ten classes, on two, and on numbers, made up. A `native` metric is given
    NumPy arrays here. What is found out: a name and a direction; sums that are the same for rows
    in another order and add up over parts; that nothing given is changed; a value that is one
    number; and, on rows that are made up, that right answers are no worse than wrong ones.

    >>> from muster.metrics import F1, TopK
    >>> check_metric(TopK(3)), check_metric(F1("macro"))
    (None, None)
    """
    _value(metric)
    if outputs is not None:
        _sums(metric, np.asarray(outputs), np.asarray(y))
        return
    heads = _heads(metric)
    for head in heads:
        _sums(metric, *made_up(head))
    _direction(metric, heads)


def _value(metric: Any) -> None:
    """Check that it is a frozen value; one that holds a function prints as no call."""
    frozen = is_dataclass(metric) and getattr(type(metric), PARAMS).frozen
    claim(frozen, f"{metric!r} is no frozen dataclass; write @dataclass(frozen=True)")
    if not any(callable(getattr(metric, field.name)) for field in fields(metric)):
        check_value(metric)


def _heads(metric: Metric) -> list[OutputHead]:
    """Return the kinds of outputs that the metric takes."""
    taken, failed = [], []
    for head in (OutputHead("softmax", 10), OutputHead("softmax", 2), OutputHead("numbers", 1)):
        try:
            chosen((metric,), head, f"a task with {head.kind} outputs")
            _given(metric, *made_up(head))
        except Exception as error:
            failed.append(str(error))
        else:
            taken.append(head)
    claim(
        taken,
        f"{metric!r} takes neither classes nor numbers that are made up; give check_metric rows "
        f"that it takes, as outputs and y: {failed[:1]}",
    )
    return taken


def _given(metric: Metric, outputs: Any, y: Any) -> dict[str, Any]:
    return sums_of(metric, outputs if metric.native else read(metric.needs, outputs), y)


def _sums(metric: Metric, outputs: Any, y: Any) -> None:
    rows = len(y)
    claim(rows >= 6, f"check_metric was given {rows} rows; give six or more")
    given = outputs if metric.native else read(metric.needs, outputs)
    before = copied((given, y))
    try:
        whole = Tried(metric).sums(given, y)
    except Exception as error:
        raise AssertionError(str(error)) from error
    claim(same((given, y), before), f"{metric!r}.sums changes what it is given")
    order = np.random.default_rng(3).permutation(rows)
    turned = flat(metric.name, sums_of(metric, given[order], y[order]))
    close(
        turned, flat(metric.name, whole), 1e-9, f"the sums of {metric!r} for rows in another order"
    )
    value = metric.value(whole)
    claim(np.ndim(value) == 0, f"the value of {metric!r} has shape {np.shape(value)}, not ()")


def _direction(metric: Metric, heads: list[OutputHead]) -> None:
    """Check that right answers beat wrong ones for some kind of outputs, or for none do worse."""
    found = []
    for head in heads:
        outputs, y = made_up(head)
        if head.rows_of == "classes":
            count = outputs.shape[1]
            right, wrong = (SURE * np.eye(count)[(y + shift) % count] for shift in (0, 1))
        else:
            right, wrong = y[:, None], y[:, None] + 5 * outputs
        found.append([value_of(metric, _given(metric, z, y)) for z in (right, wrong)])
    sign, word = (-1, "less") if metric.lower_is_better else (1, "more")
    better = any(sign * good > sign * bad for good, bad in found)
    worse = next((pair for pair in found if sign * pair[0] < sign * pair[1]), None)
    claim(
        better or worse is None,
        f"{metric!r} says that {word} is better, but right answers have {worse and worse[0]} and "
        f"wrong ones {worse and worse[1]}",
    )
