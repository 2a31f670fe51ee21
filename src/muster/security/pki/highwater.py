# SPDX-License-Identifier: Apache-2.0
"""The newest revocation list that a folder has seen, which never gives way to an older one.

    revoked.pem      the list
    revoked.seen     the highest number seen here, and the digest of that list

A list comes in a bundle, from the server, or by hand; whoever copies an older one into place, or
removes the one that is there, brings nobody back: it is refused by the number beside it, at the
next look and after every restart. Both files are replaced as a whole, the list first: a kill in
between leaves a list that is newer than its number, which the next look notes. What is in memory
is remembered as well, so that a process that runs is not deceived by both files at once; one that
starts is.
"""

from __future__ import annotations

import json
import os
import threading
from contextlib import suppress
from pathlib import Path

from muster.errors import IdentityError
from muster.security.pki.keyfile import AUTHORITY, REVOKED, has, locked, read, write
from muster.security.pki.revocation import ListMark, RevocationList, overtakes, read_list

__all__ = ["Revocations", "SEEN", "put", "seen", "standing", "store"]

SEEN = "revoked.seen"
FORMAT = 1
Stamp = tuple[int, ...]


def seen(folder: Path) -> ListMark | None:
    """Return the highest list that a folder has seen; None where it has seen none."""
    path = folder / SEEN
    if not has(path):
        return None
    try:
        found = json.loads(read(path))
        format_, number, content = found["format"], found["number"], found["sha256"]
        whole = type(number) is int and isinstance(content, str) and format_ == FORMAT
    except (ValueError, TypeError, KeyError, RecursionError):
        whole = False
    if not whole:
        raise IdentityError(
            f"{path} is damaged, so nobody knows whether {REVOKED} is the newest list; copy the "
            f"authority's newest one there, and then delete {path}"
        )
    return ListMark(number, content)


def standing(folder: Path, authority: bytes, known: ListMark | None = None) -> RevocationList:
    """Return the list in a folder, when it is not older than the one `known`, or seen there.

    Raises `IdentityError` for a list that was put back, for another of the same number, and for one
    that is missing or damaged.
    """
    before = _highest(known, seen(folder), folder)  # before the list, which is written first
    try:
        found = read_list(read(folder / REVOKED), authority)
    except IdentityError as error:
        if before is None:
            raise
        raise IdentityError(
            f"the revocation list is not what it was ({error}), and number {before.number} was "
            f"known here; copy the authority's newest revoked.pem to {folder}"
        ) from None
    if before is not None:
        overtakes(before, found.mark, folder / REVOKED)
    return found


def put(folder: Path, listed: RevocationList) -> None:
    """Write a list that holds, and then that it was seen; the caller holds the folder."""
    write(folder / REVOKED, listed.pem)
    _remember(folder, listed.mark)


def store(
    folder: Path, found: RevocationList, authority: bytes, known: ListMark | None = None
) -> RevocationList:
    """Keep a list in a folder where it is the newest one; the one that holds then.

    A list that was put back or damaged there is replaced by any that is not older than what was
    seen. Raises `IdentityError` where none holds.
    """
    with locked(folder):
        highest, fault = _highest(known, seen(folder), folder), ""
        there = None
        if highest is not None or has(folder / REVOKED):
            try:
                there = standing(folder, authority, known)
            except IdentityError as error:
                fault = str(error)
        before = there.mark if there else highest
        if before is not None and found.number < before.number:
            if there is None:
                raise IdentityError(fault)
            found = there
        elif before is None or overtakes(before, found.mark, "the list that came") or fault:
            put(folder, found)
        if seen(folder) != found.mark:
            _remember(folder, found.mark)
        return found


class Revocations:
    """The revoked, by the newest list that a folder, or this process, has seen.

    `current` is read from no file. Methods may be called from any thread. Raises `IdentityError`
    where the folder holds no list that holds.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.authority = folder, read(folder / AUTHORITY)
        self._files = str(folder / REVOKED), str(folder / SEEN)
        self._gate = threading.Lock()
        self._stamps: tuple[Stamp, ...] | None = None
        self._fault = ""
        self._current: RevocationList | None = None
        self.look()

    @property
    def current(self) -> RevocationList:
        """The newest list."""
        assert self._current is not None
        return self._current

    def look(self) -> bool:
        """Read again what has changed in the folder; return whether a newer list holds now.

        Raises `IdentityError` where what lies there is refused, at every look until it is mended;
        meanwhile the newest list that was read goes on holding. Where nothing has changed, no file
        is read.
        """
        with self._gate:
            stamps = _stamp(self._files[0]), _stamp(self._files[1])
            if stamps == self._stamps:
                if self._fault:
                    raise IdentityError(self._fault)
                return False
            known = self._current.mark if self._current else None
            self._stamps, self._fault = stamps, ""
            try:
                found = self._noted(known)
            except IdentityError as error:
                self._fault = str(error)
                raise
            self._current = found
            return found.mark != known

    def take(self, pem: bytes) -> bool:
        """Keep a list that came from elsewhere, when it is newer; return whether it was.

        Raises `IdentityError` for one of another authority, and for another of the same number.
        """
        return self._kept(read_list(pem, self.authority))

    def heard(self, pem: bytes) -> bool:
        """Keep the list that a server hands out, when it is newer; return whether it was.

        Raises `IdentityError` as `take`, and for a list that is older than the newest one here:
        that server would let in whom others know to be revoked.
        """
        found = read_list(pem, self.authority)
        with suppress(IdentityError):  # what was put back is refused: the newest one is compared
            self.look()
        if found.number < self.current.number:
            raise IdentityError(
                f"the server's revocation list has the number {found.number}, and this site knows "
                f"number {self.current.number}: the server does not know who is revoked; have the "
                f"authority's newest revoked.pem copied to the server's folder"
            )
        return self._kept(found)

    def _kept(self, found: RevocationList) -> bool:
        with self._gate:
            known = self.current.mark
            newest = store(self.folder, found, self.authority, known)
            self._current, self._stamps, self._fault = newest, None, ""
            return newest.mark != known

    def _noted(self, known: ListMark | None) -> RevocationList:
        """Return the list that lies in the folder, once its number is noted there."""
        found = standing(self.folder, self.authority, known)
        if seen(self.folder) == found.mark:
            return found
        with locked(self.folder):  # and again, while nobody else writes
            found = standing(self.folder, self.authority, known)
            if seen(self.folder) != found.mark:
                _remember(self.folder, found.mark)
        return found


def _highest(one: ListMark | None, other: ListMark | None, folder: Path) -> ListMark | None:
    if one is None or other is None:
        return one or other
    if one.number == other.number:
        overtakes(one, other, folder / SEEN)
    return max(one, other, key=lambda mark: mark.number)


def _remember(folder: Path, mark: ListMark) -> None:
    said = {"format": FORMAT, "number": mark.number, "sha256": mark.content}
    write(folder / SEEN, (json.dumps(said) + "\n").encode())


def _stamp(path: str) -> Stamp:
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_size
