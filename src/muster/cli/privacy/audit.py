# SPDX-License-Identifier: Apache-2.0
"""`muster audit privacy`: attacks on a run, against what its ledger promises."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

from muster.cli import locate, screen
from muster.cli import run as training
from muster.extras import require
from muster.runs import Run, planfile
from muster.runs.privacy.auditing import audited

if TYPE_CHECKING:
    import typer
    from rich.text import Text
else:
    typer = require("typer", extra="site")
    Text = require("rich.text", extra="site").Text

__all__ = ["command"]

COLOURS = {
    "holds": "green",
    "hidden": "green",
    "fault": "bold red",
    "exposed": "yellow",
    "no promise": "yellow",
    "not audited": "dim",
}


def command(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's id or path, or latest.")],
    plan: training.PlanPath,
    settings: training.Settings = None,
    seed: training.Seed = None,
    as_json: screen.Json = False,
) -> None:
    """Attack a run: canaries, membership inference, inversion of an update.

    What is measured stands beside what is promised. Exits with 1 when an attack finds more than
    the ledger promises: that is a fault to report. No attack proves that nothing is revealed.
    """
    file = planfile.load(plan)
    changed = planfile.altered(file.plan, settings, None, seed)
    people, rows = file.enrolled()
    found = audited(Run(locate.find(run), changed), changed, people, rows)
    if as_json:
        for one in found:
            screen.emit(asdict(one))
    else:
        cells: Any = [
            (
                one.attack,
                one.measured,
                one.promised,
                Text(one.verdict, COLOURS.get(one.verdict, "")),
            )
            for one in found
        ]
        screen.say(screen.table(("attack", "measured", "promised", "verdict"), cells, left=4))
    raise typer.Exit(1 if any(one.verdict == "fault" for one in found) else 0)
