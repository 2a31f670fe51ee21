# SPDX-License-Identifier: Apache-2.0
"""The way from a site to its server, step by step: proxy, name, port, TLS, health, clock."""

from __future__ import annotations

import json
import socket
import ssl
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from urllib.parse import urlsplit

from muster.errors import IdentityError, MusterError
from muster.runs.federation.doctor import PATIENCE, USUAL, Effects, Finding, Level
from muster.security import pki

__all__ = ["clock", "proxies", "reach"]

AHEAD, WRONG = 5.0, 300.0  # seconds between two clocks: a warning, a problem


def proxies(host: str, effects: Effects = USUAL) -> list[Finding]:
    """Look for a proxy of the environment between this machine and a host."""
    found = {k: v for k, v in effects.proxies().items() if k in ("http", "https", "all")}
    if not found:
        return [Finding("proxy", "ok", "no proxy is set in the environment")]
    names = ", ".join(f"{name}_proxy={_hidden(url)}" for name, url in found.items())
    if effects.bypass(host):
        return [Finding("proxy", "ok", f"{names}, but no_proxy excepts {host}")]
    cure = f"if joining fails, let the proxy pass TLS through (CONNECT), or set no_proxy={host}"
    return [Finding("proxy", "warning", f"{names} is used on the way to {host}", cure)]


def _hidden(url: str) -> str:
    """Return a proxy's address without its password."""
    before, at, after = url.rpartition("@")
    return f"{before.partition('//')[0]}//…@{after}" if at else url


def reach(url: str, home: Path | None, effects: Effects = USUAL) -> list[Finding]:
    """Check the way to a server: its name, its port, its certificate, its health, its clock."""
    parts = urlsplit(url)
    host, secure = parts.hostname or "", parts.scheme == "https"
    number = parts.port or (443 if secure else 80)
    try:
        places = effects.lookup(host, number, type=socket.SOCK_STREAM)
    except OSError as error:
        return [Finding("name", "problem", f"{host}: {error}", "check the address, and DNS")]
    addresses = sorted({place[4][0] for place in places})
    found = [Finding("name", "ok", f"{host} is {', '.join(map(str, addresses))}")]
    try:
        raw = effects.connect((host, number), PATIENCE)
    except OSError as error:
        cure = f"let this machine out to port {number} of {host}: a site needs nothing else"
        return [*found, Finding("port", "problem", f"{host} port {number}: {error}", cure)]
    with raw:
        found.append(Finding("port", "ok", f"{host} port {number} takes connections"))
        return found + _talk(raw, host, home if secure else None, effects)


def _talk(raw: socket.socket, host: str, home: Path | None, effects: Effects) -> list[Finding]:
    """Check TLS, and ask a question over a connection that is open."""
    found, sock = [], raw
    if home is not None:
        try:
            context = pki.client_context(home)
            sock = context.wrap_socket(raw, server_hostname=host)
        except (OSError, MusterError) as error:
            return [Finding("tls", "problem", _why(error), _remedy(error, host))]
        found.append(Finding("tls", "ok", f"{sock.version()}, and the server proved who it is"))
    line = HTTPConnection(host, timeout=PATIENCE)
    line.sock = sock
    try:
        line.request("GET", "/healthz")
        answer = line.getresponse()
        text = answer.read(2000).decode(errors="replace")
    except (OSError, HTTPException) as error:
        return [*found, Finding("health", "problem", _why(error), _remedy(error, host))]
    finally:
        line.close()
    if answer.status != 200:
        said = f"/healthz answered {answer.status}: {_said(text)}"
        return [*found, Finding("health", "problem", said, "ask the federation's operator")]
    return [
        *found,
        Finding("health", "ok", "the server is well"),
        *clock(answer.headers.get("Date"), effects),
    ]


def _said(text: str) -> str:
    """Return the sentence of a refusal, or the beginning of whatever else it is."""
    try:
        said = json.loads(text)["text"]
    except (ValueError, TypeError, KeyError):
        said = text
    return "".join(letter if letter.isprintable() else " " for letter in str(said)[:200])


def _why(error: BaseException) -> str:
    return getattr(error, "verify_message", "") or str(error) or type(error).__name__


def _remedy(error: BaseException, host: str) -> str:
    text = _why(error).lower()
    if isinstance(error, IdentityError):
        return "see the finding about the certificate"
    if "hostname" in text or "ip address mismatch" in text:
        return f"the server's certificate has no host {host}: approve it with --host {host}"
    if isinstance(error, ssl.SSLCertVerificationError):
        return "another server, or a proxy that opens TLS, answers there: ask the operator"
    if "alert" in text or isinstance(error, ConnectionResetError):
        return "the server takes no certificate of this authority, or this one is revoked"
    return "is it a muster server, over https, on this port? Ask the operator"


def clock(date: str | None, effects: Effects = USUAL) -> list[Finding]:
    """Compare this machine's clock with the Date that a server said."""
    try:
        there = parsedate_to_datetime(date or "")
    except (TypeError, ValueError):
        return [Finding("clock", "warning", "the server told no time", "compare by hand")]
    off = (effects.now() - there).total_seconds()
    text = f"{abs(off):.0f} s {'ahead of' if off > 0 else 'behind'} the server's clock"
    level: Level = "problem" if abs(off) > WRONG else "warning" if abs(off) > AHEAD else "ok"
    return [Finding("clock", level, text, "" if level == "ok" else "set the clock (NTP)")]
