# SPDX-License-Identifier: Apache-2.0
"""The transcripts of one study at one site, in a folder of their own.

    00000041.json    a transcript: its number, the digest of the one before, signed
    head.json        how many are gone, how many are kept, the digest of the last one, signed

Numbers begin with 1 and have no gap; each transcript names the digest of the file before it, so
one that is changed, exchanged or left out is found by its neighbours, and one that is cut off at
either end by the head. Room is bounded: the oldest go, and the head says how many went.

Every file is replaced as a whole. A kill leaves the state before, or a transcript that the head
does not count yet: it is counted at the next record. The transcript goes first, then the head,
then what is too old; so nothing is ever counted that is not there.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from muster.errors import AuditError, IdentityError
from muster.security.chain import Anchor
from muster.security.pki.keyfile import has, locked, read, told, write
from muster.security.transcript.record import Transcript, from_value, to_value
from muster.security.transcript.seal import LARGEST, Sealed, Signer, canonical, seal, unseal

__all__ = [
    "HEAD",
    "TranscriptHead",
    "TranscriptStore",
    "numbered",
    "read_head",
    "read_transcript",
    "root",
]

HEAD, FILE = "head.json", re.compile(r"([0-9]{8})\.json")
KIND, HEAD_KIND = "muster secure transcript", "muster secure transcripts"
KEEP, ROOM = 1000, 1 << 28  # transcripts, and bytes of them
MOST = 99_999_999  # a number that a file name can hold
NOW = partial(datetime.now, UTC)


@dataclass(frozen=True)
class TranscriptHead:
    """The head of a store: its `study` and `site`; how many transcripts are `gone` and `kept`.

    `last` is the SHA-256 of the newest one's file in hexadecimal digits, `time` when this was
    written (ISO 8601, UTC).
    """

    study: str
    site: str
    gone: int
    kept: int
    last: str
    time: str

    @property
    def count(self) -> int:
        """The number of the newest transcript."""
        return self.gone + self.kept


class TranscriptStore:
    """The transcripts of a study, as the site writes them; made when the first one is recorded.

    At most `keep` transcripts and `room` bytes of them are kept, the newest one always. Methods
    may be called from any thread, and from several processes.
    """

    def __init__(
        self,
        folder: Path,
        study: str,
        signer: Signer,
        now: Callable[[], datetime] = NOW,
        *,
        keep: int = KEEP,
        room: int = ROOM,
    ) -> None:
        if keep < 1 or room < 1:
            raise AuditError(f"keep={keep} and room={room}: keep at least one transcript and byte")
        self.folder, self.study, self.signer, self.now = folder, study, signer, now
        self.keep, self.room = keep, room

    def record(self, transcript: Transcript) -> Anchor:
        """Add a transcript; when this returns, it is on the disk. Its number, and its digest.

        An assignment (run, round, attempt) has one session: what a site adds again after a kill,
        because it cannot know that it did, is kept as it was added first.
        Raises `AuditError` where it is of another study, where the folder was altered at its end,
        and where it cannot be written.
        """
        if transcript.study != self.study:
            raise AuditError(
                f"the transcript is of the study {transcript.study!r}, and {self.folder} is that "
                f"of {self.study!r}; record it there"
            )
        try:
            with told(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with locked(self.folder), told(self.folder):
                return self._record(transcript)
        except IdentityError as error:
            raise AuditError(f"a transcript cannot be kept: {error}") from None

    def _record(self, transcript: Transcript) -> Anchor:
        head = self._caught_up(self._head())
        if head.kept and self._is_of(head.count, transcript):
            return Anchor(head.count, head.last)
        number = head.count + 1
        if number > MOST:
            raise AuditError(f"{self.folder} has had {MOST} transcripts; move it away")
        body = {
            "study": self.study,
            "site": self.signer.name,
            "number": number,
            "previous": head.last,
            "transcript": to_value(transcript),
        }
        data = seal(KIND, body, self.signer)
        if len(data) > LARGEST:
            raise AuditError(f"a transcript of {len(data)} bytes is too large; {LARGEST} is most")
        write(self.folder / named(number), data, 0o600)
        return self._counted(head, number, data)

    def _is_of(self, number: int, transcript: Transcript) -> bool:
        """Return whether that one is of the same assignment; altered ones are for the auditor."""
        try:
            newest = read_transcript(read(self.folder / named(number)))[2]
        except (AuditError, IdentityError):
            return False
        return _place(newest) == _place(transcript)

    def _counted(self, head: TranscriptHead, number: int, data: bytes) -> Anchor:
        """Have the head count a transcript, and remove those that are too old."""
        files = numbered(self.folder)
        sizes = {n: files[n].stat().st_size for n in files if head.gone < n <= number}
        first, total = head.gone + 1, sum(sizes.values())
        while first < number and (number + 1 - first > self.keep or total > self.room):
            total -= sizes.get(first, 0)
            first += 1
        digest = sha256(data).hexdigest()
        self._write(first - 1, number, digest)
        for n, path in files.items():
            if n < first:
                path.unlink(missing_ok=True)
        return Anchor(number, digest)

    def _write(self, gone: int, number: int, last: str) -> None:
        time = self.now().astimezone(UTC).isoformat(timespec="milliseconds")
        head = TranscriptHead(self.study, self.signer.name, gone, number - gone, last, time)
        write(self.folder / HEAD, seal(HEAD_KIND, asdict(head), self.signer), 0o600)

    def _head(self) -> TranscriptHead:
        """Return the head as it stands.

        Raises `AuditError` where it is not this study's, or altered.
        """
        place, remedy = self.folder / HEAD, "move the folder away, and keep it for the audit"
        if not has(place):
            if set(numbered(self.folder)) - {1}:  # the first one may have been written, and a kill
                raise AuditError(f"{place} is missing, and there are transcripts; {remedy}")
            return TranscriptHead(
                self.study, self.signer.name, 0, 0, root(self.study, self.signer.name), ""
            )
        try:
            head, sealed = read_head(read(place))
            sealed.check(sealed.who.not_after)  # whose it is: a clock that jumped stops nobody here
        except AuditError as error:
            raise AuditError(f"{place}: {error}; {remedy}") from None
        mine = head.study == self.study and sealed.who.name == head.site == self.signer.name
        if not mine or sealed.authority_pem != self.signer.authority:
            raise AuditError(
                f"{place} is of the study {head.study!r} at {head.site!r}, not of {self.study!r} "
                f"at {self.signer.name!r} of this authority; {remedy}"
            )
        return head

    def _caught_up(self, head: TranscriptHead) -> TranscriptHead:
        """Count a transcript that was written, and not counted before a kill."""
        place = self.folder / named(head.count + 1)
        if not has(place):
            return head
        data = read(place)
        try:
            number, previous, _, sealed = read_transcript(data)
            fits = (number, previous, sealed.who.name) == (
                head.count + 1,
                head.last,
                self.signer.name,
            )
            fits = fits and sealed.authority_pem == self.signer.authority
        except AuditError:
            fits = False
        if not fits:
            raise AuditError(
                f"{place} does not follow from the transcript before it; move the folder away, and "
                f"keep it for the audit"
            )
        self._counted(head, head.count + 1, data)
        return self._head()


def _place(transcript: Transcript) -> tuple[str, int, int]:
    """Return the assignment that it is of."""
    return transcript.run, transcript.round, transcript.attempt


def named(number: int) -> str:
    """Return the file of a transcript."""
    return f"{number:08d}.json"


def numbered(folder: Path) -> dict[int, Path]:
    """Return the transcripts in a folder by the number in their file's name, in order."""
    with told(folder):
        found = {int(m[1]): path for path in folder.iterdir() if (m := FILE.fullmatch(path.name))}
    return dict(sorted(found.items()))


