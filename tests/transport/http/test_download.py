# SPDX-License-Identifier: Apache-2.0
"""Downloads: any range is these octets, and what is held is not sent again."""

import asyncio

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.transport.http.stand import (
    Desk,
    client_of,
    edge_over,
    keep_model,
    listening,
    run,
    task,
)

from muster.federation.protocol.limits import DOWNLOADS
from muster.federation.protocol.message import Ack, from_json
from muster.security.refusal import RefusalReason
from muster.transport.http.download import span

NOISE = np.random.default_rng(0).bytes(3 << 20)
FLAT = bytes(3 << 20)


def over(tmp_path, data, talk):
    async def main():
        with edge_over(tmp_path) as (edge, service, blobs):
            url = f"/v1/models/{keep_model(service, blobs, data)}"
            async with client_of(edge) as client:
                return await talk(client, url, service)

    return run(main())


def test_a_model_comes_whole_with_its_digest_and_is_not_sent_twice(tmp_path):
    async def talk(client, url, service):
        got = await client.get(url)
        assert (got.status_code, got.content) == (200, NOISE)
        assert "content-encoding" not in got.headers  # noise does not compress
        assert got.headers["etag"] == f'"{url.rpartition("/")[2]}"'
        again = await client.get(url, headers={"If-None-Match": got.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        other = await client.get(url, headers={"If-None-Match": '"other"'})
        assert other.status_code == 200

    over(tmp_path, NOISE, talk)


@pytest.mark.parametrize(
    ("asked", "coding"),
    [
        ("zstd", "zstd"),
        ("gzip, zstd;q=0.5", "zstd"),
        ("gzip", None),
        ("zstd;q=0", None),
        ("", None),
    ],
)
def test_what_compresses_is_compressed_when_asked_for(tmp_path, asked, coding):
    async def talk(client, url, service):
        got = await client.get(url, headers={"Accept-Encoding": asked})
        assert got.content == FLAT and got.headers.get("content-encoding") == coding
        assert got.headers["vary"] == "accept-encoding"
        sent = service.moved["lyon", 0]
        assert sent == len(FLAT) if coding is None else sent < 10_000

    over(tmp_path, FLAT, talk)


RANGES = {
    "bytes=0-": (0, len(NOISE)),
    "bytes=5-5": (5, 6),
    "bytes=1048570-1048590": (1048570, 1048591),
    "bytes=-7": (len(NOISE) - 7, len(NOISE)),
    "bytes=9-99999999": (9, len(NOISE)),
    "bytes=-99999999": (0, len(NOISE)),
}


@pytest.mark.parametrize("asked", RANGES)
def test_a_range_is_those_octets(tmp_path, asked):
    begin, end = RANGES[asked]

    async def talk(client, url, service):
        got = await client.get(url, headers={"Range": asked})
        assert got.content == NOISE[begin:end]
        if end - begin < len(NOISE):
            assert got.status_code == 206
            said = f"bytes {begin}-{end - 1}/{len(NOISE)}"
            assert got.headers["content-range"] == said

    over(tmp_path, NOISE, talk)


def test_a_range_that_is_none_is_refused_and_an_odd_one_ignored(tmp_path):
    async def talk(client, url, service):
        for asked in (f"bytes={len(NOISE)}-", "bytes=5-4", "bytes=-0"):
            got = await client.get(url, headers={"Range": asked})
            assert got.status_code == 416
            assert got.headers["content-range"] == f"bytes */{len(NOISE)}"
            assert from_json(got.content, Ack).reason is RefusalReason.MALFORMED
        for asked in ("bytes=0-1,5-6", "rows=1-2", "bytes=" + "9" * 99 + "-", "bytes=x"):
            got = await client.get(url, headers={"Range": asked})
            assert (got.status_code, got.content) == (200, NOISE)
        head = {"Range": "bytes=5-9", "If-Range": '"other"'}
        assert (await client.get(url, headers=head)).status_code == 200
        head["If-Range"] = f'"{url.rpartition("/")[2]}"'
        assert (await client.get(url, headers=head)).status_code == 206

    over(tmp_path, NOISE, talk)


@given(st.text(max_size=30) | st.from_regex(r"bytes=\d{0,20}-\d{0,20}"), st.integers(0, 1 << 40))
def test_any_range_lies_within(asked, size):
    part = span(asked, size)
    assert part is None or 0 <= part[0] <= part[1] <= size


def test_a_model_that_is_unknown_or_a_site_that_is_are_refused(tmp_path):
    async def main():
        with edge_over(tmp_path, Desk(members=())) as (edge, service, blobs):
            digest = keep_model(service, blobs, FLAT)
            async with client_of(edge) as client:
                for url, status in ((digest, 401), ("0" * 64, 404), ("../ledger.db", 404)):
                    got = await client.get(f"/v1/models/{url}")
                    assert got.status_code == status
                    assert not from_json(got.content, Ack).accepted

    run(main())


def test_octets_that_leave_renew_the_lease_of_the_round_that_was_given(tmp_path):
    async def main():
        with edge_over(tmp_path) as (edge, service, blobs):
            digest = keep_model(service, blobs, NOISE)
            service.next = task(digest)
            async with client_of(edge) as client:
                poll = {"kind": "poll", "run": "digits-1", "pending": 0, "wait": 0, "attempt": 1}
                assert (await client.post("/v1/poll", json=poll)).status_code == 200
                await client.get(f"/v1/models/{digest}")
                assert service.moved["lyon", 3] == len(NOISE)
                await client.get(f"/v1/models/{digest}?round=7", headers={"Range": "bytes=0-9"})
                assert service.moved["lyon", 7] == 10

    run(main())


def test_nothing_is_read_for_a_client_that_has_gone(tmp_path):
    async def main():
        with edge_over(tmp_path) as (edge, service, blobs):
            digest = keep_model(service, blobs, NOISE * 16)
            async with listening(edge) as port:
                async with httpx.AsyncClient(headers={"Muster-Site": "lyon"}) as client:
                    url = f"http://127.0.0.1:{port}/v1/models/{digest}"
                    async with client.stream("GET", url) as got:
                        async for _ in got.aiter_raw():
                            break
                while b'status="499"' not in edge.meters.text(operator=True):
                    await asyncio.sleep(0)
            assert service.moved["lyon", 0] < len(NOISE) * 16

    run(main())


def test_one_name_takes_so_many_models_at_once(tmp_path):
    """Each holds a piece in memory; others are not kept waiting, and places come back."""

    async def main():
        with edge_over(tmp_path) as (edge, service, blobs):
            digest = keep_model(service, blobs, NOISE)
            held, go = [], asyncio.Event()
            honest = edge.downloads._stream

            async def stream(exchange, pieces, moved):
                held.append(exchange.name)
                await go.wait()
                await honest(exchange, pieces, moved)

            edge.downloads._stream = stream
            async with client_of(edge) as lyon, client_of(edge, "oslo") as oslo:
                url = f"/v1/models/{digest}"
                first = [asyncio.ensure_future(lyon.get(url)) for _ in range(DOWNLOADS)]
                while len(held) < DOWNLOADS:
                    await asyncio.sleep(0)
                refused = await lyon.get(url)
                assert refused.status_code == 429 and "retry-after" in refused.headers
                other = asyncio.ensure_future(oslo.get(url))
                while "oslo" not in held:
                    await asyncio.sleep(0)
                go.set()
                for one in [*first, other]:
                    assert (await one).content == NOISE
                assert (await lyon.get(url)).status_code == 200 and not edge.downloads._busy

    run(main())
