# SPDX-License-Identifier: Apache-2.0
"""The folder of an authority: its key, what it issued, what it revoked.

    authority.key    the private key (0600); a copy of it can issue in the authority's name
    authority.pem    the authority's own certificate
    ledger.jsonl     a line per event: issued ("valid") or revoked; the last line of a serial holds
    revoked.pem      the signed revocation list, a new one at every revocation (see `highwater`)

Every file is replaced as a whole, on disk before the next step: the ledger knows of a certificate
before anyone holds it. Two approvals at once wait for each other.

The list follows from the ledger alone: its entries are the certificates that are revoked, its
number is noted in their lines and rises with each revocation. So one that was interrupted, or
whose list was destroyed, gives the very same list when it is finished; and a ledger that was put
back to an older copy cannot sign a second list of one number: the newest list, copied into the
folder from any member, gives it back what it has lost.
"""

from __future__ import annotations

import difflib
import json
import os
import shlex
import shutil
import tempfile
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from muster.errors import IdentityError
from muster.security.identity import Grant, holder
from muster.security.pki import certificate as certificates
from muster.security.pki.bundle import Bundle, seal
from muster.security.pki.certificate import Authority
from muster.security.pki.highwater import Revocations, put, seen, standing
from muster.security.pki.keyfile import AUTHORITY, has, locked, private, read, told, write
from muster.security.pki.revocation import (
    REASONS,
    RevocationList,
    Revoked,
    overtakes,
    sign_list,
)

__all__ = [
    "Approval",
    "CertificateEntry",
    "KEY",
    "LEDGER",
    "approve",
    "entries",
    "init",
    "revoke",
    "revoked",
    "unconfirmed",
]

KEY, LEDGER = "authority.key", "ledger.jsonl"
FORMAT = 2  # of a line; lines without one are of an earlier muster, and had no organisation
LOST = "lost"  # the name in a line of a certificate that only a list knows of


