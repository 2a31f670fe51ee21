# SPDX-License-Identifier: Apache-2.0
"""Large bodies go on where they broke off, and are what their digest says."""

import asyncio
import tracemalloc

import numpy as np
import pytest
from tests.federation.site import hub as hubs
from tests.federation.site.hub import Hub
from tests.federation.site.lines import line_over
from tests.federation.site.scene import PLANS, hurried, spoil

from muster.federation.protocol import codec_tensors
from muster.federation.protocol.message import Ack, ResumeAt, TrainAssignment, to_json
from muster.federation.protocol.transport import SessionBody
from muster.federation.site import transfers
from muster.federation.site.store import SiteStore, TrainingResult
from muster.ports import Disk
from muster.security.refusal import RefusalReason, Refused
from muster.store.blobs import model_name
from muster.transport.http import client

SIZE = 300_000


@pytest.fixture
def site_store(tmp_path):
    with_files = SiteStore(tmp_path, disk=Disk(sync=int))
    with_files.enter("r1", "a")
    yield with_files
    with_files.close()


def talk(hub, deed):
    """Do something over a line to a hub that knows the site."""
    hub.enrolled = True

    async def life():
        async with line_over(hub.transport(), patience=hurried()) as line:
            return await deed(line)

    return asyncio.run(life())


def hub_with(body):
    hub = Hub(PLANS["plain"])
    hub.model = body
    return hub


def fetch(hub, site_store, digest=None):
    """The model that is asked about, of as many octets as a plan's have."""
    asked = TrainAssignment("r1", 1, digest or hub.digest, 30.0)
    return bytes(talk(hub, lambda line: transfers.fetch(line, site_store, asked, len(hub.model))))


BODY = np.random.default_rng(0).bytes(SIZE)


def test_a_model_is_fetched_once_and_held(site_store):
    hub = hub_with(BODY)
    assert fetch(hub, site_store) == BODY
    assert fetch(hub, site_store) == BODY
    assert len(hub.requests) == 1


def test_a_download_goes_on_where_it_broke_off(site_store, monkeypatch):
    monkeypatch.setattr(client, "GATHER", 1000)
    hub = hub_with(BODY)
    hub.faults[0] = hubs.torn
    sent = []
    honest = hub.download

    def download(request):
        sent.append(request.headers.get("range", ""))
        return honest(request)

    hub.download = download
    assert fetch(hub, site_store) == BODY
    assert sent == ["", f"bytes={SIZE // 2}-"]


def test_a_server_that_sends_the_whole_anyway_is_understood(site_store):
    site_store.models.append(model_name(hub_with(BODY).digest), 0, BODY[:999])
    hub = hub_with(BODY)
    hub.download = lambda request: hubs.httpx.Response(200, content=BODY)
    assert fetch(hub, site_store) == BODY


def test_a_model_that_is_all_there_but_unfinished_is_finished(site_store):
    hub = hub_with(BODY)
    site_store.models.append(model_name(hub.digest), 0, BODY)
    assert fetch(hub, site_store) == BODY


@pytest.mark.parametrize("where", ["held", "part", "line"])
def test_a_damaged_model_is_fetched_anew(where, site_store):
    hub, bad = hub_with(BODY), bytearray(BODY)
    bad[7] ^= 1
    name = model_name(hub.digest)
    if where == "line":
        hub.faults[0] = lambda request, answer: hubs.httpx.Response(200, content=bytes(bad))
    else:
        site_store.models.append(name, 0, bytes(bad))
        if where == "held":
            site_store.models.finish(name)
    assert fetch(hub, site_store) == BODY


def test_a_packed_model_is_unpacked(site_store):
    packed = hubs.zstandard.ZstdCompressor().compress(BODY)
    hub = hub_with(BODY)
    coding = {"coding": "zstd"}
    hub.download = lambda request: hubs.httpx.Response(200, extensions=coding, content=packed)
    hub.faults[0] = lambda request, answer: hubs.httpx.Response(
        200, extensions=coding, content=packed[:20] + b"?" * 20
    )
    assert fetch(hub, site_store) == BODY


def test_a_model_that_is_longer_than_one_is_or_a_bomb_is_asked_for_again(site_store):
    """A server that lies fills neither the memory of a site nor its disk."""
    packer = hubs.zstandard.ZstdCompressor().compressobj()
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(256)) + packer.flush()
    hub = hub_with(BODY)
    packed = {"extensions": {"coding": "zstd"}, "content": bomb}
    hub.faults[0] = lambda request, answer: hubs.httpx.Response(200, **packed)
    hub.faults[1] = lambda request, answer: hubs.httpx.Response(200, content=BODY + b"x")
    held = []

    def third(request, answer):
        held.append(site_store.models.names("model-"))
        return answer(request)

    hub.faults[2] = third
    tracemalloc.start()
    assert fetch(hub, site_store) == BODY
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert held == [[]] and peak < 8 << 20


def test_an_unknown_model_is_a_refusal(site_store):
    hub = hub_with(BODY)
    with pytest.raises(Refused) as caught:
        fetch(hub, site_store, "0" * 64)
    assert caught.value.reason is RefusalReason.UNKNOWN


