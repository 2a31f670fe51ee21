# SPDX-License-Identifier: Apache-2.0
"""`check_metric`: sums that add up in any order, a value, and the declared direction."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from muster.metrics import Metric
from muster.metrics.choice import chosen
from muster.metrics.head import Head, read
from muster.metrics.sums import flat, sums_of, value_of
from muster.metrics.trial import Tried, made_up
from muster.testing.claim import check_value, claim, close, copied, same

__all__ = ["check_metric"]

CLASSES = (10, 2)  # heads of classes that are tried, before numbers
SURE = 8.0  # logits of one class above those of the others


def check_metric(metric: Metric, outputs: Any = None, y: Any = None) -> None:
    """Raise `AssertionError` where a metric breaks a promise of `Metric`.

    `outputs` `(rows, outputs)` and `y` `(rows, ...)` are rows that it takes, six or more; without
    them it is tried on ten classes, on two, or on numbers, made up. A `native` metric is given
    NumPy arrays here. What is found out: a name and a direction; sums that are the same for rows in
    another order and add up over parts; that nothing given is changed; a value that is one number;
    and, on rows that are made up,
    that right answers are no worse than wrong ones.

    >>> from muster.metrics import F1, TopK
    >>> check_metric(TopK(3)), check_metric(F1("macro"))
    (None, None)
    """
    _value(metric)
    if outputs is not None:
        _sums(metric, np.asarray(outputs), np.asarray(y))
        return
    head = _head(metric)
    _sums(metric, *made_up(head))
    _direction(metric, head)


def _value(metric: Metric) -> None:
    """It is a frozen value; one that holds a function prints as no call."""
    frozen = is_dataclass(metric) and type(metric).__dataclass_params__.frozen  # type: ignore[attr-defined]
    claim(frozen, f"{metric!r} is no frozen dataclass; write @dataclass(frozen=True)")
    if not any(callable(getattr(metric, field.name)) for field in fields(metric)):  # type: ignore[arg-type]
        check_value(metric)


def _head(metric: Metric) -> Head:
    """The first kind of outputs that the metric takes."""
    heads = [Head("softmax", count) for count in CLASSES] + [Head("numbers", 1)]
    failed = []
    for head in heads:
        try:
            _named(metric, head)
            given, y = made_up(head)
            sums_of(metric, given if metric.native else read(metric.needs, given), y)
        except Exception as error:
            failed.append(str(error))
            continue
        return head
    raise AssertionError(
        f"{metric!r} takes neither classes nor numbers that are made up; give check_metric rows "
        f"that it takes, as outputs and y: {failed[0]}"
    )


def _named(metric: Metric, head: Head) -> None:
    chosen((metric,), head, f"a task with {head.kind} outputs")


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


def _direction(metric: Metric, head: Head) -> None:
    """Right answers against wrong ones."""
    outputs, y = made_up(head)
    if head.rows_of == "classes":
        count = outputs.shape[1]
        right, wrong = (SURE * np.eye(count)[(y + shift) % count] for shift in (0, 1))
    else:
        right, wrong = y[:, None], y[:, None] + 5 * outputs
    good, bad = (
        value_of(metric, sums_of(metric, z if metric.native else read(metric.needs, z), y))
        for z in (right, wrong)
    )
    word = "less" if metric.lower_is_better else "more"
    worse = good > bad if metric.lower_is_better else good < bad
    claim(
        not worse,
        f"{metric!r} says that {word} is better, but right answers have {good:g} and wrong ones "
        f"{bad:g}",
    )
