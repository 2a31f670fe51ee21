# SPDX-License-Identifier: Apache-2.0
"""The doctor: what would keep a site or a server from its work, found before it begins.

Each check is a function of what it is given; clock, network and disk are in `Effects`, so that a
test can put any fault there. A check never raises for what it looks for: it returns findings. The
way to a server is looked at in `reach.py`.
"""

from __future__ import annotations

import os
import platform
import shutil
import socket
import ssl
import stat
import tempfile
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from itertools import count
from pathlib import Path
from typing import Any, Literal

import numpy as np

from muster import keys
from muster.data.arrays import as_pair
from muster.errors import AuditError, MusterError
from muster.extras import DISTRIBUTION, install_command
from muster.federation.protocol.limits import kept_of_disk
from muster.local import Group, train
from muster.plan import Plan
from muster.plan.measured import check_metrics
from muster.plan.registry import fingerprint, to_value
from muster.plan.secure import refused_session
from muster.rounds import start
from muster.runs.privacy.masked import own_needed
from muster.security import audit, identity, pki

__all__ = [
    "Effects",
    "Finding",
    "Level",
    "PATIENCE",
    "USUAL",
    "certificate",
    "data",
    "disk",
    "folder",
    "log",
    "plan",
    "port",
    "sums",
    "versions",
]

Level = Literal["ok", "warning", "problem"]
PATIENCE = 10.0  # seconds for a connection, and for each answer on it
SOON = 30  # days until the end of a certificate, from which that is a warning
SLOW = 0.1  # seconds of an fsync from which a disk is slow
FEW = 4  # clients of a session: what a plan that states no floor takes, bearing a loss or none
COPIES = 6  # models that a site's or a server's folder may hold at once, about
SITE = ("numpy", "cryptography", "httpx", "zstandard")  # what a site cannot be without
SERVER = ("sqlalchemy", "uvicorn")  # and a server besides


@dataclass(frozen=True)
class Finding:
    """One line of the doctor: the check, how it went, what was found and what to do."""

    check: str
    level: Level
    found: str
    cure: str = ""


def _now() -> datetime:
    return datetime.now(UTC)


def _sync(folder: Path) -> float:
    """Return the seconds until a few bytes are on the disk, the worst of five times."""
    worst = 0.0
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor-") as file:
        for _ in range(5):
            begin = time.perf_counter()
            file.write(b"muster" * 100)
            file.flush()
            os.fsync(file.fileno())
            worst = max(worst, time.perf_counter() - begin)
    return worst


def _bypassed(host: str) -> bool:
    return bool(urllib.request.proxy_bypass(host))


@dataclass(frozen=True)
class Effects:
    """The world outside: the clock, names, connections, the disk, and the environment."""

    now: Callable[[], datetime] = _now
    lookup: Callable[..., Any] = socket.getaddrinfo
    connect: Callable[..., socket.socket] = socket.create_connection
    listen: Callable[..., socket.socket] = socket.create_server
    free: Callable[[Path], Any] = shutil.disk_usage
    sync: Callable[[Path], float] = _sync
    proxies: Callable[[], Mapping[str, str]] = urllib.request.getproxies
    bypass: Callable[[str], bool] = _bypassed


USUAL = Effects()


def versions(*, serves: bool) -> list[Finding]:
    """Check what is installed; `serves` says that this machine is to be a server."""
    found, missing = [f"python {platform.python_version()}", _ours()], []
    for name in (*SITE, *SERVER):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing += [name] if serves or name in SITE else []
    said = ", ".join([*found, " ".join(ssl.OPENSSL_VERSION.split(" ")[:2])])
    if missing:
        lacks = f"{said}; {', '.join(missing)} is not installed"
        return [
            Finding("versions", "problem", lacks, install_command("service" if serves else "site"))
        ]
    return [Finding("versions", "ok", said)]


def _ours() -> str:
    try:
        return f"{DISTRIBUTION} {version(DISTRIBUTION)}"
    except PackageNotFoundError:
        return f"{DISTRIBUTION} from a folder that is not installed"


