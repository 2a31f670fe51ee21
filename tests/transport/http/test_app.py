# SPDX-License-Identifier: Apache-2.0
"""The edge without a socket: every gate refuses in words, and nothing that comes breaks it."""

import asyncio

import pytest
from tests.transport.http.stand import (
    HELLO,
    POLL,
    RUN,
    Desk,
    body,
    client_of,
    edge_over,
    run,
    update,
)

from muster.federation.protocol.message import (
    Ack,
    Decline,
    Measured,
    Poll,
    Progress,
    ResumeAt,
    Settled,
    TrainingFailure,
    Wait,
    Welcome,
    from_json,
    to_json,
)
from muster.security.refusal import RefusalReason, Refused
from muster.transport.http.limits import Limits
from muster.transport.http.request import STATUS

HASH = "0123456789abcdef" * 4


def over(tmp_path, talk, service=None, name="lyon", **more):
    async def main():
        with edge_over(tmp_path, service, **more) as (edge, found, _):
            async with client_of(edge, name) as client:
                return await talk(client, found)

    return run(main())


def test_every_message_finds_its_way(tmp_path):
    async def talk(client, service):
        async def said(path, message, *kinds):
            got = await client.post(path, content=to_json(message))
            assert got.status_code == 200 and got.headers["muster-version"] == "2"
            assert got.headers["content-type"] == "application/json"
            return from_json(got.content, *kinds)

        assert await said("/v1/hello", HELLO, Welcome) == Welcome(1, RUN, "lyon", 15.0)
        assert await said("/v1/poll", POLL, Wait) == Wait(0.0)
        assert await said("/v1/poll", Poll(RUN, 2, 9.0), Settled) == Settled(RUN, 2, True)
        assert await said("/v1/updates", update(body()), ResumeAt) == ResumeAt(0)
        for message in (
            Decline(RUN, 3, "not today"),
            TrainingFailure(RUN, 3, "train", "Traceback"),
            Measured(RUN, 3, HASH, {"rows": 1.0}),
            Progress(RUN, 3, 17),
        ):
            assert await said("/v1/answers", message, Ack) == Ack(True)
        assert service.moved == {("lyon", 3): 17}
        assert (await client.get("/v1/plan")).json() == {"a": 1}
        assert (await client.get("/healthz")).json() == {"healthy": True}
        assert (await client.get("/openapi.json")).json()["openapi"] == "3.1.0"
        assert not service.counts

    over(tmp_path, talk)


@pytest.mark.parametrize("why", RefusalReason)
def test_every_refusal_of_the_desk_is_told_with_its_status_and_counted_once(tmp_path, why):
    class Refusing(Desk):
        async def poll(self, name, poll):
            raise Refused(why, "a\nreason")

    async def talk(client, service):
        got = await client.post("/v1/poll", content=to_json(POLL))
        assert from_json(got.content, Ack) == Ack(False, why, "a\nreason")
        assert got.status_code == STATUS[why] and service.counts == {why: 1}
        assert ("retry-after" in got.headers) == (
            why in (RefusalReason.TOO_OFTEN, RefusalReason.NO_ROOM)
        )

    over(tmp_path, talk, Refusing())


def test_what_nobody_foresaw_is_logged_and_not_told(tmp_path, caplog):
    class Broken(Desk):
        async def poll(self, name, poll):
            raise ZeroDivisionError("the password is 1234")

    async def talk(client, service):
        got = await client.post("/v1/poll", content=to_json(POLL))
        assert got.status_code == 500 and got.json()["kind"] == "fault"
        assert "1234" not in got.text and "Zero" not in got.text
        assert (await client.get("/healthz")).status_code == 200
        assert not service.counts

    over(tmp_path, talk, Broken())
    assert "ZeroDivisionError: the password is 1234" in caplog.text


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v1", 404),
        ("GET", "/v1/", 404),
        ("GET", "/v2/poll", 404),
        ("POST", "/v1/poll/", 404),
        ("GET", "/v1/models/abc", 404),
        ("PUT", "/v1/updates/0/x", 404),
        ("GET", "/v1/models/{digest}", 404),
        ("GET", "/v1/models/" + "%2e" * 64, 404),
        ("GET", "/v1/poll", 405),
        ("HEAD", "/v1/plan", 405),
        ("GET", "/metrics", 404),
        ("POST", f"/v1/models/{HASH}", 405),
        ("GET", f"/v1/updates/3/{HASH}", 405),
        ("BREW", "/healthz", 405),
        ("GET", "/status", 404),
        ("POST", "/want/stop", 404),
    ],
)
def test_other_addresses_and_methods_are_refused(tmp_path, method, path, status):
    async def talk(client, service):
        got = await client.request(method, path)
        assert got.status_code == status and service.counts == {RefusalReason.UNKNOWN: 1}
        assert ("allow" in got.headers) == (status == 405)
        assert method == "HEAD" or from_json(got.content, Ack).reason is RefusalReason.UNKNOWN

    over(tmp_path, talk)


