# SPDX-License-Identifier: Apache-2.0
"""The secrets of a secure sum have an end, and a vault that was put back shares them no twice.

The attack: a vault is copied while its session stands at one step, and put back after a later one.
The site draws the rest anew and says other words with the same secrets: what one share of a secret
hides, two tell.
"""

import math
import shutil

import pytest
from tests.adversary.sums import Session, Sums
from tests.adversary.test_site_session import said

from muster.federation.site.secagg import HOURS
from muster.federation.site.trainer import Habits
from muster.secagg import Sum
from muster.secagg.messages import Advert, Compared, Consent, MaskedVector, Quit, Revealed, Shares
from muster.security import audit

STEPS = ("advertise", "share", "compare", "mask", "consent", "unmask")
SPOKEN = (Advert, Shares, Compared, MaskedVector, Consent, Revealed)


@pytest.fixture
def liar(tmp_path):
    return running(tmp_path)


def running(home):
    """A server whose run goes on: what a site has of a session is there when it starts again."""
    liar = Sums(home)
    liar.ends = False
    return liar


def copied(liar, label, then):
    """A copy of ann's vault as it was at a label; the session goes on until a message is late."""
    site_store, copy = liar.home / "ann" / "vault", liar.home / "copy"

    def at(passed):
        if passed == label and not copy.exists():
            shutil.copytree(site_store, copy)

    liar.at, liar.late = {"ann": at}, then
    session = Session(liar.names)
    liar.lead(session)
    liar.at = {}
    return session, copy


def put_back(liar, copy):
    shutil.rmtree(liar.home / "ann" / "vault")
    shutil.copytree(copy, liar.home / "ann" / "vault")


def kept(path):
    """Which steps a vault has kept."""
    return sorted(one.name.split("-")[2] for one in path.glob("secure-*") if "key" not in one.name)


@pytest.mark.parametrize("place", range(5))
def test_a_vault_that_was_put_back_to_an_earlier_step_says_nothing_more(place, liar):
    """From each step to the one after it, and to the last."""
    for later in {place + 1, 4}:
        if later <= place:
            continue
        home = liar.home / f"{later}"
        one = running(home)
        _, copy = copied(one, f"site: {STEPS[place]} is said", SPOKEN[later])
        assert len(kept(copy)) == place + 1 < len(kept(home / "ann" / "vault"))
        put_back(one, copy)
        one.lead(again := Session(one.names))
        assert set(said(again, "ann")) == {Quit}
        assert {m.reason for m in again.heard["ann"]} == {"STOPPED"}
        assert not list((home / "ann" / "vault").glob("secure-*"))
        begun = entries(one, "ann", "secure sum ended")
        assert begun[-1]["reason"] == "stopped by its driver"


def test_a_vault_that_was_put_back_is_told_in_a_sentence(liar):
    heard = []
    _, copy = copied(liar, "site: advertise is said", Consent)
    put_back(liar, copy)
    liar.lead(Session(liar.names), habits=Habits(wait=0.0, watch=heard.append))
    (text,) = {e["text"] for e in heard if e["event"] == "told" and e["site"] == "ann"}
    assert "was put back to an older copy: it holds 1 steps of the secure sum of round 1" in text
    assert "counts 5; its secrets are used no second time" in text


def test_a_step_is_counted_before_it_is_said(liar):
    """In one life without a pause: nobody else would count it before the copy is put back."""
    site_store, copy = liar.home / "ann" / "vault", liar.home / "copy"

    def at(passed):
        if passed == "site: advertise is said":
            shutil.copytree(site_store, copy)
        if passed == "site: consent is said":
            raise RuntimeError("killed")

    liar.at, liar.late = {"ann": at}, ()
    session = Session(liar.names, most=math.inf)
    with pytest.raises(RuntimeError, match="killed"):
        liar.lead(session)
    liar.at = {}
    put_back(liar, copy)
    liar.lead(again := Session(liar.names))
    assert set(said(again, "ann")) == {Quit}


