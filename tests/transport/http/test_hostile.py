# SPDX-License-Identifier: Apache-2.0
"""Uploads that lie, explode or are damaged: refused in words, and nothing has changed."""

import tracemalloc

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.transport.http.stand import (
    BLOB,
    DATA,
    SAID,
    TREE,
    announce,
    body,
    client_of,
    edge_over,
    over,
    put,
    run,
    update,
    why,
)

from muster.federation.coordinator import uploads
from muster.federation.protocol import codec_tensors
from muster.federation.protocol.message import Ack, ResumeAt, from_json
from muster.security.refusal import RefusalReason

LIES = {
    "more than announced": (DATA + b"x", 0, {}, (413, RefusalReason.TOO_LARGE)),
    "more than announced, at its end": (DATA, 1, {}, (413, RefusalReason.TOO_LARGE)),
    "another size": (DATA, 0, {"size": len(DATA) + 8}, (400, RefusalReason.MALFORMED)),
    "an offset behind the end": (b"", len(DATA) + 1, {}, (400, RefusalReason.MALFORMED)),
    "no whole number": (DATA, "-1", {}, (400, RefusalReason.MALFORMED)),
    "many digits": (DATA, "9" * 5000, {}, (400, RefusalReason.MALFORMED)),
    "another digest": (DATA, 0, {"digest": "0" * 64}, (404, RefusalReason.UNKNOWN)),
    "another round": (DATA, 0, {"round": 4}, (404, RefusalReason.UNKNOWN)),
    "no digest": (DATA, 0, {"digest": "../../etc/passwd"}, (404, RefusalReason.UNKNOWN)),
}


@pytest.mark.parametrize(("data", "offset", "more", "answer"), LIES.values(), ids=LIES)
@pytest.mark.parametrize("streamed", [False, True])
def test_lies_about_place_and_size_are_refused_and_change_nothing(
    tmp_path, data, offset, more, answer, streamed
):
    async def pieces():
        for begin in range(0, len(data), 100):
            yield data[begin : begin + 100]

    async def talk(client, service, blobs):
        await announce(client)
        held = 1 if offset == 1 else 0
        if held:
            await put(client, DATA[:1])
        where = {"round": 3, "digest": SAID.digest, "size": SAID.size} | more
        url = f"/v1/updates/{where['round']}/{where['digest']}?offset={offset}&size={where['size']}"
        sent = pieces() if streamed else data
        found = await client.put(url, content=sent)
        verdict = from_json(found.content, Ack)
        assert (found.status_code, verdict.reason) == answer
        assert blobs.size(BLOB) is None and blobs.held(BLOB) <= len(DATA)
        assert not service.seats and service.counts[answer[1]] == 1
        _, offer = await announce(client)
        assert await put(client, DATA[offer.offset :], offer.offset) == (200, Ack(True))

    over(tmp_path, talk)


def test_one_client_cannot_touch_anothers_update(tmp_path):
    async def main():
        with edge_over(tmp_path) as (edge, service, blobs):
            async with client_of(edge) as lyon, client_of(edge, "oslo") as oslo:
                await announce(lyon)
                await put(lyon, DATA[:100])
                assert why(await put(oslo, DATA[100:], 100)) == (404, RefusalReason.UNKNOWN)
                assert await announce(oslo) == (200, ResumeAt(0))
                assert await put(oslo, DATA) == (200, Ack(True))
                assert blobs.held(BLOB) == 100 and service.seats == {"oslo": SAID.digest}
                got = await oslo.get(f"/v1/models/{SAID.digest}")
                assert got.status_code == 404

    run(main())


def test_a_zip_bomb_is_refused_while_it_is_small(tmp_path):
    packer = zstandard.ZstdCompressor().compressobj()
    head = DATA[: 8 + int.from_bytes(DATA[:8], "little")]
    bomb = packer.compress(head) + b"".join(packer.compress(bytes(1 << 20)) for _ in range(512))
    bomb += packer.flush()
    assert len(bomb) < 1 << 17

    async def talk(client, service, blobs):
        await announce(client)
        tracemalloc.start()
        answer = await put(client, bomb, **{"Content-Encoding": "zstd"})
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert why(answer) == (413, RefusalReason.TOO_LARGE) and peak < 8 << 20
        assert blobs.held(BLOB) <= len(DATA) and not service.seats

    over(tmp_path, talk)


@pytest.mark.parametrize(
    ("data", "coding"),
    [(b"no zstd at all", "zstd"), (DATA, "zstd"), (DATA, "gzip"), (DATA, "x" * 1000)],
)
def test_a_body_in_no_known_coding_is_refused(tmp_path, data, coding):
    async def talk(client, service, blobs):
        await announce(client)
        answer = await put(client, data, **{"Content-Encoding": coding})
        assert why(answer) == (400, RefusalReason.MALFORMED) and blobs.held(BLOB) == 0

    over(tmp_path, talk)


