# SPDX-License-Identifier: Apache-2.0
"""Uploads: any cut, any lie, any repeat; what is accepted is what was announced, to the bit."""

import asyncio
import errno
import os
import threading

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
    Desk,
    announce,
    body,
    client_of,
    edge_over,
    heard,
    listening,
    over,
    place,
    plain,
    put,
    run,
    update,
    why,
)

from muster.federation.protocol.message import Ack, ResumeAt
from muster.ports import Disk
from muster.security.refusal import RefusalReason, Refused
from muster.store.blobs import Files


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, len(DATA)), max_size=4), st.booleans())
def test_an_update_cut_anywhere_arrives_once_and_whole(tmp_path_factory, cuts, packed):
    ends = [*sorted(set(cuts) - {0, len(DATA)}), len(DATA)]

    async def talk(client, service, blobs):
        assert await announce(client) == (200, ResumeAt(0))
        begin = 0
        for end in ends:
            data = DATA[begin:end]
            headers = {"Content-Encoding": "zstd"} if packed else {}
            answer = await put(
                client, zstandard.compress(data) if packed else data, begin, **headers
            )
            begin = end
            last = Ack(True) if end == len(DATA) else ResumeAt(end)
            assert answer == (200, last)
        assert bytes(blobs.whole(BLOB)) == DATA
        assert (
            service.seats == {"lyon": SAID.digest}
            and service.moved["lyon", 3] >= (not packed) * 696
        )
        # The answer was lost: say it all again.
        assert await put(client, b"", len(DATA)) == (200, Ack(True))
        assert await announce(client) == (200, ResumeAt(len(DATA)))
        assert not service.counts

    over(tmp_path_factory.mktemp("edge"), talk)


def test_a_server_that_comes_back_goes_on_from_what_is_on_the_disk(tmp_path):
    async def first(client, service, blobs):
        await announce(client)
        assert await put(client, DATA[:300]) == (200, ResumeAt(300))

    async def second(client, service, blobs):
        assert why(await put(client, DATA[300:], 300)) == (404, RefusalReason.UNKNOWN)
        assert await announce(client) == (200, ResumeAt(300))
        assert await put(client, DATA[300:], 300) == (200, Ack(True))
        assert bytes(blobs.whole(BLOB)) == DATA

    over(tmp_path, first)
    over(tmp_path, second)


@pytest.mark.parametrize("finished", [False, True])
def test_a_body_that_was_whole_when_the_server_died_is_decided_by_the_announcement(
    tmp_path, finished
):
    blobs = Files(tmp_path / "blobs", Disk(sync=int))
    blobs.append(BLOB, 0, DATA)
    if finished:
        blobs.finish(BLOB)

    async def talk(client, service, blobs):
        assert await announce(client) == (200, ResumeAt(len(DATA)))
        assert service.seats == {"lyon": SAID.digest}
        assert await put(client, b"", len(DATA)) == (200, Ack(True))

    over(tmp_path, talk)


def test_octets_from_elsewhere_are_not_read_and_the_place_is_told(tmp_path):
    async def talk(client, service, blobs):
        await announce(client)
        assert await put(client, DATA[10:], 10) == (200, ResumeAt(0))
        await put(client, DATA[:20])
        assert await put(client, DATA[:20]) == (200, ResumeAt(20))
        assert await put(client, b"", 20) == (200, ResumeAt(20))
        assert blobs.held(BLOB) == 20

    over(tmp_path, talk)


def test_another_update_of_the_same_client_takes_the_place_of_the_first(tmp_path):
    data = body(TREE | {"b": np.zeros(8, "float32")})
    other = update(data)

    async def talk(client, service, blobs):
        await announce(client)
        await put(client, DATA[:100])
        assert await announce(client, other) == (200, ResumeAt(0))
        assert not blobs.names("update")
        assert why(await put(client, DATA[100:], 100)) == (404, RefusalReason.UNKNOWN)
        assert await put(client, data, 0, other) == (200, Ack(True))

    over(tmp_path, talk)


def test_one_that_another_server_has_taken_is_not_removed_for_the_next(tmp_path):
    """Half of it came here, all of it there: its client's next update leaves it alone."""
    data = body(TREE | {"b": np.zeros(8, "float32")})

    async def talk(client, service, blobs):
        await announce(client)
        await put(client, DATA[:100])
        (name,) = blobs.names("update")
        blobs.append(name, 100, DATA[100:])
        blobs.finish(name)
        service.elsewhere.add(update(DATA).digest)
        assert await announce(client, update(data)) == (200, ResumeAt(0))
        assert blobs.size(name) == len(DATA)

    over(tmp_path, talk)


def test_a_decision_of_the_desk_is_told_and_the_body_removed(tmp_path):
    class Late(Desk):
        async def arrived(self, name, upload):
            raise Refused(RefusalReason.LATE, "the round went on")

    async def talk(client, service, blobs):
        await announce(client)
        assert why(await put(client, DATA)) == (409, RefusalReason.LATE)
        assert not blobs.names("update") and service.counts == {RefusalReason.LATE: 1}

    over(tmp_path, talk, Late())


