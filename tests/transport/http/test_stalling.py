# SPDX-License-Identifier: Apache-2.0
"""Sockets that send what is no HTTP, or too much of it, or nothing at all."""

import asyncio

import pytest
from tests.transport.http.stand import RUN, edge_over, listening, plain, run

from muster.federation.protocol.message import Ack, Poll, from_json, to_json
from muster.security.refusal import RefusalReason
from muster.transport.http.listen import ListenAddress
from muster.transport.http.protocol import Live

ASK = b"GET /v1/plan HTTP/1.1\r\nhost: hub\r\nmuster-site: lyon\r\n"


def in_the_clear(tmp_path, talk, **where):
    async def main():
        with edge_over(tmp_path) as (edge, _, _):
            place = ListenAddress(**{"port": 0, "tick": 0.02, "grace": 2.0} | where)
            async with listening(edge, place) as port:
                return await talk(port, edge)

    return run(main())


async def answered(port, *sent):
    """Return a server's answer to some bytes, until it closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for part in sent:
        writer.write(part)
    said = await reader.read()
    writer.close()
    head, _, data = said.partition(b"\r\n\r\n")
    return int(head.split()[1]) if head else 0, data


@pytest.mark.parametrize(
    ("sent", "status", "why"),
    [
        (b"\x16\x03\x01 hello\r\n\r\n", 400, RefusalReason.MALFORMED),
        (b"GET / HTTP/9.9\r\n\r\n", 400, RefusalReason.MALFORMED),
        (ASK + b"a: " + b"x" * 20_000 + b"\r\n\r\n", 431, RefusalReason.TOO_LARGE),
        (
            ASK + b"".join(b"h%d: 1\r\n" % n for n in range(5000)) + b"\r\n",
            431,
            RefusalReason.TOO_LARGE,
        ),
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n", 431, RefusalReason.TOO_LARGE),
        (ASK + b"content-length: 1\r\ncontent-length: 2\r\n\r\n", 400, RefusalReason.MALFORMED),
        (ASK + b"content-length: -1\r\n\r\n", 400, RefusalReason.MALFORMED),
        (ASK + b"bad name: 1\r\n\r\n", 400, RefusalReason.MALFORMED),
    ],
)
def test_what_is_no_http_or_has_a_huge_head_is_refused_in_words(tmp_path, sent, status, why):
    async def talk(port, edge):
        code, data = await answered(port, sent)
        assert (code, from_json(data, Ack).reason) == (status, why)
        async with plain(port) as client:
            assert (await client.get("/healthz")).status_code == 200

    in_the_clear(tmp_path, talk)


@pytest.mark.parametrize(
    "sent",
    [b"", b"GET /v1/pl", ASK, b"POST /v1/poll HTTP/1.1\r\ncontent-length: 90\r\n" + ASK[23:]],
    ids=["nothing", "half a line", "half a head", "a body that does not come"],
)
def test_whoever_sends_too_slowly_is_cut(tmp_path, sent):
    async def talk(port, edge):
        code, _ = await asyncio.wait_for(answered(port, sent), 120)
        assert code in (0, 400)

    in_the_clear(tmp_path, talk, patience=0.1)


def test_whoever_does_not_read_is_cut_and_whoever_waits_is_not(tmp_path, monkeypatch):
    cut, sweep = asyncio.Event(), Live.sweep

    def watched(live, now):
        found = sweep(live, now)
        if found:
            cut.set()
        return found

    monkeypatch.setattr(Live, "sweep", watched)

    async def talk(port, edge):
        edge.endpoint.plan = b" " * (64 << 20)
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(ASK + b"\r\n")
        async with plain(port) as client:
            long = to_json(Poll(RUN, 0, 60.0))
            poll = asyncio.ensure_future(client.post("/v1/poll", content=long))
            await asyncio.wait_for(cut.wait(), 120)
            with pytest.raises((OSError, asyncio.IncompleteReadError)):
                await reader.readexactly(64 << 20)
            assert not poll.done()
            edge.close()
            assert (await poll).json()["kind"] == "wait"
        writer.close()

    in_the_clear(tmp_path, talk, patience=1.0)
