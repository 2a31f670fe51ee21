# SPDX-License-Identifier: Apache-2.0
"""A picture of who holds what: rows per client above, each client's label mix below."""

from __future__ import annotations

from typing import Any

import numpy as np

from muster.data.population import Population
from muster.data.table import Statistics, statistics
from muster.extras import require

__all__ = ["picture"]

_NAMED = 100  # clients that are shown by name
_INK = "#3b4a5a"
_BAR = "#4c78a8"


def picture(population: Population, classes: int | None = None) -> Any:
    """Return a matplotlib `Figure` of who holds what, legible from a few to a thousand clients.

    Above, the rows of each client; below, a map of labels by clients, coloured by the share of
    the client's rows. Real-valued targets have no map: the rows per client are a histogram.
    Clients stand in the order of their ids; more than a hundred, in the order of their commonest
    label, the larger first.

    Raises `MissingExtra` without matplotlib.
    """
    figure = require("matplotlib.figure", extra="report").Figure(layout="constrained")
    facts = statistics(population, classes)
    if facts.labels is None:
        _histogram(figure, facts)
    else:
        _map(figure, facts)
    skew = "" if facts.skew is None else f" · label skew {facts.skew:.2f}"
    figure.suptitle(
        f"{len(facts.clients)} clients · {int(facts.rows.sum())} rows{skew}", color=_INK
    )
    return figure


def _histogram(figure: Any, facts: Statistics) -> None:
    figure.set_size_inches(7, 3.2)
    axes = figure.subplots()
    step = max(1, -(-(facts.maximum - facts.minimum + 1) // 30))
    edges = np.arange(facts.minimum, facts.maximum + step + 1, step) - 0.5
    axes.hist(facts.rows, bins=edges, color=_BAR)
    axes.set_xlabel("rows per client")
    axes.set_ylabel("clients")
    axes.spines[["top", "right"]].set_visible(False)


def _map(figure: Any, facts: Statistics) -> None:
    assert facts.labels is not None
    k, classes = facts.labels.shape
    order = np.arange(k)
    if k > _NAMED:
        order = np.lexsort((-facts.rows, facts.labels.argmax(axis=1)))
    rows, labels = facts.rows[order], facts.labels[order]
    width = float(np.clip(2.5 + 0.28 * k, 6, 13))
    height = float(np.clip(0.26 * classes, 1.8, 8))
    figure.set_size_inches(width, height + 2.2)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[1.3, height])
    if k <= _NAMED:
        above.bar(np.arange(k), rows, color=_BAR, width=0.8)
    else:
        above.fill_between(np.arange(k), rows, color=_BAR, step="mid", linewidth=0)
    above.set_ylabel("rows")
    above.set_ylim(0, None)
    above.spines[["top", "right"]].set_visible(False)
    share = (labels / labels.sum(axis=1, keepdims=True)).T
    shown = below.imshow(
        share,
        aspect="auto",
        cmap="Blues",
        vmin=0,
        vmax=share.max(),
        origin="lower",
        interpolation="nearest",
    )
    below.set_ylabel("label")
    below.set_xlabel("client" if k <= _NAMED else "clients, in order of their commonest label")
    _ticks(below, facts)
    figure.colorbar(shown, ax=below, label="share of its rows", pad=0.01)


def _ticks(axes: Any, facts: Statistics) -> None:
    assert facts.labels is not None
    k, classes = facts.labels.shape
    if k <= _NAMED:
        columns = np.arange(0, k, max(1, -(-k // 34)))
        names = [str(facts.clients[i]) for i in columns]
        upright = k <= 8 or max(map(len, names)) <= 3
        axes.set_xticks(columns, names, rotation=0 if upright else 90)
    axes.set_yticks(np.arange(0, classes, max(1, -(-classes // 20))))
    if k <= 40 and classes <= 20:
        axes.set_xticks(np.arange(k + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(classes + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="white", linewidth=1.5)
        axes.tick_params(which="minor", length=0)