def test_a_vault_from_before_the_session_cannot_begin_it_again(liar):
    """Its update is there, and no secret yet: new ones would be a second session."""
    _, copy = copied(liar, "site: session is opened", MaskedVector)
    assert kept(copy) == [] and list(copy.glob("update-*"))
    put_back(liar, copy)
    liar.lead(again := Session(liar.names))
    assert set(said(again, "ann")) == {Quit}


@pytest.mark.parametrize("step", STEPS[:5])
def test_a_kill_between_keeping_a_step_and_counting_it_changes_nothing(step, liar):
    """A vault that holds one step more than was counted is no older copy."""
    left = [True]

    def at(passed):
        if passed == f"site: {step} is kept" and left:
            left.clear()
            raise RuntimeError("killed")

    liar.at, liar.late = {"ann": at}, ()
    session = Session(liar.names, most=math.inf)
    with pytest.raises(RuntimeError, match="killed"):
        liar.lead(session)
    liar.at = {}
    liar.lead(session)
    assert isinstance(session.found, Sum) and set(session.found.survivors) == set(liar.names)


class Clock:
    """A wall clock that a test moves."""

    now = 1.7e9

    def __call__(self):
        return self.now


def entries(liar, name, action):
    found = audit.entries(liar.home / name / "audit.jsonl")
    return [entry["details"] for entry in found if entry["action"] == action]


@pytest.mark.parametrize("late", [Advert, MaskedVector, Revealed])
def test_secrets_are_destroyed_at_their_end_and_the_assignment_is_spent(late, liar):
    clock = Clock()
    habits = Habits(wait=0.0, wall=clock)
    liar.late = late
    liar.lead(Session(liar.names), habits=habits)
    site_store = liar.home / "ann" / "vault"
    assert list(site_store.glob("secure-*-key"))
    clock.now += 3600 * HOURS - 1
    liar.lead(Session(liar.names), habits=habits)
    assert list(site_store.glob("secure-*-key")), "not a second too early"
    clock.now += 1
    liar.lead(again := Session(liar.names), habits=habits)
    assert not list(site_store.glob("secure-*"))
    assert set(said(again, "ann")) == {Quit}
    assert entries(liar, "ann", "secrets expired") == [{"round": 1, "hours": HOURS}]
    liar.lead(last := Session(liar.names), habits=habits)
    assert set(said(last, "ann")) == {Quit}, "for ever"


def test_secrets_end_while_a_server_says_nothing(liar):
    """The site waits in its session for what it is told next, and time goes by."""
    clock, seen = Clock(), []
    habits = Habits(wait=0.0, wall=clock)
    session = Session(liar.names)
    honest = liar.handle

    def handle(name, request):
        if request.method == "GET" and request.url.path.startswith("/v1/secure/"):
            seen.append(name)
            clock.now += 600
        return honest(name, request)

    liar.handle, liar.mute = handle, True
    liar.lead(session, habits=habits)
    assert set(said(session, "ann")) == {Advert, Quit} and seen
    assert not list((liar.home / "ann" / "vault").glob("secure-*"))


def test_secrets_end_while_a_site_cannot_reach_its_server(liar):
    """Nobody answers; the secrets go all the same."""
    clock = Clock()
    habits = Habits(wait=0.0, wall=clock)
    liar.late = MaskedVector
    liar.lead(Session(liar.names), habits=habits)
    site_store = liar.home / "ann" / "vault"
    assert list(site_store.glob("secure-*-key"))
    left = []

    def away(name, request):
        if name != "ann" or len(left) > 30:
            return honest(name, request)
        clock.now += 3600
        left.append(len(list(site_store.glob("secure-*"))))
        raise liar.nobody

    honest, liar.handle = liar.handle, away
    liar.lead(Session(liar.names), habits=habits)
    assert left[0] and not left[-1], "gone before anybody answered"
    assert entries(liar, "ann", "secrets expired")
