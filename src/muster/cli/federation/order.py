# SPDX-License-Identifier: Apache-2.0
"""`muster pause`, `drain`, `resume`, `stop`: what an operator wants of a federation that runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from muster.cli import locate, screen
from muster.cli.federation import control
from muster.cli.locate import RunName
from muster.errors import RunError

__all__ = ["drain", "pause", "resume", "stop"]

WORDS = {"pause": "pause", "drain": "drain", "resume": "run", "stop": "stop"}
DONE = {
    "pause": "is paused: {open}no further one begins; go on with: muster resume {name}",
    "drain": "drains: {open}then the server ends; go on later with: muster serve",
    "resume": "goes on",
    "stop": "is stopped: {drop}its sites are told that the run is over; what is committed is safe",
}


def pause(run: RunName = locate.LATEST, as_json: screen.Json = False) -> None:
    """Let the open round of a federation end, and begin no further one."""
    _order("pause", run, as_json)


def drain(run: RunName = locate.LATEST, as_json: screen.Json = False) -> None:
    """Let the open round of a federation end, then end its server; sites wait for the next."""
    _order("drain", run, as_json)


def resume(run: RunName = locate.LATEST, as_json: screen.Json = False) -> None:
    """Go on with a federation that is paused."""
    _order("resume", run, as_json)


def stop(run: RunName = locate.LATEST, as_json: screen.Json = False) -> None:
    """End a federation now: an open round is kept for the next serve, and its sites go home."""
    _order("stop", run, as_json)


def _order(verb: str, run: str, as_json: bool) -> None:
    folder = control.find(run)
    said = control.ask(folder, "POST", f"/want/{WORDS[verb]}")
    if said is None:
        raise RunError(_silent(verb, folder))
    if as_json:
        screen.emit({"order": verb, "path": str(folder)} | said)
        return
    text = DONE[verb].format(**_open(said), name=screen.path(folder))
    screen.say(f"[bold green]✓[/] {screen.path(folder)} {text}")


def _open(said: dict[str, Any]) -> dict[str, str]:
    round = said.get("round")
    if round is None:
        return {"open": "", "drop": ""}
    return {"open": f"round {round} ends as usual, ", "drop": f"round {round} does not count, "}


def _silent(verb: str, folder: Path) -> str:
    cure = {
        "resume": "start it with muster serve, which goes on by itself",
        "pause": "nothing trains there, so there is nothing to pause",
    }.get(verb, "it has ended already, and what is committed is safe")
    return f"no server runs in {folder}; {cure}"
