# SPDX-License-Identifier: Apache-2.0
"""`muster show`: one run, its plan and what came of it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from rich.markup import escape
from rich.text import Text

from muster.cli import locate, screen
from muster.cli.federation import control
from muster.plan.registry import spelled
from muster.runs import Run
from muster.web.reading import best

__all__ = ["command"]


def command(run: locate.RunName = locate.LATEST, as_json: screen.Json = False) -> None:
    """Show a run: its plan, how it was trained, and what came of it."""
    found = Run(locate.find(run))
    far, phase = locate.progress(found), control.phase(found.path)
    if as_json:
        screen.emit(
            {
                "id": found.id,
                "path": str(found.path),
                "state": far.state,
                "planned": far.planned,
                "phase": phase,
            }
            | found.facts
            | {"rounds": found.round, "history": found.history}
            | {"kept": found.rounds_kept}
            | {"superseded": [r | {"rollback": n} for n, r in found.superseded]}
        )
        return
    screen.say(
        f"[bold]{escape(found.id)}[/]  {far.done}/{far.planned} rounds, {phase or far.state}"
    )
    screen.say(f"[dim]{escape(screen.path(found.path))}[/]")
    for line in _back(found):
        screen.say(Text(line, "yellow"))
    parts = (("plan", _plan(found)), ("trained", _trained(found)), ("privacy", _privacy(found)))
    for title, made in parts:
        lines = list(made)
        if not lines:
            continue
        screen.say(f"\n[dim]{title}[/]")
        screen.say(screen.table(("", ""), lines, left=2))
    tables = (
        (f"history, on {found.measured or 'test rows'}", _history(found)),
        (f"clients, on {locate.rows(found)}", _clients(found)),
    )
    for title, shown in tables:
        if shown is not None:
            screen.say(f"\n[dim]{title}[/]")
            screen.say(shown)
    if found.warning:
        screen.say(Text(f"\n! {found.warning}", "bold yellow"))


def _back(run: Run) -> Iterator[str]:
    """Yield a line for each version that the run went back to, with the rounds it superseded."""
    for one in run.rollbacks:
        later = [record for number, record in run.superseded if number == one["number"]]
        gone: list[int] = [record["round"] for record in later]
        what = "superseded"
        if "lost" in one:
            what, gone = "lost by an older copy", [*range(one["to"] + 1, one["lost"] + 1)]
        rounds = f"{gone[0]} to {gone[-1]}" if len(gone) > 1 else ", ".join(map(str, gone))
        why = f": {one['reason']}" if one["reason"] else ""
        yield (
            f"rolled back to round {one['to']} by {one['by']}, {one['at']}{why} "
            f"({what}: round {rounds})"
        )


def _plan(run: Run) -> Iterator[tuple[str, str]]:
    for name, value in (run.facts.get("plan") or {}).items():
        if name != "class" and value not in (None, []):
            yield name, escape(spelled(value))


def _trained(run: Run) -> Iterator[tuple[str, str]]:
    seconds = sum(record.get("seconds", 0.0) for record in run.history)
    alone = run.facts.get("alone")
    yield (
        "engine",
        escape(
            f"{run.facts['engine']}, one by one: {alone}" if alone else str(run.facts.get("engine"))
        ),
    )
    if "workers" in run.facts:
        yield "workers", escape(f"{run.facts['workers']}: {run.facts.get('workers_reason')}")
    versions = run.facts.get("versions") or {}
    yield "versions", ", ".join(f"{name} {v}" for name, v in versions.items())
    yield "time", screen.span(seconds)
    for name, word in (("bytes_down", "sent down"), ("bytes_up", "sent up")):
        if any(name in record for record in run.history):
            yield word, screen.size(sum(record.get(name, 0) for record in run.history))
    lost = {
        kind: sum(len(record.get(kind, ())) for record in run.history)
        for kind in ("failed", "declined", "late")
    }
    if any(lost.values()):
        yield "lost", ", ".join(f"{count} {kind}" for kind, count in lost.items() if count)


def _privacy(run: Run) -> Iterator[tuple[str, str]]:
    seen = [record["privacy"] for record in run.history if record.get("privacy")]
    if not seen:
        if run.facts.get("examples"):  # what sites draw is known to them alone
            yield "statement", f"muster privacy {escape(run.id)}"
        return
    kept = run.facts.get("privacy") or run.facts.get("examples") or {}
    last, budget = seen[-1], kept.get("budget")
    of = f" of {budget['epsilon']:g}" if budget else ", without a budget"
    whose = f", for one row of {last['client']}" if last.get("unit") == "example" else ""
    text = f"{screen.number(last['epsilon'])}{of}, at delta {last['delta']:g}{whose}"
    yield "epsilon", escape(text)
    yield "by RDP", screen.number(last["rdp"])
    if rows := last.get("examples"):
        words = f"{screen.number(rows['epsilon'])}, at delta {rows['delta']:g}"
        yield "epsilon of a row", escape(f"{words}, of {rows['client']}")
    if run.facts.get("spent"):
        yield "stopped", escape(str(run.facts["stopped"]))
    yield "statement", f"muster privacy {escape(run.id)}"


def _history(run: Run) -> Any:
    seen = [(r["round"], r["metrics"]) for r in run.history if r.get("metrics")]
    if not seen:
        return None
    rows = []
    for metric in seen[-1][1]:
        values = [(round, metrics[metric]) for round, metrics in seen if metric in metrics]
        top = best([v for v in values if not math.isnan(v[1])], run.directions.get(metric))
        shown = [value for _, value in values]
        trend = screen.spark(shown[:: max(1, len(shown) // 30)])
        tops = ("–", "–") if top is None else (screen.number(top[1]), str(top[0]))
        figures = (screen.number(shown[0]), screen.number(shown[-1]), *tops)
        rows.append((metric, trend, *figures))
    return screen.table(("metric", "over time", "first", "last", "best", "in round"), rows, left=2)


def _clients(run: Run) -> Any:
    spread = locate.spread(run)
    if not spread:
        return None
    names = ("mean", "weighted", "p10", "p50", "p90", "worst")
    rows = [
        (metric, *(screen.number(part.get(name)) for name in names))
        for metric, part in spread.items()
        if isinstance(part, dict)
    ]
    return screen.table(("metric", *names), rows)
