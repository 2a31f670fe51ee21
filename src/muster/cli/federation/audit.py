# SPDX-License-Identifier: Apache-2.0
"""`muster audit`: check that nobody changed an audit log, and read it."""

from __future__ import annotations

import json
import re
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from muster.cli import screen
from muster.cli.privacy import audit as attacks
from muster.errors import AuditError
from muster.extras import require
from muster.service.audit import entries, verify

if TYPE_CHECKING:
    import typer
else:
    typer = require("typer", extra="service")  # the floors allow a plain import in cli/*.py only

__all__ = ["group"]

group = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Check audit logs, and attack a run's privacy."
)
group.command("privacy")(attacks.command)

File = Annotated[Path, typer.Argument(metavar="FILE", help="The log, such as audit.jsonl.")]


@group.command("verify")
def check(
    file: File,
    head: Annotated[
        str, typer.Option(metavar="HEX", help="A head noted before, or SEQUENCE:HEX.")
    ] = "",
    as_json: screen.Json = False,
) -> None:
    """Read a whole log and name the first line that was changed, if there is one."""
    found = verify(file, _anchor(head))
    if as_json:
        screen.emit({"path": str(file)} | found._asdict())
        return
    _print(f"✓ {file}: {found.entries} entries of {found.purpose} {found.id}, none changed")
    _print(f"  head {found.entries - 1}:{found.head}")
    if not head:
        _print("  note the head elsewhere; with --head it shows that the end was not cut")


@group.command("show")
def show(
    file: File,
    last: Annotated[int, typer.Option(min=1, help="How many entries, the latest.")] = 20,
    as_json: screen.Json = False,
) -> None:
    """Print the last entries of a log; those before a bad line are printed before it is named."""
    kept: deque[dict[str, Any]] = deque(maxlen=last)
    fault = None
    try:
        kept.extend(entries(file))
    except AuditError as error:
        fault = error
    for entry in kept:
        if as_json:
            screen.emit(entry)
        else:
            details = json.dumps(entry["details"]) if entry["details"] else ""
            words = (entry["sequence"], entry["time"], entry["actor"], entry["action"], details)
            _print("  ".join(map(str, words)).rstrip())
    if fault is not None:
        raise fault


def _anchor(text: str) -> tuple[int | None, str] | None:
    if not text:
        return None
    found = re.fullmatch(r"(?:(\d{1,18}):)?([0-9a-fA-F]{64})", text)
    if not found:
        raise AuditError(f"--head {text[:80]!r} is no head; give 64 hexadecimal digits, or N:HEX")
    return (int(found[1]) if found[1] else None), found[2]


def _print(text: str) -> None:
    """Print what a log says as it is: no markup, and nothing that steers a terminal."""
    print("".join(letter if letter.isprintable() else "?" for letter in text))
