# SPDX-License-Identifier: Apache-2.0
"""A server that lies to a site in a secure sum by what it asks, sends without end, or never takes.

A real site, started from what it had stored; the rules are those of `Life.check`.
"""

import httpx
import pytest

pytest.importorskip("sqlalchemy")
pytest.importorskip("cryptography")

from tests.adversary.mutants import json_mutants
from tests.adversary.played import NAMES, SITE
from tests.federation.site.hub import said

from muster.federation.protocol.message import Ack, Decline, TrainAssignment, from_json
from muster.federation.site.trainer import Habits
from muster.secagg.messages import Advert, Quit, read
from muster.security.refusal import Refused

FULL = httpx.Response(503, content=b"later")


async def at_once(seconds):
    """Wait no time."""


def test_every_field_of_the_task_of_a_masked_round_may_lie(played, lives):
    """It is trained and masked once, declined, or failed in words; and never ends the site."""
    right = played.sites[SITE].task(1, peers=len(NAMES))
    for mutant in json_mutants(right):
        try:
            from_json(mutant.data, TrainAssignment)
        except Refused:
            continue
        asks = [httpx.Response(200, content=mutant.data), right]
        made = lives(None, [], asks=asks).play()
        made.check(over=False)
        assert made.ended is None, (str(mutant), made.ended)
        adverts = [message for message in made.heard if isinstance(message, Advert)]
        assert len(adverts) <= 2


@pytest.mark.parametrize("times", [2, 3, 1 << 31])
def test_a_site_that_is_drawn_more_than_once_masks_nothing(times, played, lives):
    """A plan that masks draws nobody twice: its weight would be beyond what the sum can hold."""
    asks = [played.sites[SITE].task(1, peers=4, times=times)]
    answers = len(played.sites[SITE].answers)
    made = lives(None, played.told, asks=asks).play()
    made.check()
    assert made.ended is None and not made.heard
    assert [type(said) for said in played.sites[SITE].answers[answers:]] == [Decline]


@pytest.mark.parametrize("peers", [65520, 65521, 1 << 31])
def test_a_sum_of_a_great_many_is_judged_in_no_time(peers, played, lives):
    asks = [played.sites[SITE].task(1, peers=peers)]
    made = lives(None, played.told, asks=asks).play()
    made.check()
    assert made.ended is None


def test_the_secrets_of_a_site_end_while_nobody_takes_its_last_word(played, lives):
    """It leaves, and the server is silent to that for longer than secrets may live."""
    wall, asked, kept = [1.7e9], [], []

    def acks(request):
        asked.append(read(request.content))
        if not isinstance(asked[-1], Quit):
            return said(Ack(True))
        if len(asked) < 20:
            return FULL
        wall[0] = 9e9  # long after
        if len(asked) == 23:
            kept.append(list((made.home / SITE / "vault").glob("secure-*")))
        return FULL if len(asked) < 24 else said(Ack(True))

    made = lives(3, [b"no message"], acks=acks, sleep=at_once)
    made.habits = Habits(wait=0.0, wall=lambda: wall[0])
    made.play().check()
    assert {type(message) for message in asked[20:]} == {Quit}
    assert kept == [[]]


@pytest.mark.parametrize("path", ["told", "members", "poll", "said"])
def test_an_answer_without_end_fills_no_memory(path, played, lives):
    class Endless(httpx.AsyncByteStream):
        """A megabyte after another."""

        async def __aiter__(self):
            for _ in range(1000):
                sent.append(1)
                yield bytes(1 << 20)

    sent, odd = [], []

    def endless():
        return httpx.Response(200, stream=Endless(), headers={"muster-told": "1"})

    made = lives(3, played.told[3:], sleep=at_once)
    honest, places = made.handle, {"told": "GET /v1/secure", "said": "POST /v1/secure"}
    where = places.get(path, f"/v1/{path}")

    def handle(name, request):
        if not odd and where in (f"{request.method} {request.url.path}"):
            odd.append(True)
            return endless()
        return honest(name, request)

    made.handle = handle
    made.play()
    made.check()
    assert odd and len(sent) <= 66


def test_a_model_without_end_fills_no_disk(played, lives):
    """A site knows how long a model is."""
    sent = []

    class Endless(httpx.AsyncByteStream):
        """A megabyte after another."""

        async def __aiter__(self):
            for _ in range(100):
                sent.append(1)
                yield bytes(1 << 20)

    made = lives(None, played.told, sleep=at_once)
    honest, odd = made.handle, []

    def handle(name, request):
        if request.url.path.startswith("/v1/models/") and not odd:
            odd.append(True)
            return httpx.Response(200, stream=Endless())
        return honest(name, request)

    made.handle = handle
    made.play()
    assert odd and len(sent) <= 3
