# SPDX-License-Identifier: Apache-2.0
"""The pictures of a run: plain data in, inline SVG out; lines carry their own labels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from muster.extras import require
from muster.web.drawing import COLOURS, INK, PAPER, RULE, SOFT, draw, ends, plain, rounds_axis
from muster.web.reading import Points, duration, number, size

__all__ = ["clients", "curves", "holdings", "metric", "pace", "spread", "traffic", "training"]

_NAMED = 24  # clients shown by name
_BARS = 60  # rounds shown as bars


def metric(points: Points, name: str, baselines: Mapping[str, float], on: str) -> str:
    """Plot a metric by round, measured `on` some rows; baselines' final values are dashed lines."""

    def paint(panels: Sequence[Any]) -> None:
        (axes,) = panels
        _line(axes, points, COLOURS[0])
        labels = [(points[-1][1], f"this run {number(points[-1][1])}", COLOURS[0])]
        for colour, (title, value) in zip(_others(len(baselines)), baselines.items(), strict=True):
            axes.axhline(value, color=colour, linestyle=(0, (4, 3)), linewidth=1.3)
            labels.append((value, f"{plain(title)} {number(value)}", colour))
        rounds_axis(axes, [round for round, _ in points])
        axes.set_title(plain(f"{name} on {on}", 80))
        ends(axes, labels)

    beside = "".join(f"; {title} {number(value)}" for title, value in baselines.items())
    first, last = points[0], points[-1]
    return draw(
        paint,
        f"{name} by round, from {number(first[1])} in round {first[0]} "
        f"to {number(last[1])} in round {last[0]}{beside}",
    )


def curves(lines: Mapping[str, Points], name: str, *, lower: bool) -> str:
    """Plot the same metric of several runs; the best eight carry colour and label."""
    better = sorted(lines, key=lambda run: lines[run][-1][1] * (1 if lower else -1))
    chosen = [run for run in lines if run in better[:8]]

    def paint(panels: Sequence[Any]) -> None:
        (axes,) = panels
        for run in lines:
            if run not in chosen:
                axes.plot(*zip(*lines[run], strict=True), color=RULE, linewidth=1)
        labels = []
        for place, run in enumerate(chosen):
            colour = COLOURS[place % len(COLOURS)]
            _line(axes, lines[run], colour, "-" if place < len(COLOURS) else "--")
            labels.append((lines[run][-1][1], f"{plain(run)} {number(lines[run][-1][1])}", colour))
        rounds_axis(axes, [round for points in lines.values() for round, _ in points])
        axes.set_title(plain(name))
        ends(axes, labels)

    finals = ", ".join(f"{run} {number(lines[run][-1][1])}" for run in chosen)
    return draw(paint, f"{name} by round for {len(lines)} runs; final values: {finals}", height=3.1)


def spread(points: Sequence[tuple[int, Mapping[str, float]]], name: str) -> str:
    """Plot a metric's spread over clients by round: a band, the median, the mean, the worst."""
    rounds = [round for round, _ in points]
    of = {part: [values[part] for _, values in points] for part in points[0][1]}

    def paint(panels: Sequence[Any]) -> None:
        (axes,) = panels
        if len(points) == 1:
            axes.vlines(rounds, of["p10"], of["p90"], color=COLOURS[0], alpha=0.25, linewidth=9)
        else:
            axes.fill_between(
                rounds, of["p10"], of["p90"], color=COLOURS[0], alpha=0.16, linewidth=0
            )
        styles = (
            ("p50", "median", COLOURS[0], "-"),
            ("mean", "mean", COLOURS[2], (0, (4, 2))),
            ("worst", "worst client", COLOURS[1], "-"),
        )
        labels = []
        for part, title, colour, dash in (style for style in styles if style[0] in of):
            _line(axes, list(zip(rounds, of[part], strict=True)), colour, dash)
            labels.append((of[part][-1], f"{title} {number(of[part][-1])}", colour))
        rounds_axis(axes, rounds)
        axes.set_title(f"{plain(name)} on each client's own rows (band: p10 to p90)")
        ends(axes, labels)

    final = ", ".join(f"{part} {number(of[part][-1])}" for part in of)
    return draw(paint, f"Spread of {name} over clients by round; in round {rounds[-1]}: {final}")