def certificate(home: Path, effects: Effects = USUAL) -> list[Finding]:
    """Check an identity's folder: its key, whose certificate it is, until when, if revoked."""
    what = "certificate"
    try:
        member = pki.member(home)
        who, now = member.who, effects.now()
        context = identity.server_context if who.role == "server" else identity.client_context
        context(home, home / "authority.pem")  # key and certificate belong together
        gone = pki.revoked(home)
    except (MusterError, OSError) as error:
        return [Finding(what, "problem", str(error), _cure(home, error))]
    said = f"{who.name} is a {who.role} of {member.server} until {who.not_after:%F}"
    left = (who.not_after - now).days
    renew = f"muster pki renew {home}, and send the request to the authority"
    if who.serial in gone:
        text = f"the certificate {who.serial:x} of {who.name} is revoked"
        return [Finding(what, "problem", text, "ask the authority why, and for a new one")]
    if now > who.not_after:
        return [Finding(what, "problem", f"{said}: it has expired", renew)]
    found = [Finding(what, "warning", f"{said}: {left} days left", renew)]
    if left >= SOON:
        found = [Finding(what, "ok", f"{said}, {left} days left")]
    return [*found, *_chain(home, now)]


def _chain(home: Path, now: datetime) -> list[Finding]:
    """Check that the authority whose certificate lies here made the other one, and began by now."""
    own = identity.certificate((home / identity.IDENTITY).read_bytes())
    above = identity.certificate((home / "authority.pem").read_bytes())
    if own.not_valid_before_utc > now:
        text = f"the certificate begins on {own.not_valid_before_utc:%F %H:%M} UTC, after now"
        return [Finding("clock", "problem", text, "set the clock of this machine (NTP)")]
    try:
        own.verify_directly_issued_by(above)
    except Exception as error:
        text = f"authority.pem is not of the authority that made the certificate ({error!r:.80})"
        return [Finding("authority", "problem", text, "accept the authority's bundle again")]
    mark = pki.fingerprint((home / "authority.pem").read_bytes())
    text = f"{mark[:16]}… made it, until {above.not_valid_after_utc:%F}"
    if above.not_valid_after_utc < now:
        return [Finding("authority", "problem", f"{text}: over", "make a new authority: all join")]
    return [Finding("authority", "ok", text)]


def _cure(home: Path, error: BaseException) -> str:
    if "can be read by others" in str(error):
        return f"chmod 600 {home / identity.IDENTITY}"
    if "revoked." in str(error):
        return f"copy the authority's newest revoked.pem to {home}"
    return "muster pki request and muster pki accept make it whole"


def disk(
    place: Path, plan: Plan | None, members: int = 1, effects: Effects = USUAL
) -> list[Finding]:
    """Check room and speed of the disk under a folder, made or not yet."""
    there = next(p for p in (place, *place.resolve().parents) if p.is_dir())
    try:
        free, seconds = effects.free(there).free, effects.sync(there)
    except OSError as error:
        return [Finding("disk", "problem", f"{there}: {error}", "make room, or mend the disk")]
    need = 0 if plan is None else _need(plan, members)
    text = f"{_size(free)} free under {there}"
    if need:
        text += f", about {_size(need)} needed"
    room = Finding("disk", "ok", text)
    if free < max(need, 1 << 20):
        room = Finding("disk", "problem", text, "make room, or name another folder with --path")
    elif free < 2 * need:
        room = Finding("disk", "warning", text, "make room: twice what is needed is safe")
    slow = f"{1000 * seconds:.1f} ms until a write is safe"
    if seconds > SLOW:
        cure = "every answer waits for the disk: use a local one, not a network folder"
        return [room, Finding("fsync", "warning", slow, cure)]
    return [room, Finding("fsync", "ok", slow)]


def _need(plan: Plan, members: int) -> int:
    """Estimate the bytes that a folder holds at once: models, states, each member's update."""
    model = 8 * plan.task.layout.size
    return kept_of_disk(model) + COPIES * model + members * max(model, plan.upload_bytes())


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            break
        count /= 1000
    return f"{count:.0f} {unit}"


def data(plan: Plan, rows: Callable[[], tuple[Any, Any]]) -> list[Finding]:
    """Check a site's rows, as its plan needs them, and a step on them; `rows()` reads them."""
    try:
        x, y = as_pair("the site", rows())
        plan.task.check(x, y)
        check_metrics(plan, x, y)
    except MusterError as error:
        return [Finding("data", "problem", str(error), "mend the file, or its loader")]
    shape = "×".join(map(str, x.shape[1:])) or "1"
    fit = Finding("data", "ok", f"{len(x)} rows of {shape} features fit the plan")
    return [fit, _step(plan, x, y)]