def test_a_frame_that_wants_too_much_memory_or_is_cut_is_no_fault_of_the_server(tmp_path):
    wide = zstandard.ZstdCompressionParameters.from_level(3, window_log=27)
    packer = zstandard.ZstdCompressor(compression_params=wide).compressobj()
    sent = packer.compress(DATA) + packer.flush()

    async def talk(client, service, blobs):
        await announce(client)
        answer = await put(client, sent, **{"Content-Encoding": "zstd"})
        assert why(answer) == (400, RefusalReason.MALFORMED)
        whole = zstandard.compress(DATA)
        answer = await put(client, whole[:-3], **{"Content-Encoding": "zstd"})
        assert answer[0] in (200, 400) and not service.seats

    over(tmp_path, talk)


@pytest.mark.parametrize(
    "bad",
    [
        bytes(8) + DATA[8:],
        (1 << 40).to_bytes(8, "little") + DATA[8:],
        (1 << 20).to_bytes(8, "little") + b"{" * (len(DATA) - 8),
        DATA.replace(b"F32", b"F64"),
        DATA.replace(b"[16,8]", b"[8,16]"),
        DATA.replace(b'"w"', b'"v"'),
        DATA[:8] + b"[" * (len(DATA) - 8),
        DATA.replace(b'"muster":"1"', b'"muster":"9"'),
    ],
    ids=range(8),
)
def test_a_hostile_header_is_refused_before_the_rest_and_decides_the_seat(tmp_path, bad):
    tail = bytes(4 << 20)
    said = update(bad + tail)

    async def talk(client, service, blobs):
        for tried in range(uploads.TRIES):  # it may have been damaged on the way
            assert not service.seats, tried
            await announce(client, said)
            status, reason = why(await put(client, bad + tail, 0, said))
            assert (status, reason) in (
                (400, RefusalReason.MALFORMED),
                (413, RefusalReason.TOO_LARGE),
                (409, RefusalReason.WRONG_VERSION),
            )
        assert service.seats == {"lyon": reason} and not blobs.names("update")
        assert why(await put(client, tail, len(bad), said)) == (404, RefusalReason.UNKNOWN)

    over(tmp_path, talk)


def test_a_header_that_claims_to_be_long_is_not_waited_for(tmp_path):
    """A member who sends half of it would have it held in memory."""
    longest = codec_tensors.longest_head(TREE)
    said = update((longest + 8).to_bytes(8, "little") + b" " * 2000)

    async def talk(client, service, blobs):
        await announce(client, said)
        answer = await put(client, (longest + 8 - longest % 8).to_bytes(8, "little"), 0, said)
        assert why(answer) == (413, RefusalReason.TOO_LARGE) and not blobs.names("update")

    over(tmp_path, talk)


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=8, max_size=300))
def test_any_octets_are_refused_with_a_reason(tmp_path_factory, data):
    said = update(data)

    async def talk(client, service, blobs):
        for _ in range(uploads.TRIES):
            await announce(client, said)
            status, reason = why(await put(client, data, 0, said))
        assert status in (400, 413) and service.seats == {"lyon": reason}
        assert not blobs.names("update")

    over(tmp_path_factory.mktemp("edge"), talk)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(DATA) * 8 - 1))
def test_a_flipped_bit_is_found(tmp_path_factory, place):
    bad = bytearray(DATA)
    bad[place // 8] ^= 1 << place % 8

    async def talk(client, service, blobs):
        await announce(client)
        status, _ = why(await put(client, bytes(bad)))
        assert status in (400, 409, 413, 422) and SAID.digest not in service.seats.values()
        assert not blobs.names("update")

    over(tmp_path_factory.mktemp("edge"), talk)


def test_a_number_that_is_not_finite_decides_the_seat(tmp_path):
    data = body(TREE | {"b": np.full(8, np.nan, "float32")})
    said = update(data)

    async def talk(client, service, blobs):
        await announce(client, said)
        assert why(await put(client, data, 0, said)) == (422, RefusalReason.NOT_FINITE)
        assert service.seats == {"lyon": RefusalReason.NOT_FINITE} and not blobs.names("update")
        assert why(await announce(client, said)) == (409, RefusalReason.CLOSED)

    over(tmp_path, talk)


def test_a_wrong_digest_may_be_sent_again_a_few_times(tmp_path):
    bad = DATA[:-1] + b"x"

    async def talk(client, service, blobs):
        for n in range(uploads.TRIES):
            assert await announce(client) == (200, ResumeAt(0))
            assert why(await put(client, bad)) == (422, RefusalReason.WRONG_DIGEST)
            assert not blobs.names("update")
            assert bool(service.seats) == (n == uploads.TRIES - 1)
        assert service.seats == {"lyon": RefusalReason.WRONG_DIGEST}

    over(tmp_path, talk)

    async def repaired(client, service, blobs):
        await announce(client)
        assert why(await put(client, bad)) == (422, RefusalReason.WRONG_DIGEST)
        assert await announce(client) == (200, ResumeAt(0))
        assert await put(client, DATA) == (200, Ack(True))

    over(tmp_path, repaired)


def test_zstd_that_holds_nothing_does_not_renew_a_lease_for_ever(tmp_path):
    empty = zstandard.compress(b"") * 10_000

    async def nothing():
        for _ in range(1000):
            yield empty

    async def talk(client, service, blobs):
        await announce(client)
        answer = await put(client, nothing(), **{"Content-Encoding": "zstd"})
        assert why(answer) == (413, RefusalReason.TOO_LARGE)
        assert service.moved["lyon", 3] < len(DATA) + (2 << 20)

    over(tmp_path, talk)