def clients(values: Sequence[tuple[Any, float]], name: str, *, lower: bool) -> str:
    """Plot every client's value: a row of named dots for a few clients, a histogram for many."""
    worst = max if lower else min
    low = worst(values, key=lambda pair: pair[1])
    ordered = sorted(values, key=lambda pair: pair[1], reverse=lower)
    mean = sum(value for _, value in values) / len(values)

    def paint(panels: Sequence[Any]) -> None:
        (axes,) = panels
        ticker = require("matplotlib.ticker", extra="report")
        axes.grid(visible=True, axis="x")
        axes.xaxis.set_major_locator(ticker.MaxNLocator(nbins=6))
        if len(values) <= _NAMED:
            places = range(len(ordered))
            numbers = [value for _, value in ordered]
            colours = [COLOURS[1] if pair is low else COLOURS[0] for pair in ordered]
            axes.scatter(numbers, places, color=colours, s=34, zorder=3)
            axes.set_yticks(places, [plain(client) for client, _ in ordered])
            axes.margins(x=0.06, y=0.5 / len(values))
            for value, place in zip(numbers, places, strict=True):
                axes.annotate(
                    number(value),
                    (value, place),
                    (7, 0),
                    textcoords="offset points",
                    va="center",
                    color=SOFT,
                    fontsize=8.5,
                    bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1},
                )
        else:
            axes.grid(visible=True, axis="y")
            axes.hist(
                [v for _, v in values],
                bins=min(30, len(values) // 3),
                color=COLOURS[0],
                edgecolor=PAPER,
                linewidth=0.6,
            )
            axes.set_ylabel("clients")
        axes.axvline(mean, color=INK, linestyle=(0, (4, 3)), linewidth=1, zorder=1.5)
        axes.set_title(f"{plain(name)} of each client (dashed: mean {number(mean)})")

    height = 0.9 + 0.24 * max(len(values), 4) if len(values) <= _NAMED else 2.7
    return draw(
        paint,
        f"{name} of {len(values)} clients: mean {number(mean)}, "
        f"worst {number(low[1])} at client {low[0]}",
        height=height,
    )


def training(points: Points, title: str, colour: int = 0) -> str:
    """Plot a number of local training by round: its loss, or its drift."""

    def paint(panels: Sequence[Any]) -> None:
        (axes,) = panels
        _line(axes, points, COLOURS[colour])
        rounds_axis(axes, [round for round, _ in points])
        axes.set_title(plain(title, 60))
        ends(axes, [(points[-1][1], number(points[-1][1]), COLOURS[colour])])

    return draw(paint, f"{title} by round, {number(points[-1][1])} in round {points[-1][0]}")


def traffic(parts: Mapping[str, Points]) -> str:
    """Plot the bytes since the start of the run, by direction."""
    sums = {
        title: list(
            zip((r for r, _ in points), np.cumsum([n for _, n in points]).tolist(), strict=True)
        )
        for title, points in parts.items()
    }
    power = max(0, int(math.log10(max(p[-1][1] for p in sums.values()) or 1) // 3))

    def paint(panels: Sequence[Any]) -> None:
        (axes,) = panels
        labels = []
        looks = zip(sums.items(), COLOURS, ("-", (0, (4, 3))), strict=False)
        for (title, points), colour, dash in looks:
            scaled = [(round, value / 1000**power) for round, value in points]
            _line(axes, scaled, colour, dash)
            labels.append((scaled[-1][1], f"{plain(title)} {size(points[-1][1])}", colour))
        rounds_axis(axes, [round for points in sums.values() for round, _ in points])
        axes.set_ylim(bottom=0)
        axes.set_title(f"bytes since the start, in {['B', 'kB', 'MB', 'GB', 'TB', 'PB'][power]}")
        ends(axes, labels)

    finals = ", ".join(f"{title} {size(points[-1][1])}" for title, points in sums.items())
    return draw(paint, f"Bytes sent since the start of the run, in all: {finals}")


def pace(points: Points) -> str:
    """Plot the seconds by round: bars for a few rounds, a line for many."""
    middle = float(np.median([value for _, value in points]))

    def paint(panels: Sequence[Any]) -> None:
        (axes,) = panels
        rounds, values = zip(*points, strict=True)
        if len(points) <= _BARS:
            axes.bar(rounds, values, color=COLOURS[0], alpha=0.75, width=0.75)
        else:
            axes.plot(rounds, values, color=COLOURS[0], linewidth=0.9)
        axes.axhline(middle, color=INK, linestyle=(0, (4, 3)), linewidth=1)
        rounds_axis(axes, [min(rounds) - 0.5, max(rounds) + 0.5])
        axes.set_ylim(bottom=0)
        axes.set_title("seconds per round")
        ends(axes, [(middle, f"median {duration(middle)}", INK)])

    return draw(paint, f"Seconds per round over {len(points)} rounds, median {duration(middle)}")


def holdings(population: Mapping[str, Any]) -> str:
    """Plot who holds what: rows of each client above, below each label's share of its rows.

    `population` has "clients" and "rows", and may have "labels" (clients by labels, counts) and
    "names" (of the labels); without labels the picture is the rows alone.
    """
    rows = np.asarray(population["rows"], float)
    labels = population.get("labels")
    counts = None if labels is None else np.asarray(labels, float)
    order = np.argsort(-rows, kind="stable")
    if counts is not None and len(rows) > _NAMED:
        order = np.lexsort((-rows, counts.argmax(axis=1)))
    names = [plain(population["clients"][place], 12) for place in order]

    def paint(panels: Sequence[Any]) -> None:
        above, *below = panels
        above.bar(range(len(rows)), rows[order], color=COLOURS[0], width=_width(len(rows)))
        above.set_title("rows per client")
        above.set_xlim(-0.5, len(rows) - 0.5)
        if counts is not None:
            _map(below[0], counts[order], population.get("names"))
        last = panels[-1]
        if len(rows) <= _NAMED:
            upright = len(rows) <= 6 or max(map(len, names)) <= 3
            last.set_xticks(range(len(rows)), names, rotation=0 if upright else 90)
        else:
            by = "their commonest label" if counts is not None else "size"
            last.set_xlabel(f"clients, in the order of {by}")

    label = f"Rows of {len(rows)} clients: {int(rows.min())} to {int(rows.max())}"
    kinds = 0 if counts is None else counts.shape[1]
    return draw(
        paint,
        label + (f", and their mix of {kinds} labels" if kinds else ""),
        height=2.4 if not kinds else 3.2 + min(0.12 * kinds, 2.0),
        panels=2 if kinds else 1,
    )


def _map(axes: Any, counts: Any, names: Sequence[str] | None) -> None:
    """Map labels by clients; the more of its rows, the less transparent, on any paper."""
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = np.empty((*share.T.shape, 4))
    image[..., :3] = require("matplotlib.colors", extra="report").to_rgb("#1f8bd0")
    image[..., 3] = share.T / max(float(share.max()), 1e-9)
    axes.imshow(image, aspect="auto", origin="lower", interpolation="none")
    axes.grid(visible=False)
    kinds = counts.shape[1]
    shown = range(0, kinds, -(-kinds // 14))
    axes.set_yticks(shown, [plain(names[k], 14) if names else str(k) for k in shown])
    axes.set_title(f"label, as a share of the client's rows (full colour: {share.max():.0%})")


def _line(axes: Any, points: Points, colour: str, dash: Any = "-") -> None:
    marker = "o" if len(points) <= 12 else None
    axes.plot(*zip(*points, strict=True), color=colour, linestyle=dash, marker=marker, markersize=4)


def _others(count: int) -> list[str]:
    return [COLOURS[1:][place % (len(COLOURS) - 1)] for place in range(count)]


def _width(bars: int) -> float:
    return 0.8 if bars <= 100 else 1.0
