# SPDX-License-Identifier: Apache-2.0
"""Real TLS on loopback: who gets in, and who is thrown out."""

import asyncio
import shutil
import ssl
from datetime import UTC, datetime

import httpx
import pytest
from tests.transport.http.stand import (
    DAY,
    POLL,
    RUN,
    Desk,
    Federation,
    client_of,
    edge_over,
    listening,
    run,
)

from muster.errors import IdentityError
from muster.federation.protocol.message import Ack, Poll, from_json, to_json
from muster.security import pki
from muster.security.identity import IDENTITY, Grant
from muster.security.refusal import RefusalReason
from muster.transport.http.listen import ListenAddress
from muster.transport.http.protocol import Trust

ASK = b"GET /v1/plan HTTP/1.1\r\nhost: hub\r\nmuster-site: lyon\r\n"


@pytest.fixture
def fed(tmp_path):
    return Federation(tmp_path / "fed")


def serving(fed, tmp_path, talk, **where):
    """Have `talk(port, edge, trust)` talk to a server over TLS."""

    async def main():
        trust, service = Trust(fed.hub), Desk()
        with edge_over(tmp_path, service, plain=False, revoked=trust.revoked) as (edge, _, _):
            place = ListenAddress(**{"port": 0, "tick": 0.02, "grace": 2.0} | where)
            async with listening(edge, place, trust) as port:
                return await talk(port, edge, trust)

    return run(main())


def site(fed, home, port):
    return httpx.AsyncClient(verify=fed.tls(home), base_url=f"https://localhost:{port}")


def test_a_site_is_known_by_its_certificate_and_by_nothing_else(fed, tmp_path):
    home = fed.join("lyon")

    async def talk(port, edge, trust):
        async with site(fed, home, port) as client:
            for claimed in ("oslo", "lyon"):
                sent = await client.post(
                    "/v1/poll", content=to_json(POLL), headers={"Muster-Site": claimed}
                )
                assert sent.status_code == 200
            edge.service.members.discard("lyon")
            sent = await client.post("/v1/poll", content=to_json(POLL))
            assert from_json(sent.content, Ack).reason is RefusalReason.UNENROLLED
            assert sent.status_code == 401 and edge.service.counts[RefusalReason.UNENROLLED] == 1

    serving(fed, tmp_path, talk)


