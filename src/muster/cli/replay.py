# SPDX-License-Identifier: Apache-2.0
"""`muster replay`: train a run again from its record, and compare every bit."""

from __future__ import annotations

from typing import Annotated

import typer

from muster.cli import screen, where
from muster.cli.run import PlanPath, Seed, Settings
from muster.runs import planfile
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
    folder = where.find(run)
    file = planfile.load(plan)
    found = replay(
        folder, planfile.altered(file.plan, settings, None, seed), file.enrolled().population
    )
    if as_json:
        screen.emit({"id": folder.name} | found._asdict())
    elif found.identical:
        screen.say(
            f"[bold green]✓[/] {folder.name}: {found.rounds} rounds replayed, every bit agrees"
        )
    else:
        screen.say(
            f"[bold red]✗[/] {folder.name}: {found.rounds} rounds replayed, "
            f"and {found.differs} differs; was it trained on other data, or on another machine?"
        )
    raise typer.Exit(0 if found.identical else 1)
