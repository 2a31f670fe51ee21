# SPDX-License-Identifier: Apache-2.0
"""A table of who holds what: rows and labels per client, and how skewed the labels are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from muster.data.population import Population
from muster.data.rows import ClientId
from muster.errors import DataError

__all__ = ["Statistics", "statistics"]

_LISTED = 20  # clients printed one by one
_COLUMNS = 12  # labels printed one by one


@dataclass(frozen=True, eq=False)
class Statistics:
    """Rows and labels of each client; `str()` is a small table.

    `rows` int64 `(clients,)`; `labels` int64 `(clients, classes)`, None for real-valued targets;
    `skew` in [0, 1): the mean over clients, weighted by rows, of the total-variation distance
    between a client's label mix and the pooled one (0: all alike), None without labels.
    """

    clients: tuple[ClientId, ...]
    rows: NDArray[np.int64]
    labels: NDArray[np.int64] | None
    skew: float | None

    @property
    def minimum(self) -> int:
        """Rows of the smallest client."""
        return int(self.rows.min())

    @property
    def median(self) -> float:
        """Rows of the median client."""
        return float(np.median(self.rows))

    @property
    def maximum(self) -> int:
        """Rows of the largest client."""
        return int(self.rows.max())

    def __str__(self) -> str:
        lines = [
            f"{len(self.clients)} clients, {int(self.rows.sum())} rows "
            f"(min {self.minimum}, median {self.median:g}, max {self.maximum})"
        ]
        if self.labels is not None:
            held = np.count_nonzero(self.labels, axis=1)
            lines[0] += f", {self.labels.shape[1]} labels, label skew {self.skew:.3f}"
            if len(self.clients) > _LISTED:
                lines.append(
                    f"labels per client: min {held.min()}, median {np.median(held):g}, "
                    f"max {held.max()}"
                )
        if len(self.clients) <= _LISTED:
            lines += _grid(self._cells())
        else:
            deciles = np.percentile(self.rows, [10, 25, 75, 90])
            lines.append(
                "rows per client: "
                + ", ".join(
                    f"p{p} {value:g}" for p, value in zip((10, 25, 75, 90), deciles, strict=True)
                )
            )
        return "\n".join(lines)

    def _cells(self) -> list[list[str]]:
        table = [["client", "rows"]]
        table += [[str(c), str(n)] for c, n in zip(self.clients, self.rows, strict=True)]
        if self.labels is None:
            return table
        if self.labels.shape[1] <= _COLUMNS:
            table[0] += [str(label) for label in range(self.labels.shape[1])]
            for line, counts in zip(table[1:], self.labels, strict=True):
                line += [str(count) if count else "." for count in counts]
        else:
            table[0] += ["labels", "most", "share"]
            for line, counts in zip(table[1:], self.labels, strict=True):
                top = int(counts.argmax())
                share = counts[top] / counts.sum()
                line += [str(np.count_nonzero(counts)), str(top), f"{share:.2f}"]
        return table


def statistics(population: Population, classes: int | None = None) -> Statistics:
    """Count every client's rows and labels; a lazy population is loaded client by client.

    Integer targets are labels 0 … classes-1 (one more than the largest unless given); targets
    with several values per row, such as text, count each value.

    Raises `DataError` on a label outside the classes, with the client's name.

    >>> print(statistics(Population.from_arrays({0: (np.eye(3), np.array([0, 1, 1]))})))
    1 clients, 3 rows (min 3, median 3, max 3), 2 labels, label skew 0.000
    client  rows  0  1
         0     3  1  2
    """
    clients = population.clients
    targets = [population[client][1] for client in clients[:1]]
    if targets[0].dtype.kind not in "biu":
        return Statistics(clients, population.sizes, None, None)
    counts: list[NDArray[np.int64]] = []
    for client in clients:
        y = population[client][1].ravel().astype(np.int64)
        low, high = int(y.min()), int(y.max())
        if low < 0 or (classes is not None and high >= classes):
            raise DataError(
                f"client {client!r} has label {low if low < 0 else high}, labels 0 to "
                f"{'classes' if classes is None else classes}-1 are required; recode the labels"
            )
        counts.append(np.bincount(y, minlength=classes or 0))
    width = max(len(count) for count in counts)
    labels = np.stack([np.pad(count, (0, width - len(count))) for count in counts])
    return Statistics(clients, population.sizes, labels, _skew(labels))


def _skew(labels: NDArray[np.int64]) -> float:
    rows = labels.sum(axis=1)
    mix, pooled = labels / rows[:, None], labels.sum(axis=0) / rows.sum()
    distance = np.abs(mix - pooled).sum(axis=1) / 2
    return float(distance @ rows / rows.sum())


def _grid(cells: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in cells
    ]
