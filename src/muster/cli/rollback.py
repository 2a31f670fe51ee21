# SPDX-License-Identifier: Apache-2.0
"""`muster rollback`: a run goes back to a round whose model it keeps."""

from __future__ import annotations

import contextlib
import getpass
import os
import threading
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from muster.cli import locate, screen
from muster.cli.federation import control
from muster.errors import RunError
from muster.extras import require
from muster.runs import Run
from muster.runs.rollback import refuse_return, roll_back
from muster.store.sqlite import SQLiteStore

__all__ = ["command"]

PATIENCE = 120.0  # seconds until a server has answered: it may be adding up large updates
LEAD = 5.0  # seconds that another server may take to let go of a run that has ended

Named = Annotated[str, typer.Argument(metavar="RUN", help="A run's id or path.")]
Round = Annotated[
    int, typer.Argument(metavar="ROUND", min=0, help="The round to go back to; 0 is the start.")
]
Lost = Annotated[
    int | None,
    typer.Option(
        metavar="LAST",
        help="The folder of a federation was put back to an older copy, and rounds up to LAST that "
        "were played are lost by it; ROUND is then the round that it stands after.",
    ),
]
Played = Annotated[
    int | None,
    typer.Option(
        metavar="COUNT",
        help="With --lost, where the run had gone back after the copy was made: how many rounds "
        "were played since, each counted as often as it was; each was a release.",
    ),
]
Reason = Annotated[str, typer.Option(help="Why: it is recorded with who and when.")]
Database = Annotated[
    str | None,
    locate.database("postgresql://… that the run's servers share, where none of them runs."),
]


def command(
    run: Named,
    round: Round,
    reason: Reason = "",
    lost: Lost = None,
    played: Played = None,
    store: Database = None,
    as_json: screen.Json = False,
) -> None:
    """Go back to a round whose model is kept: what came after is superseded, never forgotten.

    Of a run that is stopped, or of a federation whose server runs here.
    """
    folder, by = control.find(run), _user()
    order = {"round": round, "by": by, "reason": reason}
    found = None
    if lost is None and played is None:
        found = control.ask(folder, "POST", "/rollback", order, patience=PATIENCE)
    running = found is not None
    if found is None:
        found = _stopped(folder, store, order | {"lost": lost, "played": played})
    if as_json:
        screen.emit({"path": str(folder), "running": running} | found)
        return
    name = screen.path(folder)
    what = f", from {found['from']}; what came after is superseded"
    if lost is not None:
        count = lost - round if played is None else played
        what = (
            f"; rounds {round + 1} to {lost} are lost, and played again under another attempt; "
            f"they count as {count} release{'s' if count > 1 else ''}"
        )
    screen.say(f"[bold green]✓[/] {escape(name)} is back at round {found['to']}{what}")
    if not running:
        federation = "attempt" in found
        how = (
            f"muster serve PLAN --path {name}" if federation else f"muster run PLAN --resume {name}"
        )
        screen.say(f"[dim]go on with[/] {escape(how)}")


def _stopped(folder: Path, url: str | None, order: dict[str, Any]) -> dict[str, Any]:
    """Return the facts of a run that no process has open. Raises `RunError` for any other."""
    if (folder / "run.db").exists() and not Run(folder).facts.get("federation"):
        with contextlib.closing(SQLiteStore(folder)) as store:
            return roll_back(store, **order)
    with contextlib.ExitStack() as stack:
        ledger = require("muster.store.ledger", extra="service").FederationStore(
            folder, None if (folder / "run.db").exists() else url
        )
        stack.callback(ledger.close)
        _lead(ledger, folder)
        refuse_return(ledger, *(order[name] for name in ("round", "reason", "lost", "played")))
        audit = require("muster.security.audit", extra="service")
        path = folder / "audit.jsonl"
        if path.exists() and path.stat().st_size:
            audit.verify(path)
        log = stack.enter_context(audit.AuditLog(path, purpose="server", id=folder.resolve().name))
        return roll_back(ledger, **order, note=log.append)


def _lead(ledger: Any, folder: Path) -> None:
    stop = threading.Event()
    timer = threading.Timer(LEAD, stop.set)
    timer.start()
    try:
        if not ledger.lead(stop):
            raise RunError(
                f"a server leads the run of {folder}; give this order where it runs, or stop it"
            )
    finally:
        timer.cancel()


def _user() -> str:
    """Return the user who gives the order, as the system knows them."""
    with contextlib.suppress(KeyError, OSError):
        return getpass.getuser()
    return f"user {os.getuid()}"
