# SPDX-License-Identifier: Apache-2.0
"""Large bodies go on where they broke off, and are what their digest says."""

import asyncio

import numpy as np
import pytest
from tests.service.site import hub as hubs
from tests.service.site.hub import Hub
from tests.service.site.scene import PLANS, hurried, spoil

from muster.service import wire
from muster.service.message import Task
from muster.service.refusal import Reason, Refused
from muster.service.site import cargo
from muster.service.site.line import Line
from muster.service.site.vault import Made, Vault
from muster.store.blobs import Disk, model_name

SIZE = 300_000


@pytest.fixture
def vault(tmp_path):
    with_files = Vault(tmp_path, disk=Disk(sync=int))
    with_files.enter("r1", "a")
    yield with_files
    with_files.close()


def talk(hub, deed):
    """Do something over a line to a hub that knows the site."""
    hub.enrolled = True

    async def life():
        line = Line("http://hub", "a", patience=hurried(), transport=hub.transport())
        line.largest = 1 << 20
        async with line:
            return await deed(line)

    return asyncio.run(life())


def hub_with(body):
    hub = Hub(PLANS["plain"])
    hub.model = body
    return hub


def fetch(hub, vault):
    digest = hub.digest
    return bytes(talk(hub, lambda line: cargo.fetch(line, vault, digest, 1)))


BODY = np.random.default_rng(0).bytes(SIZE)


def test_a_model_is_fetched_once_and_held(vault):
    hub = hub_with(BODY)
    assert fetch(hub, vault) == BODY
    assert fetch(hub, vault) == BODY
    assert len(hub.requests) == 1


def test_a_download_goes_on_where_it_broke_off(vault, monkeypatch):
    monkeypatch.setattr(cargo, "GATHER", 1000)
    hub = hub_with(BODY)
    hub.faults[0] = hubs.torn
    sent = []
    honest = hub.download

    def download(request):
        sent.append(request.headers.get("range", ""))
        return honest(request)

    hub.download = download
    assert fetch(hub, vault) == BODY
    assert sent == ["", f"bytes={SIZE // 2}-"]


def test_a_server_that_sends_the_whole_anyway_is_understood(vault):
    vault.models.append(model_name(hub_with(BODY).digest), 0, BODY[:999])
    hub = hub_with(BODY)
    hub.download = lambda request: hubs.httpx.Response(200, content=BODY)
    assert fetch(hub, vault) == BODY


def test_a_model_that_is_all_there_but_unfinished_is_finished(vault):
    hub = hub_with(BODY)
    vault.models.append(model_name(hub.digest), 0, BODY)
    assert fetch(hub, vault) == BODY


@pytest.mark.parametrize("where", ["held", "part", "line"])
def test_a_damaged_model_is_fetched_anew(where, vault):
    hub, bad = hub_with(BODY), bytearray(BODY)
    bad[7] ^= 1
    name = model_name(hub.digest)
    if where == "line":
        hub.faults[0] = lambda request, answer: hubs.httpx.Response(200, content=bytes(bad))
    else:
        vault.models.append(name, 0, bytes(bad))
        if where == "held":
            vault.models.finish(name)
    assert fetch(hub, vault) == BODY


def test_a_packed_model_is_unpacked(vault):
    packed = hubs.zstandard.ZstdCompressor().compress(BODY)
    hub = hub_with(BODY)
    coding = {"coding": "zstd"}
    hub.download = lambda request: hubs.httpx.Response(200, extensions=coding, content=packed)
    digest = hub.digest
    hub.faults[0] = lambda request, answer: hubs.httpx.Response(
        200, extensions=coding, content=packed[:20] + b"?" * 20
    )
    assert bytes(talk(hub, lambda line: cargo.fetch(line, vault, digest, 1))) == BODY


def test_an_unknown_model_is_a_refusal(vault):
    hub = hub_with(BODY)
    with pytest.raises(Refused) as caught:
        talk(hub, lambda line: cargo.fetch(line, vault, "0" * 64, 1))
    assert caught.value.reason is Reason.UNKNOWN


