# SPDX-License-Identifier: Apache-2.0
"""`muster audit secure`: what a site can show of the secure sums that it took part in."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from muster.cli import screen
from muster.errors import AuditError
from muster.extras import require
from muster.security.chain import Anchor

if TYPE_CHECKING:
    from rich.text import Text

    from muster.security.transcript import Examination, Transcript
    from muster.security.transcript.examine import Whole
else:
    Text = require("rich.text", extra="site").Text

__all__ = ["report"]

HEADS = ("no.", "run", "round", "outcome", "with", "ended", "roster", "left")
ORGANISATIONS = 6  # that a line names


def report(
    place: Path,
    authority: str,
    expect: Anchor | None,
    listed: Path | None,
    last: int,
    as_json: bool,
) -> None:
    """Print what was found in every study's folder at a place; raise where there is a fault."""
    looking = _security("transcript.examine")
    revoked = None if listed is None else _security("pki.keyfile").read(listed)
    places = looking.stores(place)
    found = [looking.examine(folder, authority, expect, revoked) for folder in places]
    for one in found:
        _emit(one) if as_json else _show(one, last)
    faults = [(one.folder, fault) for one in found for fault in one.faults]
    if faults:
        more = f", and {len(faults) - 1} more" if len(faults) > 1 else ""
        raise AuditError(f"{faults[0][0]}: {screen.shown(faults[0][1])}{more}")


def _security(name: str) -> Any:
    """Return a module of `muster.security`, once it is needed: `muster --help` works without it."""
    return require(f"muster.security.{name}", extra="site")


def _emit(found: Examination) -> None:
    to_value = _security("transcript.record").to_value
    for one in found.whole:
        said = {"number": one.number, "sha256": one.file_digest, "signed_by": one.serial}
        screen.emit(said | to_value(one.transcript))
    head = found.head
    screen.emit(
        {
            "folder": str(found.folder),
            "study": head and head.study,
            "site": head and head.site,
            "gone": head and head.gone,
            "kept": head and head.kept,
            "head": head and f"{head.count}:{head.last}",
            "authority": found.authority,
            "faults": list(found.faults),
            "key_changes": [asdict(one) for one in found.key_changes],
        }
    )


def _show(found: Examination, last: int) -> None:
    head = found.head
    if found.whole:
        screen.say(screen.table(HEADS, map(_row, found.whole[-last:]), left=6))
    for one in found.key_changes:
        print(
            screen.shown(
                f"! {one.number}: {one.name} has the key {one.key}, and had {one.before} before"
            )
        )
    if found.key_changes:
        print("  a renewal, or somebody else of that name: compare each with its holder by phone")
    for fault in found.faults:
        print(f"✗ {screen.shown(fault)}")
    if head is None:
        return
    gone = f"; {head.gone} older ones are gone" if head.gone else ""
    mark = "✗" if found.faults else "✓"
    whose = screen.shown(
        f"{found.folder}: {len(found.whole)} of {head.kept} transcripts of the "
        f"study {head.study} at {head.site} are whole{gone}"
    )
    print(f"{mark} {whose}")
    print(f"  authority {found.authority}, to compare by phone")
    print(f"  head {head.count}:{head.last}")
    print("  note the head elsewhere; with --head it shows that the end was not cut")


def _roster(said: Transcript) -> str:
    """Return how many were in it, and of how many the server told where the site verified fewer."""
    verified = len(said.roster)
    told = said.counts[0][1] if said.counts else verified
    return str(verified) if told == verified else f"{verified} of {told}"


def _row(one: Whole) -> tuple[str | Text, ...]:
    said = one.transcript
    names = sorted({peer.organisation for peer in said.roster})
    more = f" and {len(names) - ORGANISATIONS} more" if len(names) > ORGANISATIONS else ""
    outcome = said.outcome if not said.reason else f"{said.outcome}: {said.reason}"
    return (
        str(one.number),
        Text(said.run),
        str(said.round),
        Text(outcome),
        Text(", ".join(names[:ORGANISATIONS]) + more),
        f"{said.ended:%F %H:%M}",
        _roster(said),
        str(len(said.left[-1][1])) if said.left else "–",
    )