@dataclass(frozen=True)
class CertificateEntry:
    """One line of the ledger.

    Fields: holder's `name`, `role`, `hosts` and `organisation`; `serial`, in hexadecimal; `key`,
    its fingerprint; `begins`, `ends` and `when` it was written, ISO 8601; `state`, "valid" or
    "revoked"; `reason`; the `number` of the revocation list that holds from this line on.
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
    organisation: str = ""
    number: int = 0

    def __post_init__(self) -> None:
        if not self.organisation:
            object.__setattr__(self, "organisation", self.name)

    def days_left(self, now: datetime) -> int:
        """Count the whole days until it expires; below 0 afterwards."""
        return (datetime.fromisoformat(self.ends) - now).days

    def live(self, now: datetime) -> bool:
        """Return whether it opens a door now."""
        return self.state == "valid" and now <= datetime.fromisoformat(self.ends)


@dataclass(frozen=True)
class Approval:
    """An approval: the line in the ledger, and the bundle to send back."""

    entry: CertificateEntry
    bundle: Path


def init(folder: Path, title: str, now: datetime) -> str:
    """Make an authority in a new folder, whole or not at all; return its fingerprint."""
    made = certificates.new_authority(title, now)
    if folder.exists():
        raise IdentityError(f"{folder} already exists; name a new folder for the authority")
    files = {
        AUTHORITY: made.certificate,
        LEDGER: b"",
    }
    with told(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))  # 0700
        try:
            write(part / KEY, made.key, 0o600)
            for name, data in files.items():
                write(part / name, data)
            put(part, sign_list(made, (), 0))
            os.rename(part, folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return certificates.fingerprint(made.certificate)


def approve(
    folder: Path,
    asked: Path,
    grant: Grant,
    now: datetime,
    *,
    renewal: bool = False,
    out: Path | None = None,
) -> Approval:
    """Issue a certificate for a request, and write the bundle to send back.

    The bundle lies beside the request unless `out` names a file. A name that has a live
    certificate with another key is given another one only as a `renewal`, so that nobody gets a
    site's name by asking for it. Nor does anybody speak for an organisation by asking: the grant
    names the one that the request asks for, or another; a renewal keeps the one that it had.
    """
    request = certificates.read_request(read(asked))
    with _held(folder):
        authority, lines, there = _opened(folder)
        _check(lines, request, grant, now, renewal=renewal)
        grant = replace(grant, organisation=_organisation(lines, request, grant, now, renewal))
        issued = certificates.issue(authority, request, grant, now)
        who, serial = holder(issued), f"{holder(issued).serial:x}"
        place = out or asked.parent / f"{who.name}-{serial[:8]}.bundle.json"
        if has(place) or not place.parent.is_dir():
            raise IdentityError(f"{place} exists, or its folder does not; name another file")
        begins, ends = now - certificates.SKEW, who.not_after
        days = _iso(begins), _iso(ends)
        entry = CertificateEntry(
            who.name,
            serial,
            who.role,
            grant.hosts,
            request.key,
            *days,
            "valid",
            _iso(now),
            organisation=who.organisation,
            number=_number(lines, there),
        )
        listed = _record(folder, authority, [*lines, entry], there)
    bundle = Bundle(
        who.name,
        who.role,
        grant.server.rstrip("/"),
        issued.decode(),
        authority.certificate.decode(),
        listed.pem.decode(),
    )
    write(place, seal(bundle, authority), fresh=True)
    return Approval(entry, place)


def revoke(folder: Path, who: str, reason: str, now: datetime) -> list[CertificateEntry]:
    """Revoke a certificate by its serial, or all of a name; return those that were not yet.

    A serial may be cut short to 8 digits or more; a name goes before a serial. Doing it twice
    does no harm: what was interrupted is finished.
    """
    if reason not in REASONS:
        known = ", ".join(REASONS)
        raise IdentityError(f"the reason {reason!r} is unknown; use one of {known}")
    with _held(folder):
        authority, lines, there = _opened(folder)
        meant, number = _meant(list(_latest(lines).values()), who), _number(lines, there) + 1
        gone = [
            replace(entry, state="revoked", reason=reason, when=_iso(now), number=number)
            for entry in meant
            if entry.state == "valid"
        ]
        _record(folder, authority, [*lines, *gone], there)
    return gone


def entries(folder: Path) -> list[CertificateEntry]:
    """Return every certificate that an authority issued, in that order, as it stands now."""
    _certificate_of(folder)
    return list(_latest(_lines(folder)).values())


def revoked(folder: Path) -> frozenset[int]:
    """Return the revoked serials, by the newest list that the folder of anybody has seen."""
    _certificate_of(folder)
    return Revocations(folder).current.serials


def unconfirmed(folder: Path, asked: Path, now: datetime, *, renewal: bool = False) -> str:
    """Return the organisation that a request asks to speak for, if `approve` wants it confirmed."""
    request, lines = certificates.read_request(read(asked)), _lines(folder)
    held = _held_by(lines, request.name, now, renewal)
    return request.organisation if request.organisation not in ("", held, request.name) else ""


def _held(folder: Path) -> AbstractContextManager[None]:
    """Hold the folder for oneself, when it is an authority's."""
    _certificate_of(folder)
    return locked(folder)


def _certificate_of(folder: Path) -> bytes:
    if not has(folder / AUTHORITY):
        raise IdentityError(
            f"{folder} holds no {AUTHORITY}; name a folder made by muster pki init or accept"
        )
    return read(folder / AUTHORITY)


def _lines(folder: Path) -> list[CertificateEntry]:
    path = folder / LEDGER
    try:
        found = [json.loads(line) for line in read(path).splitlines()]
        earlier = sum("format" not in line for line in found)  # a list's number was that of lines
        for line in found:
            if line.pop("format", FORMAT) != FORMAT:
                raise ValueError(f"a line of a format other than {FORMAT}")
            line.setdefault("number", earlier)
        return [CertificateEntry(**line | {"hosts": tuple(line["hosts"])}) for line in found]
    except (ValueError, TypeError, KeyError) as error:
        raise IdentityError(f"{path} is damaged ({error}); restore it from a backup") from None


