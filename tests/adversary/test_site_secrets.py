# SPDX-License-Identifier: Apache-2.0
"""The secrets of a secure sum have an end, and a vault that was put back shares them no twice.

The attack: a vault is copied while its session stands at one step, and put back after a later one.
The site draws the rest anew and says other words with the same secrets: what one share of a secret
hides, two tell.
"""

import math
import shutil

import pytest
from tests.adversary.sums import Session, Sums, refused
from tests.adversary.test_site_session import said

from muster.errors import NoRoom, PlanError, RunError
from muster.federation.site.policy import Policy
from muster.federation.site.secagg import HOURS
from muster.federation.site.store import SiteStore
from muster.federation.site.study import StudyRecord
from muster.federation.site.trainer import Habits
from muster.secagg import Sum
from muster.secagg.messages import Advert, Compared, Consent, MaskedVector, Quit, Revealed, Shares
from muster.security import audit
from muster.security.refusal import RefusalReason, Refused
from muster.security.transcript import examine

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


# A site that stops for good keeps none for a next start that may never come.


def secrets(liar):
    return sorted(one.name for one in (liar.home / "ann" / "vault").glob("secure-*"))


def stopped(liar, reason=RefusalReason.REVOKED, path="/v1/secure/"):
    """The server refuses ann for good once she has masked; she stops."""
    honest, there = liar.handle, []

    def handle(name, request):
        if name == "ann" and secrets(liar) and request.url.path.startswith(path):
            there.append(secrets(liar))
            return refused(reason)
        return honest(name, request)

    liar.handle = handle
    with pytest.raises(Refused):
        liar.lead(Session(liar.names))
    assert there, "the refusal met a session that was open"


@pytest.mark.parametrize(
    "reason", [RefusalReason.REVOKED, RefusalReason.WRONG_FINGERPRINT, RefusalReason.WRONG_VERSION]
)
def test_a_site_that_is_refused_for_good_leaves_no_secret_on_its_disk(reason, liar):
    stopped(liar, reason)
    assert secrets(liar) == []
    found = examine(liar.home / "ann" / "studies" / "default" / "secure")
    assert found.faults == ()
    (made,) = (one.transcript for one in found.whole)
    assert (made.outcome, made.reason) == ("given up", "this site stopped with an error")


def opened(liar):
    """Ann is killed with a session that is open; her secrets are there for her next life."""
    liar.late = MaskedVector
    liar.lead(session := Session(liar.names))
    assert secrets(liar)
    return session


def test_a_site_whose_policy_has_changed_leaves_no_secret_though_it_does_not_start(liar):
    opened(liar)
    with pytest.raises(PlanError, match="fingerprints"):
        liar.lead(Session(liar.names), habits=Habits(policy=Policy(fingerprints=("0" * 12,))))
    assert secrets(liar) == []


def test_a_site_whose_record_is_gone_leaves_no_secret_though_it_does_not_start(liar):
    opened(liar)
    shutil.rmtree(liar.home / "ann" / "studies")
    with pytest.raises(RunError, match="which is gone"):
        liar.lead(Session(liar.names))
    assert secrets(liar) == []


def test_a_site_that_meets_another_run_leaves_no_secret(liar):
    opened(liar)
    liar.sites["ann"].run = "r2"
    with pytest.raises(RunError, match="a further run"):
        liar.lead(Session(liar.names))
    assert secrets(liar) == []


def test_secrets_end_while_a_model_does_not_come(liar):
    """A site that was started again asks for the model first, and is given none, for a day."""
    clock = Clock()
    habits = Habits(wait=0.0, wall=clock)
    liar.late = MaskedVector
    liar.lead(Session(liar.names), habits=habits)
    assert secrets(liar)
    for model in (liar.home / "ann" / "vault").glob("model-*"):
        model.unlink()
    honest, left = liar.handle, []

    def handle(name, request):
        if name == "ann" and request.url.path.startswith("/v1/models/") and len(left) < 40:
            clock.now += 3600
            left.append(secrets(liar))
            raise liar.nobody
        return honest(name, request)

    liar.handle = handle
    liar.lead(Session(liar.names), habits=habits)
    assert left[0] and not any(left[25:])


@pytest.mark.parametrize("fails", [NoRoom("full"), RunError("broken")])
def test_a_disk_that_takes_nothing_more_keeps_no_secret_alive(fails, liar, monkeypatch):
    """The secrets go, also where it cannot be written that the session is over."""
    opened(liar)

    def full(*_):
        raise fails

    monkeypatch.setattr(StudyRecord, "end", full)
    monkeypatch.setattr(SiteStore, "destroy", full)
    with pytest.raises(PlanError, match="fingerprints"):
        liar.lead(Session(liar.names), habits=Habits(policy=Policy(fingerprints=("0" * 12,))))
    assert secrets(liar) == []


def test_a_full_disk_keeps_no_secret_alive_past_its_end(liar, monkeypatch):
    clock = Clock()
    habits = Habits(wait=0.0, wall=clock)
    liar.late = MaskedVector
    liar.lead(Session(liar.names), habits=habits)
    clock.now += 3600 * HOURS

    def full(*_):
        raise NoRoom("full")

    monkeypatch.setattr(StudyRecord, "end", full)
    with pytest.raises(NoRoom):
        liar.lead(Session(liar.names), habits=habits)
    assert secrets(liar) == []


@pytest.mark.parametrize("action", ["secrets expired", "transcript", "destroy"])
def test_a_disk_that_fills_up_keeps_no_secret_alive_past_its_end(action, liar, monkeypatch):
    """The log has no room for it, or the vault has none to say that the session is over."""
    clock = Clock()
    habits = Habits(wait=0.0, wall=clock)
    liar.late = MaskedVector
    liar.lead(Session(liar.names), habits=habits)
    append = audit.AuditLog.append

    def full(self, actor, said, /, **details):
        if said == action and actor == "ann":
            raise audit.LogFull("full")
        return append(self, actor, said, **details)

    destroy = SiteStore.destroy

    def none(self):
        if self.folder.parent.name == "ann":
            raise NoRoom("full")
        destroy(self)

    monkeypatch.setattr(audit.AuditLog, "append", full)
    if action == "destroy":
        monkeypatch.setattr(SiteStore, "destroy", none)
    honest = liar.handle

    def handle(name, request):
        if name == "ann" and request.url.path == "/v1/poll" and clock.now < 1.7e9 + 3600 * HOURS:
            clock.now += 3600 * HOURS
            raise liar.nobody
        return honest(name, request)

    def watch(event):
        if event["event"] == "full" and event["site"] == "ann":
            assert secrets(liar) == []
            raise RuntimeError("seen")

    liar.handle = handle
    with pytest.raises(RuntimeError, match="seen"):
        liar.lead(Session(liar.names), habits=Habits(wait=0.0, wall=clock, watch=watch))


def test_a_site_that_was_only_stopped_goes_on_with_its_session(liar):
    def at(passed):
        if passed == "site: mask is kept":
            raise RuntimeError("killed")

    liar.at, liar.late = {"ann": at}, ()
    session = Session(liar.names, most=math.inf)
    with pytest.raises(RuntimeError, match="killed"):
        liar.lead(session)
    assert secrets(liar)
    liar.at = {}
    liar.lead(session)
    assert isinstance(session.found, Sum) and "ann" in session.found.survivors
