# SPDX-License-Identifier: Apache-2.0
"""`muster ls`: the runs of a folder."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from muster.cli import locate, screen
from muster.cli.federation import control
from muster.errors import RunError
from muster.runs import Run
from muster.runs.measure import TRAINED

__all__ = ["command"]

HEADS = ("id", "algorithm", "task", "state", "rounds", "metric", "value", "ε", "active")
WIDE = 100  # columns of a terminal from which the task has room, too
COLOURS = {
    "finished": "green",
    "resumable": "yellow",
    "spent": "yellow",
    "training": "cyan",
    "unreadable": "red",
}


def command(
    folder: Annotated[Path, typer.Argument(help="Where the runs are.")] = locate.RUNS,
    as_json: screen.Json = False,
) -> None:
    """List the runs of a folder, first the one that was active last."""
    if not folder.is_dir() and folder != locate.RUNS:
        raise RunError(f"the folder {folder} does not exist; name one that holds runs")
    entries = [_entry(place) for place in locate.folders(folder)]
    if as_json:
        for entry in entries:
            screen.emit(entry)
        return
    if not entries:
        screen.say(f"no runs in {folder}/; begin with: muster new digits")
        return
    noisy = any(entry.get("epsilon") is not None for entry in entries)
    left_out = {"task": screen.console().width < WIDE, "ε": not noisy}
    shown = [name for name in HEADS if not left_out.get(name)]
    rows = ([_row(entry)[HEADS.index(name)] for name in shown] for entry in entries)
    screen.say(screen.table(shown, rows, left=shown.index("rounds")))


def _entry(place: Path) -> dict[str, Any]:
    last = datetime.fromtimestamp(locate.active(place)).astimezone()
    stamp = last.isoformat(timespec="seconds")
    try:
        run = Run(place)
    except RunError as error:
        return {
            "id": place.name,
            "path": str(place),
            "state": "unreadable",
            "active": stamp,
            "error": str(error),
        }
    plan = run.facts.get("plan") or {}
    far = locate.progress(run)
    metric = locate.metric(run)
    over_clients = locate.spread(run).get(metric, {}).get("mean")
    return {
        "id": run.id,
        "path": str(place),
        "algorithm": (plan.get("algorithm") or {}).get("class"),
        "task": (plan.get("task") or {}).get("class"),
        "state": far.state,
        "phase": control.phase(place),
        "rounds": far.done,
        "planned": far.planned,
        "metric": metric if run.metrics else f"clients' {metric}",
        "measured": locate.measured(run),
        "value": run.metrics.get(metric, over_clients),
        "epsilon": locate.epsilon(run),
        "active": stamp,
    }


def _row(entry: dict[str, Any]) -> tuple[str, ...]:
    shown = entry.get("phase") or entry["state"]  # of a federation: where its round stands
    state = f"[{COLOURS[entry['state']]}]{shown}[/]"
    when = datetime.fromisoformat(entry["active"]).strftime("%d %b %H:%M")
    rounds = f"{entry['rounds']}/{entry['planned']}" if "rounds" in entry else "–"
    words = (entry.get(name) or "–" for name in ("algorithm", "task"))
    trained = " (training rows)" if entry.get("measured") == TRAINED else ""
    metric = entry["metric"] + trained if entry.get("value") is not None else "–"
    task = [word.removeprefix("tasks.") for word in words]
    values = (screen.number(entry.get(name)) for name in ("value", "epsilon"))
    return (entry["id"], *task, state, rounds, metric, *values, when)