def _latest(lines: list[CertificateEntry]) -> dict[str, CertificateEntry]:
    return {entry.serial: entry for entry in lines}


def _opened(folder: Path) -> tuple[Authority, list[CertificateEntry], RevocationList | None]:
    """Return the authority, its ledger, and the list that lies there, if it is one that may."""
    authority = Authority(_certificate_of(folder), private(folder / KEY))
    try:
        there = standing(folder, authority.certificate)
    except IdentityError:
        there = None  # put back or damaged: it follows from the ledger
    return authority, _with_lost(_lines(folder), there), there


def _record(
    folder: Path, authority: Authority, lines: list[CertificateEntry], there: RevocationList | None
) -> RevocationList:
    """Write the ledger, and the revocation list that follows from it, unless it lies there."""
    gone = [
        Revoked(int(entry.serial, 16), entry.reason or "other", datetime.fromisoformat(entry.when))
        for entry in _latest(lines).values()
        if entry.state == "revoked"
    ]
    listed, before = sign_list(authority, gone, _number(lines, there)), seen(folder)
    if there and (there.number, there.serials) == (listed.number, listed.serials):
        listed = there
    elif before is not None:
        overtakes(before, listed.mark, f"what follows from {folder / LEDGER}")
    text = "".join(json.dumps({"format": FORMAT} | asdict(entry)) + "\n" for entry in lines)
    write(folder / LEDGER, text.encode())
    if before != listed.mark or there is None:
        put(folder, listed)
    return listed


def _number(lines: list[CertificateEntry], there: RevocationList | None) -> int:
    """Return the number of the list that follows from these lines, and the one that lies there."""
    return max(max((entry.number for entry in lines), default=0), there.number if there else 0)


def _with_lost(
    lines: list[CertificateEntry], there: RevocationList | None
) -> list[CertificateEntry]:
    """Return the lines, with those a ledger put back to a copy has lost, as the list tells them."""
    if there is None:
        return lines
    latest, found = _latest(lines), list[CertificateEntry]()
    for one in there.revoked:
        serial, when = f"{one.serial:x}", _iso(one.when)
        unknown = CertificateEntry(LOST, serial, "site", (), "", when, when, "valid", when)
        entry = latest.get(serial, unknown)
        if entry.state == "valid":
            found.append(
                replace(entry, state="revoked", reason=one.reason, when=when, number=there.number)
            )
    return [*lines, *found]


def _held_by(lines: list[CertificateEntry], name: str, now: datetime, renewal: bool) -> str:
    """Return the organisation that a name speaks for already; "" where it is a new one."""
    known = [entry for entry in _latest(lines).values() if entry.name == name]
    standing_ = [entry for entry in known if renewal or entry.live(now)]
    return standing_[-1].organisation if standing_ else ""


def _organisation(
    lines: list[CertificateEntry],
    asked: certificates.SigningRequest,
    grant: Grant,
    now: datetime,
    renewal: bool,
) -> str:
    """Return the organisation that a certificate is to name, by the authority's word."""
    if grant.organisation:
        return grant.organisation
    held = _held_by(lines, asked.name, now, renewal)
    if asked.organisation in ("", held, asked.name):
        return held or asked.name
    before = f", and speaks for {held!r} until now" if held else ""
    raise IdentityError(
        f"{asked.name!r} asks to speak for {asked.organisation!r}{before}; say which one it is: "
        f"--organisation {shlex.quote(asked.organisation)}, or another"
    )


def _check(
    lines: list[CertificateEntry],
    asked: certificates.SigningRequest,
    grant: Grant,
    now: datetime,
    *,
    renewal: bool,
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


def _meant(known: list[CertificateEntry], who: str) -> list[CertificateEntry]:
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
