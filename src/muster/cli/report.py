# SPDX-License-Identifier: Apache-2.0
"""`muster report`: a run as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from muster.cli import locate, screen
from muster.runs import Run
from muster.web import report

__all__ = ["command"]


def command(
    run: locate.RunName = locate.LATEST,
    out: Annotated[Path | None, typer.Option(help="The file. [the run's report.html]")] = None,
    as_json: screen.Json = False,
) -> None:
    """Write a run as one HTML file that needs nothing else."""
    found = Run(locate.find(run))
    written = report.write(found, out or found.path / "report.html")
    if as_json:
        screen.emit({"id": found.id, "report": str(written)})
    else:
        screen.say(f"[bold green]✓[/] {screen.path(written)}")