def test_a_full_disk_is_said_and_nothing_is_lost(tmp_path):
    full = [True]

    def write(file, data, at):
        if full[0] and at >= 100:
            raise OSError(errno.ENOSPC, "No space left on device")
        return os.pwrite(file, data[: 100 - at] if full[0] else data, at)

    async def main():
        with edge_over(tmp_path) as (edge, service, _):
            blobs = edge.endpoint.receiver.blobs = Files(tmp_path / "small", Disk(write, int))
            async with client_of(edge) as client:
                await announce(client)
                assert await put(client, DATA[:60]) == (200, ResumeAt(60))
                sent = await client.put(place(SAID, 60), content=DATA[60:])
                assert why(heard(sent)) == (507, RefusalReason.NO_ROOM)
                assert int(sent.headers["retry-after"]) > 0 and not service.seats
                full[0] = False
                _, offer = await announce(client)
                assert offer.offset == blobs.held(BLOB) >= 60
                assert await put(client, DATA[offer.offset :], offer.offset) == (200, Ack(True))

    run(main())


def test_a_disk_that_breaks_is_a_fault_of_the_server_and_changes_nothing(tmp_path, caplog):
    def write(file, data, at):
        raise OSError(errno.EIO, "Input/output error")

    async def main():
        with edge_over(tmp_path) as (edge, service, _):
            edge.endpoint.receiver.blobs = Files(tmp_path / "broken", Disk(write, int))
            async with client_of(edge) as client:
                await announce(client)
                sent = await client.put(place(SAID), content=DATA)
                assert sent.status_code == 500 and sent.json()["kind"] == "fault"
                assert "Input" not in sent.text and not service.seats
                edge.endpoint.receiver.blobs = Files(tmp_path / "repaired", Disk(sync=int))
                assert await announce(client) == (200, ResumeAt(0))
                assert await put(client, DATA) == (200, Ack(True))

    run(main())
    assert "Input/output error" in caplog.text


def test_a_newer_connection_takes_over_from_one_that_hangs(tmp_path):
    async def main():
        with edge_over(tmp_path) as (edge, service, blobs):
            async with listening(edge) as port, plain(port) as client:
                await announce(client)
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                head = f"PUT {place(SAID)} HTTP/1.1\r\nmuster-site: lyon\r\ncontent-length: 696"
                writer.write(f"{head}\r\n\r\n".encode() + DATA[:50])
                while service.moved["lyon", 3] < 50:
                    await asyncio.sleep(0)
                assert await announce(client) == (200, ResumeAt(50))
                assert await put(client, DATA[50:], 50) == (200, Ack(True))
                writer.write(DATA[50:])
                said = (await reader.readuntil(b"}")).decode()
                assert " 409 " in said and '"closed"' in said
                writer.close()
        assert bytes(blobs.whole(BLOB)) == DATA and service.seats == {"lyon": SAID.digest}

    run(main())


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 100, 695])
def test_a_line_that_breaks_keeps_what_came(tmp_path, length):
    async def main():
        with edge_over(tmp_path) as (edge, service, _blobs):
            async with listening(edge) as port, plain(port) as client:
                await announce(client)
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                head = f"PUT {place(SAID)} HTTP/1.1\r\nmuster-site: lyon\r\ncontent-length: 696"
                writer.write(f"{head}\r\n\r\n".encode() + DATA[:length])
                while service.moved["lyon", 3] < length:
                    await asyncio.sleep(0)
                writer.close()
                assert await announce(client) == (200, ResumeAt(length))
                assert await put(client, DATA[length:], length) == (200, Ack(True))
        assert not service.counts and service.seats == {"lyon": SAID.digest}

    run(main())


def test_the_lease_does_not_end_while_the_server_looks_at_a_body(tmp_path):
    async def main():
        with edge_over(tmp_path) as (edge, service, blobs):
            edge.endpoint.uploads.pulse = 0.01
            seen, whole = threading.Event(), blobs.whole

            def slow(name, **how):
                assert seen.wait(120)
                return whole(name, **how)

            blobs.whole = slow
            async with client_of(edge) as client:
                await announce(client)
                sent = asyncio.ensure_future(put(client, DATA))
                while service.moved["lyon", 3] < len(DATA) + 5:
                    await asyncio.sleep(0)
                again = asyncio.ensure_future(announce(client))
                seen.set()
                # Whoever asks meanwhile does not disturb the decision, and hears of it.
                assert await sent == (200, Ack(True))
                assert await again == (200, ResumeAt(len(DATA)))

    run(main())


def test_another_server_that_writes_the_same_update_wins(tmp_path):
    async def main():
        with edge_over(tmp_path) as (edge, _desk, blobs), edge_over(tmp_path) as (other, _, _):
            async with client_of(edge) as here, client_of(other) as there:
                await announce(here)

                async def crossed():
                    yield DATA[:10]
                    await announce(there)
                    await put(there, DATA[:40])

                    yield DATA[10:]

                assert why(await put(here, crossed())) == (409, RefusalReason.CLOSED)
                assert await announce(there) == (200, ResumeAt(40))
                assert await put(there, DATA[40:], 40) == (200, Ack(True))
        assert bytes(blobs.whole(BLOB)) == DATA

    run(main())


def test_halves_of_another_life_of_the_server_make_room_for_the_next(tmp_path):
    """A member whose server is killed again and again holds the room of one update."""

    async def talk(client, service, blobs):
        lives.append(1)
        said = update(DATA, digest=f"{len(lives):064x}")
        await announce(client, said)
        await put(client, DATA[:100], 0, said)
        assert len(blobs.names("update")) == 1

    lives = []
    for _ in range(3):
        over(tmp_path, talk)
