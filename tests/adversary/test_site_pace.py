# SPDX-License-Identifier: Apache-2.0
"""A server that wants a site to ask again at once, for ever: by a word that says so, or by work.

Time is a clock of the test: it goes on by what the site waits, and by nothing else.
"""

import asyncio
import math
from itertools import pairwise

import httpx
import pytest
from tests.adversary.played import Life, Played
from tests.adversary.rogue import Rogue, Site, refused
from tests.adversary.sums import Session, Sums
from tests.federation.site.scene import plan

from muster import Every
from muster.errors import RunError
from muster.federation.protocol.limits import PAUSE
from muster.federation.protocol.message import Wait
from muster.federation.site.server_client import Backoff
from muster.federation.site.trainer import Habits
from muster.security.refusal import RefusalReason

PLAN = plan(rounds=3, evaluate=Every(1))
ASKED = 200


class Time:
    """A monotonic clock, and a sleep by which it goes on."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    async def sleep(self, seconds):
        """No time goes by but here."""
        self.now += seconds
        await asyncio.sleep(0)

    def patience(self, **more):
        return Backoff(sleep=self.sleep, random=lambda: 0.5, **more)


def polled(tmp_path, script, **welcome):
    """The seconds that a site took for a script, and how often it polled."""
    time, site = Time(), Site(tmp_path, PLAN)
    rogue = Rogue(PLAN, script, **welcome)
    for number, entry in enumerate(rogue.script):
        if isinstance(entry, str):
            rogue.script[number] = getattr(rogue, entry)(1)
    site.attend(rogue, patience=time.patience(), clock=time)
    return time.now, len(rogue.polls)


def test_a_server_that_has_nothing_to_do_cannot_have_a_site_ask_without_end(tmp_path):
    seconds, polls = polled(tmp_path, [Wait(0.0)] * ASKED)
    assert polls == ASKED + 1 and seconds >= ASKED * PAUSE


def test_a_question_that_was_kept_for_long_is_asked_again_at_once(tmp_path):
    """An honest server answers so once nothing has happened for as long as it may keep it."""
    time, site = Time(), Site(tmp_path, PLAN)

    def kept(poll):
        time.now += poll.wait
        return Wait(0.0)

    rogue = Rogue(PLAN, [kept] * 10)
    site.attend(rogue, patience=time.patience(), clock=time, wait=20.0)
    assert time.now == 10 * 20.0


@pytest.mark.parametrize("script", [["task"], ["task", "evaluate"]])
def test_a_server_that_asks_for_the_same_again_cannot_have_a_site_answer_without_end(
    script, tmp_path
):
    """Of what was done and told, the very same may be asked for again, by one that lags."""
    seconds, _ = polled(tmp_path, script * ASKED)
    assert seconds >= ASKED


def test_a_server_that_leaves_a_site_out_for_no_time_cannot_have_it_say_hello_without_end(tmp_path):
    out = refused(RefusalReason.LEFT_OUT)
    seconds, _ = polled(tmp_path, [out] * ASKED, lease=1e-9)
    assert seconds >= ASKED * PAUSE


@pytest.mark.parametrize("status", [409, 500])
def test_a_server_that_refuses_and_fails_cannot_have_a_site_ask_without_end(status, tmp_path):
    """A lease of nothing bounds how long a site is patient, and it is patient all the same."""
    out = refused(RefusalReason.CLOSED)
    fails = httpx.Response(status, content=out.content)
    seconds, _ = polled(tmp_path, [fails] * ASKED, lease=1e-9)
    assert seconds >= ASKED * PAUSE / (1 if status < 500 else 2)


def test_a_server_that_tells_the_same_in_a_sum_cannot_have_a_site_ask_without_end(tmp_path):
    """A message that was heard before is ignored, whatever its number is."""
    time, played, again = Time(), Played(tmp_path / "played"), 50
    life = Life(played, 1, tmp_path / "life", [played.told[0]] * again, sleep=time.sleep)
    life.patience = time.patience(first=0.0, longest=0.0)
    life.habits = Habits(wait=0.0, clock=time)
    life.play()
    assert life.telling > again and time.now >= (again - 1) * PAUSE


def test_a_server_that_tells_nothing_in_a_sum_cannot_have_a_site_ask_without_end(tmp_path):
    time, liar = Time(), Sums(tmp_path)
    liar.patience = time.patience(first=0.001, longest=0.01)
    liar.mute, asked = True, []
    honest = liar.handle

    def handle(name, request):
        if name == "ann" and request.method == "GET" and "/v1/secure/" in request.url.path:
            asked.append(time.now)
            if len(asked) > ASKED:
                raise RunError("seen")
        return honest(name, request)

    liar.handle = handle
    with pytest.raises(RunError, match="seen"):
        liar.lead(Session(liar.names, most=math.inf), clock=time)
    least = min(after - before for before, after in pairwise(asked))
    assert least >= PAUSE
