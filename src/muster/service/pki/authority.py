# SPDX-License-Identifier: Apache-2.0
"""The folder of an authority: its key, what it issued, what it revoked.

    authority.key    the private key (0600); a copy of it can issue in the authority's name
    authority.pem    the authority's own certificate
    ledger.jsonl     a line per event: issued ("valid") or revoked; the last line of a serial holds
    revoked.pem      the signed revocation list, rewritten at every approval and revocation

Every file is replaced as a whole, on disk before the next step: the ledger knows of a certificate
before anyone holds it. Two approvals at once wait for each other.
"""

from __future__ import annotations

import contextlib
import difflib
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from muster.errors import IdentityError
from muster.service.identity import Grant, holder
from muster.service.pki import certificate as certificates
from muster.service.pki.bundle import Bundle, seal
from muster.service.pki.certificate import Authority
from muster.service.pki.keyfile import has, private, read, told, write

__all__ = [
    "AUTHORITY",
    "Approval",
    "Entry",
    "KEY",
    "LEDGER",
    "REVOKED",
    "approve",
    "entries",
    "init",
    "revoke",
    "revoked",
]

AUTHORITY, KEY, LEDGER, REVOKED = "authority.pem", "authority.key", "ledger.jsonl", "revoked.pem"
LOCK = "lock"


@dataclass(frozen=True)
class Entry:
    """One line of the ledger.

    Fields: holder's `name`, `role` and `hosts`; `serial`, in hexadecimal; `key`, its fingerprint;
    `begins`, `ends` and `when` it was written, ISO 8601; `state`, "valid" or "revoked"; `reason`.
    """

    name: str
    serial: str
    role: str
    hosts: tuple[str, ...]
    key: str
    begins: str
    ends: str
    state: str
    when: str
    reason: str | None = None

    def days_left(self, now: datetime) -> int:
        """Whole days until it expires; below 0 afterwards."""
        return (datetime.fromisoformat(self.ends) - now).days

    def live(self, now: datetime) -> bool:
        """Whether it opens a door now."""
        return self.state == "valid" and now <= datetime.fromisoformat(self.ends)


@dataclass(frozen=True)
class Approval:
    """What an approval made: the line in the ledger, and the bundle to send back."""

    entry: Entry
    bundle: Path