def root(study: str, site: str) -> str:
    """Return the digest that the first transcript names as that of the one before it."""
    return sha256(canonical(["muster secure transcripts 1", study, site])).hexdigest()


def read_transcript(data: bytes) -> tuple[int, str, Transcript, Sealed]:
    """Return the number, the digest before, the transcript and its seal. Raises `AuditError`."""
    sealed = unseal(KIND, data)
    body: Any = sealed.body
    if not isinstance(body, dict) or set(body) != {
        "study",
        "site",
        "number",
        "previous",
        "transcript",
    }:
        raise AuditError("it is no transcript of muster")
    transcript = from_value(body["transcript"])
    number, previous = body["number"], body["previous"]
    if type(number) is not int or not isinstance(previous, str):
        raise AuditError("it is no transcript of muster")
    if (body["study"], body["site"]) != (transcript.study, sealed.who.name):
        raise AuditError(
            f"it is of the study {body['study']!r:.140} at {body['site']!r:.80}, and was signed by "
            f"{sealed.who.name!r}"
        )
    return number, previous, transcript, sealed


def read_head(data: bytes) -> tuple[TranscriptHead, Sealed]:
    """Return the head and its seal. Raises `AuditError`."""
    sealed = unseal(HEAD_KIND, data)
    try:
        head = TranscriptHead(**sealed.body)
        stamp = datetime.fromisoformat(head.time)
        whole = all(type(n) is int and n >= 0 for n in (head.gone, head.kept)) and stamp.tzinfo
        texts = all(isinstance(text, str) for text in (head.study, head.site, head.last))
    except (TypeError, ValueError):
        whole = texts = False
    if not whole or not texts or head.count > MOST or sealed.who.name != head.site:
        raise AuditError("it is no head of muster, or was signed by somebody else")
    return head, sealed
