# SPDX-License-Identifier: Apache-2.0
"""`muster data`: who holds what, before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from muster.cli import screen
from muster.cli.run import PlanPath
from muster.data import Population, picture, statistics
from muster.errors import RunError
from muster.runs import planfile

__all__ = ["command"]


def command(
    plan: PlanPath,
    out: Annotated[Path | None, typer.Option(help="Also draw it into this PNG or SVG.")] = None,
    as_json: screen.Json = False,
) -> None:
    """Show who holds what: rows and labels of every client of a plan."""
    people = planfile.load(plan).enrolled().population
    facts = statistics(people)
    if out is not None:
        _draw(people, out)
    if as_json:
        fields = {"rows": facts.rows, "labels": facts.labels, "skew": facts.skew}
        screen.emit({"clients": facts.clients, "picture": out and str(out)} | fields)
        return
    print(facts)
    if out is not None:
        screen.say(f"[bold green]✓[/] {out}")


def _draw(people: Population, out: Path) -> None:
    try:
        picture(people).savefig(out)
    except (OSError, ValueError) as error:  # no such folder; no such format
        raise RunError(
            f"{out} cannot be written ({error}); name a .png or .svg file in a folder that is there"
        ) from error
