# SPDX-License-Identifier: Apache-2.0
"""`muster privacy`: what may be claimed of a run, or what a site knows of its own."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from muster.cli import locate, screen
from muster.cli.privacy import site
from muster.cli.privacy.threats import tell
from muster.errors import RunError
from muster.extras import require
from muster.privacy import Statement
from muster.runs import Run
from muster.runs.privacy.facts import statements
from muster.runs.privacy.threats import table

if TYPE_CHECKING:
    import typer
    from rich.text import Text
else:
    typer = require("typer", extra="site")
    Text = require("rich.text", extra="site").Text

__all__ = ["command"]

Folder = Annotated[
    Path | None,
    typer.Option("--site", "--identity", help="A site's identity, or a study: what it knows."),
]
Rules = Annotated[
    Path | None,
    typer.Option(
        help="site.toml: with --site, its budget and study; else peers, and what it keeps."
    ),
]


def command(
    run: locate.RunName = locate.LATEST,
    folder: Folder = None,
    policy: Rules = None,
    as_json: screen.Json = False,
) -> None:
    """State what a run's noise hides, from whom, and who learns what of a client.

    All of it is made of what the run recorded and charged, never written by hand; each line of who
    learns what names the test that fails if it is false. At a site, muster privacy --site lyon
    prints what its own ledger was charged, what is left, and who learns what of it.
    """
    if folder is not None:
        if run != locate.LATEST:
            raise RunError(f"--site {folder} and the run {run!r} were given; give one of them")
        site.show(folder, policy, as_json=as_json)
        return
    found = Run(locate.find(run))
    lines = table(found) if policy is None else table(found, *site.rules(policy))
    for place, made in enumerate(statements(found)):
        if as_json:
            screen.emit(
                {
                    "id": found.id,
                    "path": str(found.path),
                    "unit": made.unit,
                    "private": made.private,
                    "claim": made.claim,
                    "reasons": made.reasons,
                    "items": dict(made.items),
                    "threats": [asdict(line) for line in lines],
                }
            )
            continue
        if place:
            screen.say()
        _print(made)
    if not as_json:
        tell(lines)


def _print(made: Statement) -> None:
    screen.say(Text(made.claim, "bold" if made.private else "bold yellow"))
    for reason in made.reasons:
        screen.say(Text(f"  - {reason}", "yellow"))
    screen.say()
    rows = ((str(i), name, text) for i, (name, text) in enumerate(made.items.items(), 1))
    screen.say(screen.table(("", "", ""), rows, left=3))