def _step(plan: Plan, x: Any, y: Any) -> Finding:
    """Take one step of local training on a batch, and evaluate what came of it, for nobody."""
    few = min(len(x), plan.local.batch or len(x))
    one = replace(plan, local=replace(plan.local, epochs=None, steps=1))
    sent, x, y = start(one).sent(), x[:few], y[:few]
    blank = one.fresh_memory(*one.task.init(keys.key(one.seed).at("init")))
    zero, sizes = np.zeros(1, np.int64), np.array([few], np.int64)
    group = Group(("doctor",), (1,), x, y, zero, sizes, (blank,) if one.remembers else None)
    try:
        with np.errstate(all="ignore"):  # what is not finite is refused when it is reported
            train(one, "loop", 1, sent, group)
            one.task.evaluate(*one.whole(sent, blank), x, y)
    except Exception as error:  # a user's model, loss or fit may raise anything
        text = f"a step of training fails: {type(error).__name__}: {error}"
        return Finding("training", "problem", text, "mend the model, its loss, or the rows")
    return Finding("training", "ok", f"a step of {few} rows trains, and the model is evaluated")


def plan(given: Plan) -> Finding:
    """Say which plan it is: both sides must have the same."""
    size = given.task.layout.size
    return Finding("plan", "ok", f"{fingerprint(given)[:12]}…, {size} parameters")


def sums(given: Plan) -> list[Finding]:
    """Say with how few others this plan sums a site; nothing for one that masks no sums."""
    secure = given.secure
    own = own_needed(to_value(given), given.stages.releases(), None)
    if secure is None or own is None:
        return []
    said = f"a server that chooses whom it invites needs {own} clients of its own beside one other"
    drawn = given.selection.traits.count
    few = next(size for size in count(3) if not refused_session(given, size))
    if drawn is not None or few > FEW:
        size = few if drawn is None else max(few, drawn // secure.groups)
        return [Finding("sums", "ok", f"a session of fewer than {size} is declined: {said}")]
    text = f"a session of {few} is taken part in, whatever {given.sampling} draws: {said}"
    cure = "state a floor, SecureSum(minimum=20), or least_peers in each site.toml"
    return [Finding("sums", "warning", text, cure)]


def port(address: str, ours: Path | None = None, effects: Effects = USUAL) -> list[Finding]:
    """Check whether a server could listen at HOST:PORT; `ours` is a run whose server may do so."""
    host, _, digits = address.rpartition(":")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        effects.listen((host.strip("[]"), int(digits)), family=family).close()
    except (OSError, ValueError, OverflowError) as error:
        number = error.errno if isinstance(error, OSError) else None
        why = os.strerror(number) if number else str(error)
        text = f"{address} cannot be listened on ({why})"
        if ours is not None and (ours / "control.sock").exists():
            cure = f"if that is the server of {ours}, all is well; see muster status"
            return [Finding("port", "warning", text, cure)]
        cure = "name another --address, or end what listens there"
        return [Finding("port", "problem", text, cure)]
    return [Finding("port", "ok", f"{address} is free")]


def folder(place: Path) -> list[Finding]:
    """Check whether a folder can hold a run, and for whose eyes."""
    there = next(p for p in (place, *place.resolve().parents) if p.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        text = f"{there} cannot be written by this user"
        return [Finding("folder", "problem", text, "give it to the user of the server (chown)")]
    if len(str(place / "control.sock")) > 90:
        text = f"the path of {place} is too long for its control socket"
        return [Finding("folder", "problem", text, "use a path of less than 75 characters")]
    mode = stat.S_IMODE(there.stat().st_mode)
    if place.exists() and mode & 0o007:
        text = f"{place} can be read by every user of this machine (mode {mode:o})"
        return [Finding("folder", "warning", text, f"chmod 750 {place}")]
    return [Finding("folder", "ok", f"{place} can be written")]


def log(place: Path) -> list[Finding]:
    """Check whether the audit log in a folder is whole."""
    path = place / "audit.jsonl"
    if not path.exists():
        return [Finding("audit", "ok", "no audit log yet")]
    try:
        found = audit.verify(path)
    except AuditError as error:
        return [Finding("audit", "problem", str(error), "keep a copy, and find out who changed it")]
    return [Finding("audit", "ok", f"{found.entries} entries, none changed")]
