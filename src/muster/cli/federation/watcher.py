# SPDX-License-Identifier: Apache-2.0
"""Events at a server between its rounds: who comes and goes, and what is waited for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from muster.cli.federation import control
from muster.errors import MusterError

__all__ = ["News", "changes"]

GLANCE = 1.0  # seconds between two looks at the server
Event = dict[str, Any]
WANTED = {
    "pause": "paused by an operator, once the open round has ended",
    "drain": "draining: the open round ends, then the server",
    "stop": "stopped by an operator",
    "run": "goes on",
}


class News:
    """Looks at a server in its own folder once a second, and tells what has changed."""

    def __init__(self, folder: Path, enough: int, tell: Callable[[Event], None]) -> None:
        self._folder, self._enough, self._tell = folder, enough, tell
        self.committed = 0  # rounds, at the last look
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def start(self) -> None:
        """Begin, once the server listens."""
        self._thread.start()

    def close(self) -> None:
        """Look no more."""
        self._end.set()
        if self._thread.is_alive():
            self._thread.join()

    def _look(self) -> None:
        before: Event | None = None
        while not self._end.wait(GLANCE):
            try:
                said = control.ask(self._folder, "GET", "/status")
            except MusterError:  # it is busy, or about to end; the next look will tell
                continue
            if said is None:
                continue
            for event in changes(before, said, self._enough):
                self._tell(event)
            before, self.committed = said, said["committed"]


def changes(before: Event | None, now: Event, enough: int) -> Iterator[Event]:
    """Yield the differences between two looks, as events with a `text` for people."""
    if before is None:
        names = [member["name"] for member in now["members"]]
        if names:  # whether those of an earlier day are still there will be seen
            yield {"event": "known", "names": names, "text": f"enrolled: {', '.join(names)}"}
        before = {"members": now["members"], "wanted": "run", "phase": ""}
    known = {member["name"]: member for member in before["members"]}
    for member in now["members"]:
        old, name = known.get(member["name"]), member["name"]
        facts = {"event": "member", "name": name, "client": member["client"]}
        facts |= {"rows": member["rows"], "present": member["present"]}
        if old is None and member["present"]:
            yield facts | {"text": f"{name} has joined with {member['rows']} rows"}
        elif old is not None and old["rows"] != member["rows"]:
            yield facts | {"text": f"{name} has {member['rows']} rows now"}
        elif old is not None and old["present"] != member["present"]:
            how = "is back" if member["present"] else "is away, or has failed three times in a row"
            yield facts | {"text": f"{name} {how}"}
    if now["wanted"] != before["wanted"]:
        yield {"event": "wanted", "wanted": now["wanted"], "text": WANTED[now["wanted"]]}
    here = _here(now)
    waits, waited = (one["phase"] == "waiting" and one["wanted"] == "run" for one in (now, before))
    if waits and len(here) < enough and not (waited and _here(before) == here):
        text = f"waiting for sites: {len(here)} of {enough} are here"
        yield {"event": "waiting", "present": len(here), "enough": enough, "text": text}


def _here(status: Event) -> set[str]:
    return {member["name"] for member in status["members"] if member["present"]}
