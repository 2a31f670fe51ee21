# SPDX-License-Identifier: Apache-2.0
"""The log of what a site is asked and does not do, which no server can make grow for long."""

import math

import httpx
import pytest
from tests.adversary.rogue import Rogue, Site, refused
from tests.federation.site import scene
from tests.federation.site.scene import plan

from muster import Every
from muster.federation.protocol.message import Ack, RunEnded, Settled, Wait, to_json
from muster.federation.site import trainer
from muster.federation.site.agent import LONGEST_WAIT, OUT
from muster.federation.site.policy import Policy
from muster.security.refusal import RefusalReason, Refused

PLAN = plan(weighting="equal", rounds=2, evaluate=Every(clients=0))
MANY = 300


def lines(site):
    return (site.home / "audit.jsonl").read_bytes().count(b"\n")


def test_what_is_declined_is_in_the_log_before_it_is_answered(tmp_path):
    site, rogue = Site(tmp_path, PLAN), Rogue(PLAN, [])
    rogue.script, seen = [rogue.task(9), rogue.evaluate(1)], []
    honest = rogue.handle

    def handle(request):
        if request.url.path == "/v1/answers":
            seen.append(site.logged("declined")[-1])
        return honest(request)

    rogue.handle = handle
    site.attend(rogue)
    assert [(said["asked"], said["round"], said["rule"]) for said in seen] == [
        ("task", 9, "rounds"),
        ("evaluate", 1, "unplanned"),
    ]
    assert "none of the 2 rounds" in seen[0]["text"]


ASKED = {
    "rounds beyond the plan": lambda rogue, n: rogue.task(3 + n),
    "evaluations": lambda rogue, n: rogue.evaluate(1 + n),
    "other runs": lambda rogue, n: rogue.task(1, run=f"x{n}"),
    "one round again": lambda rogue, n: rogue.task(1),
    "one round otherwise": lambda rogue, n: rogue.task(1, times=1 + n),
    "attempts": lambda rogue, n: rogue.task(1, attempt=1 + n),
    "fates of nothing": lambda rogue, n: Settled(rogue.run, 9, True),
    "waits": lambda rogue, n: Wait(1e6 + n),
    "models that are not there": lambda rogue, n: rogue.task(2, model="f" * 64),
}


@pytest.mark.parametrize("what", ASKED)
def test_no_server_makes_the_log_grow_for_long(what, tmp_path):
    site, rogue = Site(tmp_path, PLAN), Rogue(PLAN, [])
    rogue.script = [ASKED[what](rogue, n) for n in range(MANY)]
    site.attend(rogue)
    # At most so many entries of each kind: the first, the second, the fourth …
    assert lines(site) < 8 + 3 * math.log2(MANY) + 4 * PLAN.rounds


LONG = "\u6f22" * 1000  # three bytes each


def test_no_text_of_a_server_is_too_long_for_the_log(tmp_path):
    site, rogue = Site(tmp_path, PLAN), Rogue(PLAN, [RunEnded("r1", 2, LONG)])
    assert site.attend(rogue).text == LONG
    (ended,) = site.logged("ended")
    assert LONG.startswith(ended["text"]) and len(ended["text"]) > 600
    refusal = Ack(False, RefusalReason.REVOKED, LONG)
    rogue.script = [httpx.Response(409, content=to_json(refusal))]
    with pytest.raises(Refused, match="revoked"):
        site.attend(rogue)
    (said,) = site.logged("refused")
    assert said["reason"] == "revoked" and LONG.startswith(said["text"])


def test_a_server_that_takes_no_update_makes_no_log_grow(tmp_path):
    site, rogue = Site(tmp_path, PLAN), Rogue(PLAN, [])
    rogue.takes = lambda update: refused(RefusalReason.LATE)
    rogue.script = [rogue.task(1) for _ in range(MANY)]
    site.attend(rogue)
    assert lines(site) < 8 + 2 * math.log2(MANY)
    verdicts = site.logged("verdict")
    assert verdicts[0]["reason"] == "late" and verdicts[-1]["count"] == 256


def test_a_server_that_forgets_the_site_makes_no_log_grow(tmp_path):
    site, rogue = Site(tmp_path, PLAN), Rogue(PLAN, [])
    rogue.script = [lambda poll: refused(RefusalReason.UNENROLLED) for _ in range(MANY)]
    site.attend(rogue)
    assert len(rogue.hellos) == MANY + 1 and lines(site) < 6 + math.log2(MANY)


def test_what_is_counted_goes_on_after_a_restart(tmp_path):
    site, rogue = Site(tmp_path, PLAN), Rogue(PLAN, [])
    for _ in range(4):
        rogue.script = [rogue.task(9)]
        site.attend(rogue)
    assert [said.get("count") for said in site.logged("declined")] == [None, 2, 4]


def slept(rogue, site, monkeypatch):
    """The seconds for which a site has slept, in order."""
    found = []

    async def sleep(seconds):
        found.append(seconds)

    monkeypatch.setattr(scene, "soon", sleep)
    site.attend(rogue)
    return found


def test_no_site_is_deaf_for_as_long_as_a_server_likes(tmp_path, monkeypatch):
    site, rogue = Site(tmp_path, PLAN), Rogue(PLAN, [Wait(9999999), Wait(3.0)])
    assert slept(rogue, site, monkeypatch) == [LONGEST_WAIT, 3.0]
    assert site.logged("declined")[0]["text"].startswith("to wait for 1e+07 s")


def test_a_long_lease_keeps_no_site_out_that_was_left_out(tmp_path, monkeypatch):
    rogue = Rogue(PLAN, [], lease=1e7)
    rogue.script = [lambda poll: refused(RefusalReason.LEFT_OUT)]
    assert slept(rogue, Site(tmp_path, PLAN), monkeypatch) == [LONGEST_WAIT]
    short = Rogue(PLAN, [], lease=20.0)
    short.script = [lambda poll: refused(RefusalReason.LEFT_OUT)]
    (tmp_path / "b").mkdir()
    assert slept(short, Site(tmp_path / "b", PLAN), monkeypatch) == [20.0 * OUT]


def test_a_lease_of_nothing_makes_no_site_say_that_it_works_without_a_pause(tmp_path, monkeypatch):
    site, rogue = Site(tmp_path, PLAN), Rogue(PLAN, [])
    rogue.script, seen = [rogue.task(lease=0.0)], []
    wait = trainer.asyncio.wait

    async def waited(what, *, timeout=None):
        seen.append(timeout)
        return await wait(what, timeout=timeout)

    monkeypatch.setattr(trainer.asyncio, "wait", waited)
    site.attend(rogue)
    assert seen and min(seconds for seconds in seen if seconds is not None) == trainer.SHORTEST


def test_a_run_that_ends_says_so_once(tmp_path):
    site = Site(tmp_path, PLAN, Policy())
    assert isinstance(site.attend(Rogue(PLAN, [])), RunEnded)
    assert len(site.logged("ended")) == 1


def test_what_is_declined_is_told_to_whoever_watches(tmp_path):
    site, rogue, heard = Site(tmp_path, PLAN), Rogue(PLAN, []), []
    rogue.script = [rogue.task(9)]
    site.attend(rogue, watch=heard.append)
    declined = [event for event in heard if event["event"] == "declined"]
    assert declined[0]["rule"] == "rounds" and "none of the 2" in declined[0]["text"]