def init(folder: Path, title: str, now: datetime) -> str:
    """Make an authority in a new folder, whole or not at all; return its fingerprint."""
    made = certificates.new_authority(title, now)
    if folder.exists():
        raise IdentityError(f"{folder} already exists; name a new folder for the authority")
    files = {
        AUTHORITY: made.certificate,
        REVOKED: certificates.revocation_list(made, (), 0, now),
        LEDGER: b"",
    }
    with told(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))  # 0700
        try:
            write(part / KEY, made.key, 0o600)
            for name, data in files.items():
                write(part / name, data)
            os.rename(part, folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return certificates.fingerprint(made.certificate)


def approve(
    folder: Path, asked: Path, grant: Grant, now: datetime, *, renewal: bool = False,
    out: Path | None = None,
) -> Approval:  # fmt: skip
    """Issue a certificate for a request, and write the bundle to send back.

    The bundle lies beside the request unless `out` names a file. A name that has a live
    certificate with another key is given another one only as a `renewal`, so that nobody gets a
    site's name by asking for it.
    """
    request = certificates.read_request(read(asked))
    with _locked(folder):
        authority, lines = _authority(folder), _lines(folder)
        _check(lines, request, grant, now, renewal=renewal)
        issued = certificates.issue(authority, request, grant, now)
        who, serial = holder(issued), f"{holder(issued).serial:x}"
        place = out or asked.parent / f"{who.name}-{serial[:8]}.bundle.json"
        if has(place) or not place.parent.is_dir():
            raise IdentityError(f"{place} exists, or its folder does not; name another file")
        begins, ends = now - certificates.SKEW, who.not_after
        entry = Entry(who.name, serial, who.role, grant.hosts, request.key, _iso(begins),
                      _iso(ends), "valid", _iso(now))  # fmt: skip
        listed = _record(folder, authority, [*lines, entry], now)
    bundle = Bundle(who.name, who.role, grant.server.rstrip("/"), issued.decode(),
                    authority.certificate.decode(), listed.decode())  # fmt: skip
    write(place, seal(bundle, authority), fresh=True)
    return Approval(entry, place)


def revoke(folder: Path, who: str, reason: str, now: datetime) -> list[Entry]:
    """Revoke a certificate by its serial, or all of a name; return those that were not yet.

    A serial may be cut short to 8 digits or more; a name goes before a serial. Doing it twice
    does no harm: the list is signed anew.
    """
    if reason not in certificates.REASONS:
        known = ", ".join(certificates.REASONS)
        raise IdentityError(f"the reason {reason!r} is unknown; use one of {known}")
    with _locked(folder):
        authority, lines = _authority(folder), _lines(folder)
        meant = _meant(list(_latest(lines).values()), who)
        gone = [
            replace(entry, state="revoked", reason=reason, when=_iso(now))
            for entry in meant
            if entry.state == "valid"
        ]
        _record(folder, authority, [*lines, *gone], now)
    return gone


def entries(folder: Path) -> list[Entry]:
    """Every certificate that an authority issued, in that order, as it stands now."""
    _certificate_of(folder)
    return list(_latest(_lines(folder)).values())


def revoked(folder: Path) -> frozenset[int]:
    """The serials that are revoked, by the signed list in the folder of an authority or server."""
    return certificates.revoked_serials(read(folder / REVOKED), _certificate_of(folder))[1]


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    _certificate_of(folder)
    with told(folder):
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _certificate_of(folder: Path) -> bytes:
    if not has(folder / AUTHORITY):
        raise IdentityError(
            f"{folder} holds no {AUTHORITY}; name a folder made by muster pki init or accept"
        )
    return read(folder / AUTHORITY)


def _authority(folder: Path) -> Authority:
    return Authority(_certificate_of(folder), private(folder / KEY))


def _lines(folder: Path) -> list[Entry]:
    path = folder / LEDGER
    try:
        found = [json.loads(line) for line in read(path).splitlines()]
        return [Entry(**line | {"hosts": tuple(line["hosts"])}) for line in found]
    except (ValueError, TypeError, KeyError) as error:
        raise IdentityError(f"{path} is damaged ({error}); restore it from a backup") from None


def _latest(lines: list[Entry]) -> dict[str, Entry]:
    return {entry.serial: entry for entry in lines}


def _record(folder: Path, authority: Authority, lines: list[Entry], now: datetime) -> bytes:
    """Write the ledger, and the revocation list that follows from it."""
    text = "".join(json.dumps(asdict(entry)) + "\n" for entry in lines)
    write(folder / LEDGER, text.encode())
    gone = [
        (int(entry.serial, 16), entry.reason or "other", datetime.fromisoformat(entry.when))
        for entry in _latest(lines).values()
        if entry.state == "revoked"
    ]
    listed = certificates.revocation_list(authority, gone, len(lines), now)
    write(folder / REVOKED, listed)
    return listed


def _check(
    lines: list[Entry], asked: certificates.Request, grant: Grant, now: datetime, *, renewal: bool
) -> None:
    """Refuse a name that is somebody else's, or a key that was revoked."""
    known = list(_latest(lines).values())
    for entry in known:
        if entry.key == asked.key and (entry.state == "revoked" or entry.name != asked.name):
            raise IdentityError(
                f"the key of this request belongs to the {entry.state} certificate of "
                f"{entry.name!r}; make a new key with muster pki renew or request"
            )
    live = [entry for entry in known if entry.name == asked.name and entry.live(now)]
    for entry in live:
        if entry.role != grant.role:
            raise IdentityError(f"{entry.name!r} is a {entry.role}; use another name")
        if entry.key != asked.key and not renewal:
            raise IdentityError(
                f"{entry.name!r} has a certificate until {entry.ends[:10]}; add --renewal when "
                f"this request is from the same {entry.role}, or revoke the old one first"
            )


def _meant(known: list[Entry], who: str) -> list[Entry]:
    named = [entry for entry in known if entry.name == who]
    serial = who.lower().removeprefix("0x")
    meant = named or [e for e in known if len(serial) >= 8 and e.serial.startswith(serial)]
    if not meant or (not named and len(meant) > 1):
        near = difflib.get_close_matches(who, [entry.name for entry in known], n=1)
        hint = f"did you mean {near[0]}?" if near else "see muster pki ls"
        raise IdentityError(f"{who!r} is not the name or serial of one certificate here; {hint}")
    return meant


def _iso(when: datetime) -> str:
    return when.astimezone(UTC).isoformat(timespec="seconds")
