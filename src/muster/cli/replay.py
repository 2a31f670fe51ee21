# SPDX-License-Identifier: Apache-2.0
"""`muster replay`: train a run again from its record, and compare every bit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from muster.cli import locate, screen
from muster.cli.run import PlanPath, Seed, Settings
from muster.plan import Plan
from muster.runs import Run, planfile
from muster.runs.folder import upgraded
from muster.runs.replay import replay

__all__ = ["command"]


def command(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's id or path, or latest.")],
    plan: PlanPath,
    settings: Settings = None,
    seed: Seed = None,
    as_json: screen.Json = False,
) -> None:
    """Train a run again from its record and compare the result bit for bit.

    Exits with 1 when a bit differs.
    """
    folder = locate.find(run)
    file = planfile.load(plan)
    altered = planfile.altered(file.plan, settings, None, seed)
    found = replay(folder, altered, file.enrolled().population)
    if as_json:
        screen.emit({"id": folder.name} | found._asdict())
    elif found.identical:
        screen.say(
            f"[bold green]✓[/] {folder.name}: {found.rounds} rounds replayed, every bit agrees"
        )
    else:
        screen.say(
            f"[bold red]✗[/] {folder.name}: {found.rounds} rounds replayed, "
            f"and {found.differs} differs; {_why(folder, altered)}"
        )
    raise typer.Exit(0 if found.identical else 1)


def _why(folder: Path, plan: Plan) -> str:
    """Say what may be the cause, as the plan and its code are the same."""
    other = upgraded(Run(folder).facts, plan)
    if other:
        return escape(f"it was trained with other releases: {other}")
    return "was it trained on other data, or on another machine?"
