# SPDX-License-Identifier: Apache-2.0
"""The lines of an audit log, and how a stranger checks them: a file in, a verdict out.

One JSON object a line: sequence, time, actor, action, details, previous, hash. `previous` is the
SHA-256 of the line before, newline included (`tail -n 1 FILE | sha256sum` prints the head); the
first line's binds what the log is of; `hash` is that of the line without it. A chain shows edits
to anybody, and a cut end or a log forged anew to whoever noted a head elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from muster.errors import AuditError

__all__ = [
    "Anchor",
    "LONGEST",
    "Verified",
    "entries",
    "genesis",
    "parsed",
    "root",
    "verify",
    "written",
]

LONGEST = 1 << 16  # bytes of a line
FIELDS = ("sequence", "time", "actor", "action", "details", "previous")


class Anchor(NamedTuple):
    """A place in a log, worth noting elsewhere; without a sequence, anywhere in the log."""

    sequence: int | None
    head: str


class Verified(NamedTuple):
    """The findings about a whole log: how many entries, its head, and what it is the log of."""

    entries: int
    head: str
    purpose: str
    id: str


def entries(path: str | Path) -> Iterator[dict[str, Any]]:
    """Yield every entry in order, each checked. Raises `AuditError` at the first bad line."""
    return (entry for entry, _ in _chain(Path(path)))


def verify(
    path: str | Path,
    expect: tuple[int | None, str] | None = None,
    log: tuple[str, str] | None = None,
) -> Verified:
    """Read a whole log, a line at a time.

    `expect` is an anchor noted earlier, `log` the purpose and id it must be of. Raises
    `AuditError` naming the first bad line, or that the log ends before the anchor.
    """
    path = Path(path)
    sequence, wanted = expect or (None, "")
    found, head, facts = expect is None, "", {"purpose": "", "id": ""}
    number = 0
    for number, (entry, head) in enumerate(_chain(path), 1):
        if number == 1:
            facts = genesis(path, entry, log)
        if not found and sequence in (None, number - 1):
            found = head == wanted.lower()
            if not found and sequence is not None:
                message = f"{path}: line {number} is not the one whose head {wanted} was noted"
                raise AuditError(f"{message}; the log was written anew", number)
    if not found:
        place = "" if sequence is None else f" of entry {sequence}"
        raise AuditError(
            f"{path} ends at entry {number - 1} and does not hold the head {wanted}{place} that "
            f"was noted; its end was cut, or it was written anew",
            number + 1,
        )
    return Verified(number, head, facts["purpose"], facts["id"])


def _chain(path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield every entry with the head after it."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise AuditError(f"the audit log {path} cannot be read: {error.strerror}") from error
    with file:
        number, head = 0, ""
        while text := file.readline(LONGEST + 1):
            number += 1
            entry = parsed(path, number, text)
            if number == 1:
                genesis(path, entry, None)
            found = entry["sequence"]
            if found != number - 1:
                why = "were removed" if found > number - 1 else "were inserted or repeated"
                raise AuditError(
                    f"{path}: line {number} holds entry {found} where entry {number - 1} belongs; "
                    f"lines {why}, or put in another order",
                    number,
                )
            if number > 1 and entry["previous"] != head:
                raise AuditError(
                    f"{path}: line {number} does not follow line {number - 1}; one of them was "
                    f"edited, replaced or inserted",
                    number,
                )
            head = sha256(text).hexdigest()
            yield entry, head
    if not number:
        raise AuditError(f"{path} is empty; an audit log begins with its genesis entry", 1)


def parsed(path: Path, number: int, line: bytes) -> dict[str, Any]:
    """Parse a line that is an entry and is what its hash was taken of; 0 means the last."""
    where = f"{path}: line {number}" if number else f"{path}: the last line"
    if not line.endswith(b"\n") and len(line) <= LONGEST:
        raise AuditError(
            f"{where} is unfinished; a crash tore it (the log's owner sets it aside when it opens "
            f"the log), or the end was cut",
            number,
        )
    try:
        entry = json.loads(line)
        given = tuple(entry[field] for field in FIELDS)
        same = written(given) == line and type(given[0]) is int
    except (ValueError, LookupError, TypeError, RecursionError):
        same = False
    if not same:
        raise AuditError(f"{where} was edited: its hash was taken of something else", number)
    return {**entry}


def genesis(path: Path, entry: dict[str, Any], wanted: Any) -> dict[str, str]:
    """Return the purpose and id that a first entry binds, when they are the wanted ones."""
    facts = entry["details"]
    named = isinstance(facts, dict) and facts.keys() == {"purpose", "id"}
    held = (facts["purpose"], facts["id"]) if named else ("", "")
    if entry["action"] != "genesis" or not named or entry["previous"] != root(*held):
        raise AuditError(f"{path}: line 1 is not the genesis of an audit log", 1)
    if wanted is not None and held != tuple(wanted):
        raise AuditError(
            f"{path}: line 1 is the genesis of the log of {held[0]} {held[1]!r}, "
            f"not of {wanted[0]} {wanted[1]!r}",
            1,
        )
    return {"purpose": held[0], "id": held[1]}


def root(purpose: str, id: str) -> str:
    """Return the digest that the first line of a log names as the line before it."""
    return sha256(json.dumps(["muster audit 1", purpose, id]).encode()).hexdigest()


def written(given: tuple[Any, ...]) -> bytes:
    """Return the bytes of a line with these fields, in the order of `FIELDS`."""
    entry = dict(zip(FIELDS, given, strict=True))
    body = json.dumps(entry, separators=(",", ":")).encode()
    return body[:-1] + b',"hash":"' + sha256(body).hexdigest().encode() + b'"}\n'
