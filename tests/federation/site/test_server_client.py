# SPDX-License-Identifier: Apache-2.0
"""The line repeats what may pass, and says at once what may not."""

import asyncio
import ssl

import httpx
import pytest
from tests.federation.site.lines import line_over

from muster.errors import IdentityError, RunError
from muster.federation.protocol.message import Ack, Poll, RunEnded, Wait, to_json
from muster.federation.protocol.transport import LineFault
from muster.federation.site.server_client import Backoff
from muster.security.refusal import RefusalReason, Refused
from muster.transport.http.client import HTTPTransport

POLL = Poll("r", 0, 1.0)


def ask(*answers, **patience):
    """Say a poll to a server that gives these answers in turn; what was heard, and the pauses."""
    waiting, pauses = list(answers), []

    def answer(request):
        found = waiting.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    async def sleep(seconds):
        pauses.append(seconds)

    async def life():
        how = Backoff(sleep=sleep, random=lambda: 1.0, **patience)
        events = []
        below = httpx.MockTransport(answer)
        async with line_over(below, patience=how, watch=events.append) as line:
            heard = await line.say(POLL, Wait, RunEnded)
        assert len(events) == len(pauses)
        return heard

    return asyncio.run(life()), pauses


def told(message, status=200, **headers):
    return httpx.Response(status, content=to_json(message), headers=headers)


GOOD = told(Wait(3.0))


def test_an_answer_is_heard():
    assert ask(GOOD) == (Wait(3.0), [])


def test_pauses_double_with_full_jitter_and_are_capped():
    down = [httpx.ConnectError("down") for _ in range(6)]
    assert ask(*down, GOOD, first=1.0, longest=10.0)[1] == [2.0, 4.0, 8.0, 10.0, 10.0, 10.0]
    assert Backoff(random=lambda: 0.5, first=1.0, longest=8.0).pause(2) == 2.0


@pytest.mark.parametrize(
    "passing",
    [
        httpx.Response(503),
        httpx.Response(500, content=b"<html>"),
        httpx.ReadTimeout("slow"),
        httpx.RemoteProtocolError("torn"),
        told(Wait(1.0), 502),
        httpx.Response(200, content=b"{"),
        told(Ack(True)),
    ],
)
def test_what_may_pass_is_tried_again(passing):
    assert ask(passing, GOOD)[0] == Wait(3.0)


@pytest.mark.parametrize("reason", [RefusalReason.TOO_OFTEN, RefusalReason.NO_ROOM])
def test_retry_after_is_honoured(reason):
    full = told(Ack(False, reason, "later"), 429, **{"retry-after": "7"})
    assert ask(full, GOOD, first=0.1)[1] == [7.0]


def test_a_refusal_is_an_answer():
    with pytest.raises(Refused, match="over") as caught:
        ask(told(Ack(False, RefusalReason.STALE, "over"), 409))
    assert caught.value.reason is RefusalReason.STALE


def test_what_is_no_muster_server_is_said_at_once():
    with pytest.raises(RunError, match="no muster server"):
        ask(httpx.Response(404, content=b"<html>nothing here</html>"))


def test_a_server_that_was_met_may_hide_behind_a_proxy_for_a_while():
    met = told(Ack(False, RefusalReason.NO_ROOM, "full"), 507)
    assert ask(met, httpx.Response(404, content=b"<html>"), GOOD)[0] == Wait(3.0)


def test_a_server_that_does_not_prove_who_it_is_ends_it():
    cause = ssl.SSLCertVerificationError("self-signed")
    cause.verify_message = "self-signed certificate"
    error = httpx.ConnectError("failed")
    error.__cause__ = cause
    with pytest.raises(IdentityError, match="self-signed"):
        ask(error)


@pytest.mark.parametrize("address", ["hub", "ftp://hub", "https://hub", "http://", "http://h:x"])
def test_an_address_that_is_none_is_refused(address):
    with pytest.raises(RunError, match="none to use"):
        HTTPTransport(address, "a")


def test_octets_that_moved_renew_patience():
    pauses = []

    async def sleep(seconds):
        pauses.append(seconds)

    async def life():
        how = Backoff(1.0, 99.0, sleep=sleep, random=lambda: 1.0)
        left = 4

        async def deed():
            nonlocal left
            left -= 1
            line.moved += left == 1
            if left:
                raise LineFault("torn")
            return "done"

        async with line_over(None, patience=how) as line:
            return await line.persist(deed)

    assert asyncio.run(life()) == "done"
    assert pauses == [2.0, 4.0, 1.0]