def test_the_last_two_models_are_kept(site_store):
    for seed in range(3):
        fetch(hub_with(np.random.default_rng(seed).bytes(99)), site_store)
    assert len(site_store.models.names("model-")) == 2
    assert fetch(hub_with(np.random.default_rng(2).bytes(99)), site_store)


def deliver(hub, site_store, array, monkeypatch, piece=50_000):
    monkeypatch.setattr(transfers, "PIECE", piece)
    monkeypatch.setattr(client, "SEND", 1000)
    task = TrainAssignment("r1", 1, "0" * 64, 30.0)
    pending = site_store.pending or site_store.keep(
        task, TrainingResult({"payload": {"delta": array}}, 18.0)
    )
    verdict = talk(hub, lambda line: transfers.deliver(line, site_store, pending))
    body = b"".join(codec_tensors.encode({"payload": {"delta": array}}))
    assert verdict.accepted and hub.bodies[1] == (pending.update, body)


RANDOM = np.random.default_rng(0).normal(size=SIZE // 4).astype("float32")


def test_an_update_goes_in_pieces(site_store, monkeypatch):
    hub, passed = Hub(PLANS["plain"]), []
    site_store.at = passed.append
    deliver(hub, site_store, RANDOM, monkeypatch)
    assert [method for method, _ in hub.requests] == ["POST"] + ["PUT"] * 7
    assert passed.count("site: in upload") == 6


@pytest.mark.parametrize("fault", [hubs.lost, hubs.unheard, hubs.doubled, hubs.torn, hubs.busy])
@pytest.mark.parametrize("number", [0, 1, 3, 7])
def test_an_upload_goes_on_where_it_broke_off(fault, number, site_store, monkeypatch):
    hub = Hub(PLANS["plain"])
    hub.faults[number] = fault
    deliver(hub, site_store, RANDOM, monkeypatch)
    assert [method for method, _ in hub.requests].count("PUT") <= 8


def test_a_server_that_forgot_the_announcement_hears_it_again(site_store, monkeypatch):
    hub = Hub(PLANS["plain"])

    def forget(request, answer):
        hub.announced.clear()
        return answer(request)

    hub.faults[3] = forget
    deliver(hub, site_store, RANDOM, monkeypatch)
    assert [method for method, _ in hub.requests].count("POST") == 2


def test_an_update_that_was_damaged_on_its_way_is_sent_again(site_store, monkeypatch):
    hub = Hub(PLANS["plain"])

    def damage(request, answer):
        found = answer(request)
        ((digest, part),) = hub.parts.items()
        hub.parts[digest] = b"?" + part[1:]
        return found

    hub.faults[1] = damage
    deliver(hub, site_store, RANDOM, monkeypatch)


def test_an_update_that_is_damaged_here_is_not_sent_for_ever(site_store, monkeypatch):
    hub = Hub(PLANS["plain"])
    pending = site_store.keep(
        TrainAssignment("r1", 1, "0" * 64, 30.0),
        TrainingResult({"payload": {"delta": RANDOM}}, 1.0),
    )
    path = site_store.folder / pending.blob
    spoil(path)
    with pytest.raises(Refused) as caught:
        talk(hub, lambda line: transfers.deliver(line, site_store, pending))
    assert caught.value.reason is RefusalReason.WRONG_DIGEST


def test_small_whole_numbers_are_packed_and_noise_is_not(site_store, monkeypatch):
    for array, packed in ((np.arange(SIZE // 8) % 7, True), (RANDOM, False)):
        hub, seen = Hub(PLANS["plain"]), []
        honest = hub.upload

        def upload(request, honest=honest, seen=seen):
            seen.append(request.headers.get("content-encoding"))
            return honest(request)

        hub.upload = upload
        deliver(hub, site_store, array, monkeypatch)
        assert set(seen) == ({"zstd"} if packed else {None})
        site_store.settle(1, accepted=True)


def test_a_server_that_holds_it_is_sent_nothing(site_store, monkeypatch):
    hub = Hub(PLANS["plain"])
    deliver(hub, site_store, RANDOM, monkeypatch)
    before = len(hub.requests)
    deliver(hub, site_store, RANDOM, monkeypatch)
    assert len(hub.requests) == before + 1


def test_a_message_that_goes_as_a_whole_is_never_sent_from_its_middle(site_store, monkeypatch):
    """A server that asks for the rest of it lies: a fragment would be another message."""
    monkeypatch.setattr(transfers, "PIECE", 10)
    sent = []

    def answer(request):
        sent.append((str(request.url.query, "ascii"), request.content))
        said = ResumeAt(5) if len(sent) == 1 else Ack(True)
        return hubs.httpx.Response(200, content=to_json(said))

    async def life():
        async with line_over(hubs.Wire(answer), patience=hurried()) as line:
            body, data = SessionBody(1, 1), memoryview(b"a word of a secure sum")

            async def once():
                return await transfers.send(line, site_store, body, data, 0)

            return await line.persist(once)

    assert asyncio.run(life()) == Ack(True)
    assert sent == [("attempt=1", b"a word of a secure sum")] * 2