def test_the_last_two_models_are_kept(vault):
    for seed in range(3):
        fetch(hub_with(np.random.default_rng(seed).bytes(99)), vault)
    assert len(vault.models.names("model-")) == 2
    assert fetch(hub_with(np.random.default_rng(2).bytes(99)), vault)


def deliver(hub, vault, array, monkeypatch, piece=50_000):
    monkeypatch.setattr(cargo, "PIECE", piece)
    monkeypatch.setattr(cargo, "SEND", 1000)
    task = Task("r1", 1, "0" * 64, 30.0)
    pending = vault.pending or vault.keep(task, Made({"payload": {"delta": array}}, 18.0))
    verdict = talk(hub, lambda line: cargo.deliver(line, vault, pending))
    body = b"".join(wire.encode({"payload": {"delta": array}}))
    assert verdict.accepted and hub.bodies[1] == (pending.update, body)


RANDOM = np.random.default_rng(0).normal(size=SIZE // 4).astype("float32")


def test_an_update_goes_in_pieces(vault, monkeypatch):
    hub, passed = Hub(PLANS["plain"]), []
    vault.at = passed.append
    deliver(hub, vault, RANDOM, monkeypatch)
    assert [method for method, _ in hub.requests] == ["POST"] + ["PUT"] * 7
    assert passed.count("site: in upload") == 6


@pytest.mark.parametrize("fault", [hubs.lost, hubs.unheard, hubs.doubled, hubs.torn, hubs.busy])
@pytest.mark.parametrize("number", [0, 1, 3, 7])
def test_an_upload_goes_on_where_it_broke_off(fault, number, vault, monkeypatch):
    hub = Hub(PLANS["plain"])
    hub.faults[number] = fault
    deliver(hub, vault, RANDOM, monkeypatch)
    assert [method for method, _ in hub.requests].count("PUT") <= 8


def test_a_server_that_forgot_the_announcement_hears_it_again(vault, monkeypatch):
    hub = Hub(PLANS["plain"])

    def forget(request, answer):
        hub.announced.clear()
        return answer(request)

    hub.faults[3] = forget
    deliver(hub, vault, RANDOM, monkeypatch)
    assert [method for method, _ in hub.requests].count("POST") == 2


def test_an_update_that_was_damaged_on_its_way_is_sent_again(vault, monkeypatch):
    hub = Hub(PLANS["plain"])

    def damage(request, answer):
        found = answer(request)
        ((digest, part),) = hub.parts.items()
        hub.parts[digest] = b"?" + part[1:]
        return found

    hub.faults[1] = damage
    deliver(hub, vault, RANDOM, monkeypatch)


def test_an_update_that_is_damaged_here_is_not_sent_for_ever(vault, monkeypatch):
    hub = Hub(PLANS["plain"])
    pending = vault.keep(Task("r1", 1, "0" * 64, 30.0), Made({"payload": {"delta": RANDOM}}, 1.0))
    path = vault.folder / pending.blob
    spoil(path)
    with pytest.raises(Refused) as caught:
        talk(hub, lambda line: cargo.deliver(line, vault, pending))
    assert caught.value.reason is Reason.WRONG_DIGEST


def test_small_whole_numbers_are_packed_and_noise_is_not(vault, monkeypatch):
    for array, packed in ((np.arange(SIZE // 8) % 7, True), (RANDOM, False)):
        hub, seen = Hub(PLANS["plain"]), []
        honest = hub.upload

        def upload(request, honest=honest, seen=seen):
            seen.append(request.headers.get("content-encoding"))
            return honest(request)

        hub.upload = upload
        deliver(hub, vault, array, monkeypatch)
        assert set(seen) == ({"zstd"} if packed else {None})
        vault.settle(1, accepted=True)


def test_a_server_that_holds_it_is_sent_nothing(vault, monkeypatch):
    hub = Hub(PLANS["plain"])
    deliver(hub, vault, RANDOM, monkeypatch)
    before = len(hub.requests)
    deliver(hub, vault, RANDOM, monkeypatch)
    assert len(hub.requests) == before + 1