@pytest.mark.parametrize("name", ["", "Lyon", "a b", "x" * 64, "../x", "\u00e9"])
def test_a_name_that_is_none_is_refused(tmp_path, name):
    async def talk(client, service):
        headers = {"Muster-Site": name.encode("latin-1")}
        got = await client.post("/v1/hello", content=to_json(HELLO), headers=headers)
        assert got.status_code == 401 and service.counts == {RefusalReason.UNENROLLED: 1}
        assert "Lyon" not in service.members

    over(tmp_path, talk, name="")


def test_a_body_is_small_flat_and_quick(tmp_path):
    async def drip():
        yield b"{"
        await asyncio.Event().wait()

    async def big():
        for _ in range(100):
            yield b" " * 1000

    async def talk(client, service):
        for sent, why in {
            b" " * ((1 << 16) + 1): RefusalReason.TOO_LARGE,
            b'{"a":' * 9 + b"1" + b"}" * 9: RefusalReason.MALFORMED,
            b"": RefusalReason.MALFORMED,
            to_json(HELLO): RefusalReason.MALFORMED,
            to_json(POLL).replace(b"0.0", b"NaN"): RefusalReason.NOT_FINITE,
        }.items():
            got = await client.post("/v1/poll", content=sent)
            assert from_json(got.content, Ack).reason is why
            assert got.status_code == STATUS[why]
        got = await client.post("/v1/poll", content=big())
        assert got.status_code == 413

    over(tmp_path, talk)

    async def slow(client, service):
        got = await client.post("/v1/poll", content=drip())
        assert got.status_code == 400 and "did not come" in got.json()["text"]

    over(tmp_path, slow, patience=0.05)


def test_whoever_asks_too_often_waits_and_others_do_not(tmp_path):
    now = [0.0]

    async def main():
        limits = Limits(rate=1.0, burst=3.0, clock=lambda: now[0])
        with edge_over(tmp_path, limits=limits) as (edge, service, _):
            async with client_of(edge) as lyon, client_of(edge, "oslo") as oslo:
                for _ in range(3):
                    assert (await lyon.get("/v1/plan")).status_code == 200
                got = await lyon.get("/v1/plan")
                assert got.status_code == 429 and got.headers["retry-after"] == "1"
                assert (await oslo.get("/v1/plan")).status_code == 200
                now[0] += 1.0
                assert (await lyon.get("/v1/plan")).status_code == 200
                assert service.counts == {RefusalReason.TOO_OFTEN: 1}

    run(main())


def scope(method="POST", path="/v1/poll"):
    return {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": b"",
        "scheme": "http",
        "headers": [(b"muster-site", b"lyon"), (b"content-length", b"1")],
        "state": {},
    }


def test_a_poll_is_given_up_when_its_client_goes_away(tmp_path):
    async def main():
        with edge_over(tmp_path) as (edge, service, _):
            sent = asyncio.Queue()
            sent.put_nowait({"type": "http.request", "body": to_json(Poll(RUN, 0, 60.0))})
            told = []

            async def send(message):
                told.append(message)

            asked = asyncio.ensure_future(edge(scope(), sent.get, send))
            await service.kept.wait()
            sent.put_nowait({"type": "http.disconnect"})
            await asked
            await service.left.wait()
            assert not told and not service.counts

    run(main())


def test_a_closing_edge_keeps_nobody_waiting(tmp_path):
    async def main():
        with edge_over(tmp_path) as (edge, service, _):
            async with client_of(edge) as client:
                long = to_json(Poll(RUN, 0, 60.0))
                asked = asyncio.ensure_future(client.post("/v1/poll", content=long))
                await service.kept.wait()
                edge.close()
                for got in (await asked, await client.post("/v1/poll", content=long)):
                    assert from_json(got.content, Wait) == Wait(1.0)

    run(main())


def test_another_kind_of_connection_is_no_business_of_the_edge(tmp_path):
    async def main():
        with edge_over(tmp_path) as (edge, _, _):
            await edge({"type": "websocket"}, None, None)

    run(main())
