# SPDX-License-Identifier: Apache-2.0
"""A run as it is watched: a line per round, above a progress bar where there is a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from muster.cli import screen

__all__ = ["LiveRounds", "Quiet", "lines_kept"]

LINES = 40  # lines that a run prints at most, about
PAUSE = 0.1  # seconds between two redrawings of the bar
COLUMNS = {  # the width and the style of each
    "round": (9, "dim"),
    "train loss": (12, ""),
    "metric": (12, "bold"),
    "clients' mean": (15, ""),
    "worst": (12, ""),
    "ε": (12, "magenta"),
    "replies": (9, "dim"),
    "up": (10, "dim"),
    "time": (13, "dim"),
}
RARE = "ε"  # a column of runs with noise alone

Clock = Callable[[], float]


class Quiet:
    """Watches without a word, or as lines of JSON."""

    def __init__(self, *, lines: bool) -> None:
        self._lines = lines

    def __enter__(self) -> Quiet:
        return self

    def __exit__(self, *_: object) -> None:
        """End nothing."""

    def watch(self, record: dict[str, Any]) -> None:
        """Tell of one committed round."""
        if self._lines:
            screen.emit({"event": "round"} | record)

    def tell(self, event: dict[str, Any]) -> None:
        """Tell of something else that happened."""
        if self._lines:
            screen.emit(event)


class LiveRounds:
    """Watches for a person: `watch` is called with each committed record.

    `intro` stands above the first line; `done` rounds were committed before.
    """

    def __init__(
        self,
        title: str,
        rounds: int,
        done: int = 0,
        *,
        intro: str = "",
        clock: Clock = time.monotonic,
    ) -> None:
        self._console = screen.console()
        self._rounds, self._kept = rounds, lines_kept(rounds)
        self._series: list[float] = []
        self._metric: str | None = None
        self._intro, self._head = intro, ""
        self._begun: dict[str, Any] | None = None  # version 0, until the first round
        self._clock, self._shown = clock, 0.0
        self._bar = _bar(self._console) if self._console.is_terminal else None
        if self._bar:
            self._task = self._bar.add_task(title, total=rounds, completed=done, note="starting")

    def __enter__(self) -> LiveRounds:
        """Show the bar."""
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Take the bar away; the lines stay."""
        if self._bar:
            self._bar.stop()

    def watch(self, record: dict[str, Any]) -> None:
        """Show one committed round."""
        if self._intro:
            self._console.print(self._intro)
            self._intro = ""
        metrics = record.get("metrics") or _clients_means(record)
        if self._metric not in metrics:
            self._metric = screen.leading(metrics) or self._metric
        if self._metric is not None and self._metric in metrics:
            self._series.append(metrics[self._metric])
        self._trouble(record)
        self._redraw(record["round"])
        if record["round"] in self._kept:
            self._line(record)

    def tell(self, event: dict[str, Any]) -> None:
        """Print something else that happened, as a line."""
        self._console.print(Text(str(event.get("text", event)), "yellow"))

    def _redraw(self, round: int) -> None:
        now = self._clock()
        if self._bar is None or (now - self._shown < PAUSE and round < self._rounds):
            return
        self._shown = now
        note = ""
        if self._series and self._metric:
            note = f"{self._metric} {screen.number(self._series[-1])}  {_trend(self._series)}"
        self._bar.update(self._task, completed=round, note=note, refresh=True)

    def _line(self, record: dict[str, Any]) -> None:
        """Print a line; that of version 0 waits for the first round's, which knows the columns."""
        if record["round"] == 0:
            self._begun = record
            return
        lines = [self._cells(one) for one in (self._begun, record) if one is not None]
        self._begun = None
        shown = {n: c for n, c in COLUMNS.items() if n != RARE or lines[-1][n]}
        self._heading(shown, _rows(record))
        for cells in lines:
            text = Text()
            for name, (width, style) in shown.items():
                text.append(" " + cells[name].rjust(width - 1), style)  # two never touch
            self._console.print(text)

    def _cells(self, record: dict[str, Any]) -> dict[str, str]:
        metrics, played = record.get("metrics") or {}, record["round"] > 0
        spread = (record.get("clients") or {}).get(self._metric) or {}
        train = record.get("train") or {}
        return {
            "round": f"{record['round']}/{self._rounds}",
            "train loss": screen.number(train.get("loss")) if played else "",
            "metric": _figure(metrics.get(self._metric or "")),
            "clients' mean": _figure(spread.get("mean")),
            "worst": _figure(spread.get("worst")),
            "ε": _figure((record.get("privacy") or {}).get("epsilon")),
            "replies": f"{len(record['accepted'])}/{len(record['invited'])}" if played else "",
            "up": screen.size(record.get("bytes_up")) if played else "",
            "time": screen.span(record.get("seconds")),
        }

    def _heading(self, columns: dict[str, tuple[int, str]], on: str) -> None:
        """Print the names of the columns, again when the metric is first known."""
        named = {"metric": "test loss" if self._metric == "loss" else self._metric or ""}
        head = "".join(" " + named.get(n, n).rjust(width - 1) for n, (width, _) in columns.items())
        if head != self._head:
            self._head = head
            if on:
                self._console.print(Text(on, "dim"))
            self._console.print(Text(head, "dim"))

    def _trouble(self, record: dict[str, Any]) -> None:
        """Print a line for each client that did not answer, and for a round that did not count."""
        for kind in ("failed", "declined", "late"):
            for answer in record.get(kind, ()):
                why = answer.get("error") or answer.get("reason") or "after the deadline"
                last = str(why).strip().splitlines()[-1]
                who = f"round {record['round']}: client {answer['client']!r} {kind}: {last}"
                self._console.print(Text(who, "yellow"))
        if record.get("abandoned"):
            text = f"round {record['round']}: too few replies, so the model stays as it was"
            self._console.print(Text(text, "yellow"))


def lines_kept(rounds: int) -> frozenset[int]:
    """Choose the rounds that get a line: all of a short run, about forty of a long one, evenly.

    0 is what training starts from.

    >>> sorted(lines_kept(3)), len(lines_kept(1000))
    ([0, 1, 2, 3], 42)
    """
    step = max(1, -(-rounds // LINES))
    return frozenset({0, 1, rounds, *range(step, rounds + 1, step)})


def _bar(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(style="cyan"),
        TextColumn("{task.description}", style="bold"),
        BarColumn(bar_width=24, complete_style="cyan", finished_style="green"),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}", style="cyan"),
        TimeRemainingColumn(compact=True),
        console=console,
        refresh_per_second=5,
        transient=True,
    )


def _trend(series: list[float]) -> str:
    step = max(1, -(-len(series) // 20))
    return screen.spark(series[::-1][::step][::-1])


def _rows(record: dict[str, Any]) -> str:
    """Say on which rows this round's metrics were measured, in a line."""
    spread = record.get("clients") or {}
    parts = [f"metrics on {record['measured']}"] if record.get("measured") else []
    return "; ".join(parts + ([f"clients on {spread['on']}"] if spread.get("on") else []))


def _figure(value: float | None) -> str:
    return "" if value is None else screen.number(value)


def _clients_means(record: dict[str, Any]) -> dict[str, float]:
    """Return the clients' means, where nothing is evaluated centrally."""
    spread = record.get("clients") or {}
    return {name: part["mean"] for name, part in spread.items() if isinstance(part, dict)}
