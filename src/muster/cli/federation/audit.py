# SPDX-License-Identifier: Apache-2.0
"""`muster audit`: check that nobody changed an audit log, and read it; and what lies beside it."""

from __future__ import annotations

import json
import re
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from muster.cli import screen
from muster.cli.federation import transcripts
from muster.cli.privacy import audit as attacks
from muster.errors import AuditError
from muster.extras import require
from muster.security.audit import entries, verify
from muster.security.chain import Anchor

if TYPE_CHECKING:
    import typer
else:
    typer = require("typer", extra="site")  # the floors allow a plain import in cli/*.py only

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


@group.command("secure")
def secure(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="A site's folder, or that of one study.")
    ],
    authority: Annotated[
        str, typer.Option(help="The authority's fingerprint, or its first digits; else a fault.")
    ] = "",
    head: Annotated[str, typer.Option(metavar="N:HEX", help="A head noted before.")] = "",
    revoked: Annotated[
        Path | None, typer.Option(help="The authority's revoked.pem: what it revokes is a fault.")
    ] = None,
    last: Annotated[int, typer.Option(min=1, help="How many transcripts, the latest.")] = 20,
    as_json: screen.Json = False,
) -> None:
    """Check the signed transcripts of a site's secure sums, and show with whom they were made."""
    noted = _anchor(head)
    if noted is not None and noted[0] is None:
        raise AuditError(f"--head {head[:80]!r} has no number; give N:HEX as it was printed")
    expect = None if noted is None else Anchor(*noted)
    transcripts.report(folder, authority, expect, revoked, last, as_json)


def _anchor(text: str) -> tuple[int | None, str] | None:
    if not text:
        return None
    found = re.fullmatch(r"(?:(\d{1,18}):)?([0-9a-fA-F]{64})", text)
    if not found:
        raise AuditError(f"--head {text[:80]!r} is no head; give 64 hexadecimal digits, or N:HEX")
    return (int(found[1]) if found[1] else None), found[2]


def _print(text: str) -> None:
    """Print what a log says as it is: no markup, and nothing that steers a terminal."""
    print(screen.shown(text))
