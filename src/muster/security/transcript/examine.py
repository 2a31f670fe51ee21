# SPDX-License-Identifier: Apache-2.0
"""An auditor's findings in a folder of transcripts: which are whole, and every fault by name.

Nothing outside the folder is needed but the fingerprint of the authority, to compare by telephone:
whoever wrote the folder anew with an authority of their own has another one. A fault never hides
those after it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from pathlib import Path

from muster.errors import AuditError, IdentityError
from muster.security.chain import Anchor
from muster.security.pki.keyfile import has, read
from muster.security.pki.revocation import RevocationList, read_list
from muster.security.transcript.record import Transcript
from muster.security.transcript.seal import Sealed
from muster.security.transcript.store import (
    HEAD,
    TranscriptHead,
    named,
    numbered,
    read_head,
    read_transcript,
    root,
)

__all__ = ["Examination", "KeyChange", "Whole", "examine", "stores"]

SECURE = "secure"  # the folder of transcripts in that of a study


@dataclass(frozen=True)
class Whole:
    """A transcript in which no fault was found.

    `site` has signed it, by the certificate of this `serial`; `file_digest` is the SHA-256 of its
    file.
    """

    number: int
    transcript: Transcript
    site: str
    serial: str
    file_digest: str


@dataclass(frozen=True)
class KeyChange:
    """A peer of the transcript of this `number`, whose `key` was another one `before`.

    That is a renewal, or somebody else whom the authority gave its name: no fault of the folder.
    """

    number: int
    name: str
    key: str
    before: str


@dataclass(frozen=True)
class Examination:
    """The examination of a `folder`, and what was found.

    Fields: the `head` (None where it is missing or altered); the transcripts that are `whole`; the
    `faults`, each in a sentence that names its file; the fingerprint of the `authority`; the
    `key_changes` of peers from one whole transcript to a later one, in order.
    """

    folder: Path
    head: TranscriptHead | None
    whole: tuple[Whole, ...]
    faults: tuple[str, ...]
    authority: str
    key_changes: tuple[KeyChange, ...] = ()


@dataclass
class _Look:
    """The findings so far, while one file after the other is looked at."""

    folder: Path
    authority: str
    listed: bytes | None
    faults: list[str] = field(default_factory=list)
    lists: dict[bytes, RevocationList] = field(default_factory=dict)

    def trust(self, sealed: Sealed, when: datetime) -> None:
        """Raise `AuditError` unless it was signed by whoever counted then, under one authority."""
        if not sealed.authority.startswith(self.authority):
            raise AuditError(
                f"it was signed under the authority {sealed.authority[:16]}, not under "
                f"{self.authority[:16]}"
            )
        self.authority = sealed.authority
        sealed.check(when, self._list(sealed.authority_pem))

    def _list(self, authority: bytes) -> RevocationList | None:
        if self.listed is None:
            return None
        if authority not in self.lists:
            try:
                self.lists[authority] = read_list(self.listed, authority)
            except IdentityError as error:
                raise AuditError(f"the list of what is revoked does not fit: {error}") from None
        return self.lists[authority]


def stores(place: Path) -> list[Path]:
    """Return the folders of transcripts at a place: itself, or those of the studies below it."""
    if has(place / HEAD) or (place.is_dir() and numbered(place)):
        return [place]
    found = [folder for folder in sorted(place.rglob(SECURE)) if folder.is_dir()]
    found = [folder for folder in found if has(folder / HEAD) or numbered(folder)]
    if not found:
        raise AuditError(
            f"{place} holds no transcripts of secure sums; name the folder of a study, or of a site"
        )
    return found


def examine(
    folder: Path, authority: str = "", expect: Anchor | None = None, listed: bytes | None = None
) -> Examination:
    """Look at every transcript in a folder.

    `authority` is the fingerprint that the authority must have, or its first digits; `expect` a
    transcript's number and digest that was noted before; `listed` the authority's revocation list
    (PEM), by which certificates that were revoked do not count.
    """
    look = _Look(folder, authority.replace(":", "").lower(), listed)
    head = _head(look)
    files = numbered(folder)
    first = head.gone + 1 if head else min(files, default=1)
    last = head.count if head else max(files, default=0)
    there = [number for number in files if number >= first]
    whole: list[Whole] = []
    due, before = first, root(head.study, head.site) if head and first == 1 else None
    for number in there:
        if number > due:
            _missing(look, due, min(number - 1, last))
            before = None  # nobody knows what it follows from
        found, before = _one(look, head, number, before)
        whole += [found] if found is not None else []
        due = number + 1
    _missing(look, due, last)
    _ends(look, head, whole, [number for number in there if number > last])
    _expected(look, expect, whole, last)
    changes = tuple(_key_changes(whole))
    return Examination(folder, head, tuple(whole), tuple(look.faults), look.authority, changes)


def _key_changes(whole: Sequence[Whole]) -> Iterator[KeyChange]:
    """Yield the peers of each transcript, but for the site itself, that had another key before."""
    keys: dict[str, str] = {}
    for one in whole:
        for peer in one.transcript.roster:
            before = keys.setdefault(peer.name, peer.key)
            if before != peer.key and peer.name != one.site:
                yield KeyChange(one.number, peer.name, peer.key, before)
            keys[peer.name] = peer.key


def _head(look: _Look) -> TranscriptHead | None:
    place = look.folder / HEAD
    if not has(place):
        look.faults.append(f"{HEAD} is missing: nobody knows how many transcripts there were")
        return None
    try:
        head, sealed = read_head(read(place))
        look.trust(sealed, datetime.fromisoformat(head.time))
    except (AuditError, IdentityError) as error:
        look.faults.append(f"{HEAD}: {error}")
        return None
    return head


def _one(
    look: _Look, head: TranscriptHead | None, number: int, before: str | None
) -> tuple[Whole | None, str | None]:
    """Return a transcript if it is whole, and the digest of its file for the next one to name."""
    name = named(number)
    try:
        data = read(look.folder / name)
    except IdentityError as error:
        look.faults.append(f"{name} cannot be read: {error}")
        return None, None
    digest = None  # of what was altered nobody knows what followed from it
    try:
        held, previous, transcript, sealed = read_transcript(data)
        digest = sha256(data).hexdigest()
        if held != number:
            raise AuditError(f"it holds the transcript number {held}: they were exchanged")
        if head is not None and (transcript.study, sealed.who.name) != (head.study, head.site):
            raise AuditError(
                f"it is of the study {transcript.study!r} at {sealed.who.name!r}, not of "
                f"{head.study!r} at {head.site!r}"
            )
        look.trust(sealed, transcript.ended)
        if before is not None and previous != before:
            raise AuditError("it does not follow from the one before it; one of both was replaced")
    except AuditError as error:
        look.faults.append(f"{name}: {error}")
        return None, digest
    who = sealed.who
    return Whole(number, transcript, who.name, f"{who.serial:x}", digest), digest


def _missing(look: _Look, first: int, last: int) -> None:
    """Note transcripts that are not there, however many."""
    if first == last:
        look.faults.append(f"{named(first)} is missing")
    elif first < last:
        look.faults.append(f"{named(first)} to {named(last)} are missing")


def _ends(look: _Look, head: TranscriptHead | None, whole: list[Whole], extra: list[int]) -> None:
    """Check that the last is the one the head names; one more may have come, and a kill."""
    if head is None:
        return
    last = next((one for one in whole if one.number == head.count), None)
    if last is not None and last.file_digest != head.last:
        look.faults.append(f"{named(head.count)} is not the one that {HEAD} names; it was replaced")
    if not head.kept and head.last != root(head.study, head.site):
        look.faults.append(f"{HEAD} counts no transcript and names one")
    for number in extra:
        if number > head.count + 1:
            look.faults.append(f"{named(number)} is not counted by {HEAD}, which was put back")


def _expected(look: _Look, expect: Anchor | None, whole: Sequence[Whole], last: int) -> None:
    """Compare with what was noted on another day."""
    if expect is None:
        return
    number = expect.sequence or 0
    found = next((one for one in whole if one.number == number), None)
    if found is None:
        why = (
            f"and the last one here has number {last}: the end was cut"
            if number > last
            else "and is not here to compare with: note a newer one"
        )
        look.faults.append(f"the transcript number {number} was noted, {why}")
    elif found.file_digest != expect.head.lower():
        look.faults.append(
            f"{named(number)} is not the one whose digest {expect.head[:16]}… was noted; the "
            f"folder was written anew"
        )
