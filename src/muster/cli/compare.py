# SPDX-License-Identifier: Apache-2.0
"""`muster compare`: several runs, one table, one plot."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from muster.cli import locate, screen
from muster.errors import RunError
from muster.plan.registry import short, spelled
from muster.runs import Run
from muster.web import compare

__all__ = ["command"]


def command(
    runs: Annotated[list[str], typer.Argument(metavar="RUN RUN...", help="Ids or paths.")],
    metric: Annotated[
        str | None, typer.Option(help="The metric; the first of the plan's own.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Also write an HTML file with a plot.")] = None,
    as_json: screen.Json = False,
) -> None:
    """Compare runs: where they differ, and what came of it."""
    if len(runs) < 2:
        raise RunError(f"compare needs two runs or more, {len(runs)} was given; see `muster ls`")
    found = [Run(locate.find(name)) for name in runs]
    chosen = metric or locate.metric(found[0])
    rows = compare.table(found, chosen)
    written = compare.write(found, out, chosen) if out else None
    if as_json:
        for row, run in zip(rows, found, strict=True):
            screen.emit(row | {"path": str(run.path), "report": written and str(written)})
        return
    screen.say(_results(rows, found))
    screen.say()
    screen.say(_differences(rows) if rows[0]["differs"] else "[dim]their plans are the same[/]")
    if written:
        screen.say(f"[bold green]✓[/] {screen.path(written)}")


def _results(rows: list[dict[str, Any]], runs: list[Run]) -> Any:
    metric = rows[0]["metric"]
    lines = []
    for row, run in zip(rows, runs, strict=True):
        spread = locate.spread(run).get(metric, {})
        lines.append(
            (
                escape(row["id"]),
                *(screen.number(row[name]) for name in ("last", "best")),
                str(row["best_round"] or "–"),
                *(screen.number(spread.get(name)) for name in ("mean", "worst")),
                screen.size(row["bytes_up"]),
                screen.span(row["seconds"]),
                locate.measured(run) or "–",
            )
        )
    heads = (
        "run",
        f"last {metric}",
        "best",
        "round",
        "clients' mean",
        "worst",
        "sent up",
        "time",
        "measured on",
    )
    return screen.table(heads, lines)


def _differences(rows: list[dict[str, Any]]) -> Any:
    """Return the plan's fields that are not the same in all runs, a line for each run."""
    fields = list(rows[0]["differs"])
    lines = (
        [escape(row["id"]), *(escape(_short(row["differs"].get(name))) for name in fields)]
        for row in rows
    )
    return screen.table(("differs in", *fields), lines, left=1 + len(fields))


def _short(value: Any) -> str:
    return "–" if value is None else short(value) if isinstance(value, str) else spelled(value)
