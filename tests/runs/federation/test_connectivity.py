# SPDX-License-Identifier: Apache-2.0
"""The way to a server, with a fault on each of its steps; the servers are on loopback."""

import contextlib
import shutil
import socket
import ssl
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

pytest.importorskip("cryptography")

from muster.runs.federation import connectivity
from muster.runs.federation.doctor import USUAL
from muster.security import identity, pki

OK = b"HTTP/1.1 200 OK\r\nDate: %s\r\nContent-Length: 16\r\n\r\n" + b'{"healthy":true}'


@pytest.fixture(scope="module")
def homes(tmp_path_factory):
    base, now = tmp_path_factory.mktemp("homes"), datetime.now(UTC)
    pki.init(base / "hq", "Heart study", now)
    for name, role, hosts in (("hub", "server", ("127.0.0.1",)), ("lyon", "site", ())):
        request, _ = pki.ask(base / name, name)
        grant = pki.Grant("https://127.0.0.1:8443", role, hosts=hosts)
        pki.accept(pki.approve(base / "hq", request, grant, now).bundle, base / name, now)
    return base


@contextlib.contextmanager
def server(home, said):
    """Answers one connection with some bytes, over TLS where there is an identity."""
    door = socket.create_server(("127.0.0.1", 0))

    def answer():
        with contextlib.suppress(OSError), door.accept()[0] as raw:
            raw.settimeout(10)
            context = home and identity.server_context(home, home / "authority.pem")
            with context.wrap_socket(raw, server_side=True) if context else raw as line:
                line.recv(4096)
                line.sendall(said)

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        yield f"http{'s' if home else ''}://127.0.0.1:{door.getsockname()[1]}"
    finally:
        door.close()
        thread.join(10)


def date(**off):
    return format_datetime(datetime.now(UTC) + timedelta(**off), usegmt=True).encode()


def seen(found):
    return {finding.check: finding.level for finding in found}


def test_the_whole_way(homes):
    with server(homes / "hub", OK % date()) as url:
        found = seen(connectivity.reach(url, homes / "lyon"))
    assert found == dict.fromkeys(("name", "port", "tls", "health", "clock"), "ok")


def test_without_tls(homes):
    with server(None, OK % date()) as url:
        assert "tls" not in seen(connectivity.reach(url, None))


@pytest.mark.parametrize(
    ("off", "level"),
    [
        ({}, "ok"),
        ({"seconds": 60}, "warning"),
        ({"hours": 1}, "problem"),
        ({"hours": -1}, "problem"),
    ],
)
def test_a_clock_that_is_wrong(off, level):
    (found,) = connectivity.clock(date(**off).decode())
    assert found.level == level


@pytest.mark.parametrize("said", [None, "", "yesterday"])
def test_a_server_that_tells_no_time(said):
    assert connectivity.clock(said)[0].level == "warning"


def test_a_name_that_nobody_knows():
    def nowhere(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    found = connectivity.reach("https://hub.invalid:8443", None, replace(USUAL, lookup=nowhere))
    assert seen(found) == {"name": "problem"} and "DNS" in found[0].cure


def test_a_port_that_is_closed(homes):
    with socket.create_server(("127.0.0.1", 0)) as door:
        number = door.getsockname()[1]
    found = connectivity.reach(f"https://127.0.0.1:{number}", homes / "lyon")
    assert seen(found)["port"] == "problem" and str(number) in found[-1].cure


def test_another_authority(homes, tmp_path):
    shutil.copytree(homes / "lyon", tmp_path / "lyon")
    pki.init(tmp_path / "other", "Heart study", datetime.now(UTC))
    for name in ("authority.pem", "revoked.pem", "revoked.seen"):
        shutil.copy(tmp_path / "other" / name, tmp_path / "lyon")
    with server(homes / "hub", b"") as url:
        found = connectivity.reach(url, tmp_path / "lyon")
    assert seen(found)["tls"] == "problem" and "proxy that opens TLS" in found[-1].cure


def test_another_host_than_the_certificate_has(homes):
    with server(homes / "hub", b"") as url:
        found = connectivity.reach(url.replace("127.0.0.1", "localhost"), homes / "lyon")
    assert seen(found)["tls"] == "problem" and "--host localhost" in found[-1].cure


def test_a_server_whose_certificate_is_revoked(homes, tmp_path):
    for name in ("hq", "lyon"):
        shutil.copytree(homes / name, tmp_path / name)
    pki.revoke(tmp_path / "hq", "hub", "compromised", datetime.now(UTC))
    shutil.copy(tmp_path / "hq/revoked.pem", tmp_path / "lyon")
    with server(homes / "hub", OK % date()) as url:
        found = connectivity.reach(url, tmp_path / "lyon")
    assert seen(found)["tls"] == "problem" and "health" not in seen(found)
    assert "of 'hub' is revoked" in found[-1].found and "ask the operator" in found[-1].cure


def test_no_tls_at_the_other_end(homes):
    with server(None, b"HTTP/1.1 400 Bad Request\r\n\r\n") as url:
        found = connectivity.reach(url.replace("http:", "https:"), homes / "lyon")
    assert seen(found)["tls"] == "problem"


def test_a_refusal_is_told_in_its_own_words(homes):
    body = b'{"kind":"verdict","accepted":false,"reason":"revoked","text":"it is revoked"}'
    said = b"HTTP/1.1 403 Forbidden\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    with server(homes / "hub", said) as url:
        found = connectivity.reach(url, homes / "lyon")
    assert (
        found[-1].level == "problem" and found[-1].found == "/healthz answered 403: it is revoked"
    )


def test_a_certificate_that_the_server_refuses(homes):
    error = ssl.SSLError(1, "tlsv13 alert certificate required")
    assert "revoked" in connectivity._remedy(error, "hub")


@pytest.mark.parametrize(
    ("found", "bypass", "level", "words"),
    [
        ({}, False, "ok", "no proxy"),
        ({"https": "http://me:secret@proxy:3128"}, False, "warning", "//…@proxy:3128 is used"),
        ({"https": "http://proxy:3128"}, True, "ok", "excepts hub"),
        ({"no": "hub"}, False, "ok", "no proxy"),
    ],
)
def test_proxies(found, bypass, level, words):
    effects = replace(USUAL, proxies=lambda: found, bypass=lambda host: bypass)
    (said,) = connectivity.proxies("hub", effects)
    assert said.level == level and words in said.found and "secret" not in said.found
