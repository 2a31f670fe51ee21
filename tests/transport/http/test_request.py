# SPDX-License-Identifier: Apache-2.0
"""One request and its one answer, also when the request is not read to its end."""

import asyncio

import pytest

from muster.federation.protocol.message import Ack
from muster.security.refusal import RefusalReason, Refused
from muster.transport.http.request import STATUS, Gone, Request


class Line:
    """A line: the bytes that come, and those that are sent back, in order."""

    def __init__(self, *parts, headers=()):
        self.parts = [*parts]
        self.log = []
        scope = {"method": "POST", "path": "/v1/poll", "headers": [*headers], "query_string": b""}
        self.exchange = Request(scope, self.receive, self.send)

    async def receive(self):
        if not self.parts:
            return {"type": "http.disconnect"}
        data = self.parts.pop(0)
        self.log.append(f"read {len(data)}")
        return {"type": "http.request", "body": data, "more_body": bool(self.parts)}

    async def send(self, message):
        if message["type"] == "http.response.start":
            self.log.append(message["status"])
            self.fields = dict(message["headers"])
        else:
            self.log.append(f"sent {len(message['body'])}")


CHUNKED = [(b"transfer-encoding", b"chunked")]


def test_every_reason_has_a_status_of_its_kind():
    assert set(STATUS) == set(RefusalReason)
    assert all(400 <= status < 500 or status == 507 for status in STATUS.values())


def test_a_refusal_is_told_before_the_rest_is_dropped():
    line = Line(b"a" * 10, b"b" * 20, b"c" * 30, headers=CHUNKED)

    async def main():
        with pytest.raises(Refused) as caught:
            await line.exchange.body(limit=5)
        await line.exchange.say(Ack.of(caught.value))

    asyncio.run(main())
    told = line.log.index(413)
    assert line.log[:told] == ["read 10"] and line.log[told + 2 :] == [
        "read 20",
        "read 30",
        "sent 0",
    ]
    assert line.fields[b"connection"] == b"close"


def test_a_body_whose_length_is_too_large_is_not_begun():
    line = Line(b"a" * 10, headers=[(b"content-length", b"100000")])
    with pytest.raises(Refused, match="100000 bytes; at most 50"):
        asyncio.run(line.exchange.body(limit=50))
    assert not line.log


def test_whoever_goes_away_is_not_answered():
    line = Line(headers=CHUNKED)
    with pytest.raises(Gone):
        asyncio.run(line.exchange.body())


def test_a_length_that_is_no_number_is_none():
    for said, length in ((b"12", 12), (b" 7 ", 7), (b"-1", None), (b"9" * 30, None), (b"", None)):
        assert Line(headers=[(b"content-length", said)]).exchange.length() == length


def test_without_a_body_the_connection_stays():
    line = Line()
    asyncio.run(line.exchange.answer(200, b"{}"))
    assert line.log == [200, "sent 2"] and b"connection" not in line.fields
