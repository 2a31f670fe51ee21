# SPDX-License-Identifier: Apache-2.0
"""The federation that is meant, and what its server says over the control socket in its folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from muster.cli import locate
from muster.errors import MusterError, RunError
from muster.extras import require

__all__ = ["CONTROL", "WORDS", "ask", "find", "phase", "running"]

CONTROL = "control.sock"
LONGEST = 100  # characters of a path to a unix socket, about, that every system takes
WORDS = {"pause": "paused", "drain": "draining", "stop": "stopping"}  # what is wanted, as a state
PATIENCE = 10.0  # seconds until a server that takes a connection has answered


def find(name: str) -> Path:
    """Return the folder of a federation; of the only one whose server runs when none is named.

    Raises `RunError` when there is none, or when it is not clear which.
    """
    if name != locate.LATEST:
        for place in (locate.RUNS / name, Path(name)):
            if (place / CONTROL).exists() or (place / "audit.jsonl").exists():
                return place  # also where the rounds are in PostgreSQL
        return locate.find(name)
    found = running()
    if len(found) == 1:
        return found[0]
    if not found:
        raise RunError(
            f"no server of a federation runs here or in {locate.RUNS}/; name the run's folder, "
            f"or start its server with muster serve"
        )
    names = ", ".join(str(folder) for folder in found)
    raise RunError(f"{len(found)} servers run here ({names}); name the run that is meant")


def running() -> list[Path]:
    """Return the folders, here and in runs/, whose server answers."""
    sockets = [
        *Path().glob(CONTROL),
        *Path().glob(f"*/{CONTROL}"),
        *locate.RUNS.glob(f"*/{CONTROL}"),
    ]
    return sorted(socket.parent for socket in sockets if ask(socket.parent, "GET", "/healthz"))


def ask(
    folder: Path,
    method: str,
    path: str,
    order: dict[str, Any] | None = None,
    *,
    patience: float = PATIENCE,
) -> dict[str, Any] | None:
    """Return the answer of the server in a folder; None when none runs there. Raises `RunError`.

    `order` is what it is told, `patience` the seconds in which it must have answered.
    """
    httpx = require("httpx", extra="site")
    place = _short(folder.resolve() / CONTROL)
    if not place.exists():
        return None
    transport = httpx.HTTPTransport(uds=str(place))
    try:
        with httpx.Client(transport=transport, timeout=patience, trust_env=False) as client:
            answer = client.request(method, f"http://server{path}", json=order)
            said: dict[str, Any] = answer.json()
    except httpx.ConnectError as error:
        if isinstance(_cause(error), PermissionError):
            raise RunError(
                f"{folder / CONTROL} may be used by its owner alone; give this order as the user "
                f"that the server runs as"
            ) from None
        return None  # left behind by a server that was killed
    except (httpx.TransportError, ValueError) as error:
        raise RunError(
            f"the server in {folder} did not answer ({error or type(error).__name__}); look at "
            f"its output, and try again"
        ) from None
    if answer.status_code != 200:
        raise RunError(f"the server in {folder} refused: {said.get('text', answer.status_code)}")
    return said


def phase(folder: Path) -> str | None:
    """Return the phase of a federation's round, when its server runs here and can be asked."""
    if not (folder / CONTROL).exists():
        return None
    try:
        said = ask(folder, "GET", "/status")
    except MusterError:
        return None
    return None if said is None else WORDS.get(said["wanted"], str(said["phase"]))


def _short(place: Path) -> Path:
    """Return the path of a socket, seen from here where that is shorter.

    Systems limit the length of such a path.
    """
    if len(str(place)) < LONGEST:
        return place
    return Path(os.path.relpath(place))


def _cause(error: BaseException) -> BaseException:
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return error