def bare(ca, home=None):
    """TLS without the checks that an honest site makes first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(ca)
    if home is not None:
        context.load_cert_chain(home / IDENTITY)
    return context


def test_nobody_else_gets_anywhere(fed, tmp_path):
    ca = fed.hub / "authority.pem"
    other = Federation(tmp_path / "other")
    past = datetime.now(UTC) - 3 * DAY
    crowd = {
        "no certificate": bare(ca),
        "a foreign one": bare(ca, other.join("lyon")),
        "an expired one": bare(ca, fed.join("bern", days=1, now=past)),
        "that of a server": bare(ca, fed.join("hub2", "server", hosts=("localhost",))),
    }

    async def talk(port, edge, trust):
        for who, context in crowd.items():
            async with httpx.AsyncClient(verify=context) as client:
                with pytest.raises(httpx.TransportError):
                    await client.post(f"https://localhost:{port}/v1/poll", content=to_json(POLL))
                    pytest.fail(f"{who} was answered")
        async with httpx.AsyncClient() as client:
            with pytest.raises(httpx.TransportError):
                await client.get(f"http://localhost:{port}/healthz")

    serving(fed, tmp_path, talk)


def test_a_revoked_site_is_thrown_out_in_the_middle_of_its_poll_and_stays_out(fed, tmp_path):
    home, friend = fed.join("lyon"), fed.join("oslo")

    async def talk(port, edge, trust):
        async with site(fed, home, port) as client, site(fed, friend, port) as other:
            poll = asyncio.ensure_future(
                client.post("/v1/poll", content=to_json(Poll(RUN, 0, 60.0)), timeout=None)
            )
            await edge.service.kept.wait()
            fed.revoke("lyon")
            with pytest.raises(httpx.TransportError):
                await poll
            await edge.service.left.wait()
            assert (await other.post("/v1/poll", content=to_json(POLL))).status_code == 200
            try:
                again = await client.post("/v1/poll", content=to_json(POLL))
            except httpx.TransportError:
                return  # the look at live connections was faster
            assert again.status_code == 403
            assert from_json(again.content, Ack).reason is RefusalReason.REVOKED

    serving(fed, tmp_path, talk)


def test_a_revocation_holds_for_the_next_request_of_an_open_connection(fed, tmp_path):
    home = fed.join("lyon")

    async def talk(port, edge, trust):
        async with site(fed, home, port) as client:
            assert (await client.get("/v1/plan")).status_code == 200
            fed.revoke("lyon")
            trust.look()
            sent = await client.get("/healthz")
            assert sent.status_code == 403
            assert from_json(sent.content, Ack).reason is RefusalReason.REVOKED

    serving(fed, tmp_path, talk, tick=60.0)


def test_a_certificate_that_expires_meanwhile_is_refused(fed, tmp_path):
    home = fed.join("lyon", days=1)

    async def talk(port, edge, trust):
        async with site(fed, home, port) as client:
            assert (await client.get("/v1/plan")).status_code == 200
            edge.now = lambda: datetime.now(UTC) + 2 * DAY
            sent = await client.get("/v1/plan")
            assert sent.status_code == 403 and "expired" in sent.json()["text"]

    serving(fed, tmp_path, talk)


async def _certificate(port, context):
    _, writer = await asyncio.open_connection("localhost", port, ssl=context)
    found = writer.get_extra_info("ssl_object").getpeercert(True)
    writer.close()
    return found


def test_a_renewed_server_needs_no_restart_and_open_connections_go_on(fed, tmp_path):
    home = fed.join("lyon")
    context = fed.tls(home)

    async def talk(port, edge, trust):
        async with site(fed, home, port) as client:
            assert (await client.get("/v1/plan")).status_code == 200
            before = await _certificate(port, context)
            asked, _ = pki.renew(fed.hub)
            grant = Grant("https://localhost:8443", "server", 365, ("localhost",))
            now = datetime.now(UTC)
            done = pki.approve(fed.hq, asked, grant, now, renewal=True)
            pki.accept(done.bundle, fed.hub, now)
            trust.look()
            assert await _certificate(port, context) != before
            assert (await client.get("/v1/plan")).status_code == 200

    serving(fed, tmp_path, talk)


def test_what_cannot_be_read_changes_nothing(fed, caplog):
    trust = Trust(fed.hub)
    held = trust.revoked()
    for name in ("revoked.pem", IDENTITY):
        whole = (fed.hub / name).read_bytes()
        (fed.hub / name).write_bytes(whole[: len(whole) // 2])
        trust.look()
        assert "cannot be used" in caplog.text
        caplog.clear()
        trust.look()  # said once
        assert not caplog.text
        (fed.hub / name).write_bytes(whole)
    (fed.hub / "revoked.pem").unlink()
    trust.look()
    assert trust.revoked() == held and "cannot be used" in caplog.text
    shutil.rmtree(fed.hub)
    with pytest.raises(IdentityError):
        Trust(fed.hub)


def test_one_certificate_has_so_many_connections(fed, tmp_path):
    home = fed.join("lyon")

    async def talk(port, edge, trust):
        context, held = fed.tls(home), []
        for _ in range(3):
            reader, writer = await asyncio.open_connection("localhost", port, ssl=context)
            writer.write(ASK + b"\r\n")
            held.append((reader, writer))
            if len(held) < 3:
                assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        with pytest.raises((ConnectionError, ssl.SSLError, asyncio.IncompleteReadError)):
            await held[2][0].readexactly(1)
        for _, writer in held:
            writer.close()

    serving(fed, tmp_path, talk, most=2)


def test_the_name_of_a_header_counts_without_tls_only(tmp_path):
    async def main():
        with edge_over(tmp_path, plain=False) as (edge, service, _):
            async with client_of(edge) as client:
                sent = await client.post("/v1/poll", content=to_json(POLL))
                assert sent.status_code == 401 and service.counts[RefusalReason.UNENROLLED] == 1
                assert (await client.get("/healthz")).status_code == 401

    run(main())
