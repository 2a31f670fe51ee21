# SPDX-License-Identifier: Apache-2.0
"""`muster compare`: several runs, one table, one plot."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

import typer

from muster.cli import screen, where
from muster.cli.show import constructor
from muster.errors import RunError
from muster.registry import differences
from muster.runs import Run
from muster.web import compare

__all__ = ["command"]


def command(
    runs: Annotated[list[str], typer.Argument(metavar="RUN RUN...", help="Ids or paths.")],
    metric: Annotated[str | None, typer.Option(help="The metric to compare. [accuracy]")] = None,
    out: Annotated[Path | None, typer.Option(help="Also write an HTML file with a plot.")] = None,
    as_json: screen.Json = False,
) -> None:
    """Compare runs: where they differ, and what came of it."""
    if len(runs) < 2:
        raise RunError(f"compare needs two runs or more, {len(runs)} was given; see `muster ls`")
    found = [Run(where.find(name)) for name in runs]
    chosen = _metric(found, metric)
    written = compare.write(found, out) if out else None
    rows = [_result(run, chosen) for run in found]
    differ = _differences(found)
    if as_json:
        for row, plans in zip(
            rows, zip(*differ.values(), strict=True) if differ else found, strict=True
        ):
            plan = dict(zip(differ, plans, strict=True)) if differ else {}
            screen.emit(row | {"plan": plan, "report": written and str(written)})
        return
    heads = ("run", *differ, f"last {chosen}", "best", "round", "mean", "worst", "up", "time")
    lines = [
        (run.id, *(_short(values[i]) for values in differ.values()), *_cells(row))
        for i, (run, row) in enumerate(zip(found, rows, strict=True))
    ]
    screen.say(screen.table(heads, lines, left=1 + len(differ)))
    if not differ:
        screen.say("[dim]their plans are the same[/]")
    if written:
        screen.say(f"[bold green]✓[/] {screen.path(written)}")


def _metric(runs: list[Run], asked: str | None) -> str:
    names = [set(run.metrics) for run in runs]
    shared = [name for name in runs[0].metrics if all(name in other for other in names)]
    if asked is None and shared:
        return screen.leading(shared) or shared[0]
    if asked is None or asked not in shared:
        every = sorted(set().union(*names))
        what = f"metric {asked!r}" if asked else "a metric"
        raise RunError(
            f"not every run has {what}; the runs have {', '.join(every) or 'none'}, "
            f"all of them {', '.join(shared) or 'none'}"
        )
    return asked


def _result(run: Run, metric: str) -> dict[str, Any]:
    seen = [
        (r["round"], r["metrics"][metric])
        for r in run.history
        if metric in (r.get("metrics") or {})
    ]
    best = screen.ahead(metric, [value for _, value in seen])
    spreads = [r["clients"][metric] for r in run.history if metric in (r.get("clients") or {})]
    return {
        "id": run.id, "path": str(run.path), "rounds": len(run.history), "metric": metric,
        "last": seen[-1][1] if seen else None, "best": best,
        "best_round": next((round for round, value in seen if value == best), None),
        "mean": spreads[-1]["mean"] if spreads else None,
        "worst": spreads[-1]["worst"] if spreads else None,
        "bytes_up": sum(r.get("bytes_up", 0) for r in run.history),
        "seconds": sum(r.get("seconds", 0.0) for r in run.history),
    }  # fmt: skip


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    figures = (screen.number(row[name]) for name in ("last", "best"))
    spread = (screen.number(row[name]) for name in ("mean", "worst"))
    at = str(row["best_round"]) if row["best_round"] is not None else "–"
    return (*figures, at, *spread, screen.size(row["bytes_up"]), screen.span(row["seconds"]))


def _differences(runs: list[Run]) -> dict[str, list[Any]]:
    """The plan's fields in which the runs differ, and each run's value."""
    plans = [run.facts.get("plan") or {} for run in runs]
    names: dict[str, None] = {}
    for one, other in combinations(plans, 2):
        names |= dict.fromkeys(name for name, *_ in differences(one, other))
    whole = [n for n in names if not any(n.startswith(f"{other}.") for other in names)]
    return {name: [_at(plan, name.split(".")) for plan in plans] for name in whole}


def _at(value: Any, path: list[str]) -> Any:
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else constructor(value)
    return text if len(text) <= 32 else f"{text[:31]}…"
