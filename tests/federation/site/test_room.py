# SPDX-License-Identifier: Apache-2.0
"""The room of one secure sum with a site: by certificates, by rules, and what is noted of it."""

from datetime import UTC, datetime

import pytest
from tests.federation.coordinator.masked import certificate, identities, plan_of

from muster.errors import IdentityError
from muster.federation.protocol.message import TrainAssignment
from muster.federation.site.peers import PeerRules
from muster.federation.site.room import LONGEST, Room
from muster.plan.secure import session_terms
from muster.secagg import Aborted, Saw, SessionReason, SessionStep
from muster.security import pki
from muster.security.audit import AuditLog, entries
from muster.security.pki.credentials import Credentials
from muster.security.pki.notary import Peer

NAMES = ("ann", "bob", "cid")
NOW = datetime.now(UTC)
TASK = TrainAssignment("r1", 2, "0" * 64, 1.0, 1, 3, attempt=4)


def test_whom_it_is_with_fits_a_log_however_many_and_whatever_they_are_called(home, tmp_path):
    """A line of the log is bounded, and an authority gives long names."""
    ours = room(home)
    crowd = [Peer(f"{n:063}", "\u6f22" * 64, f"{n:x}", f"{n:064x}") for n in range(1, 300)]
    ours.roster, ours.left = tuple(crowd), {"share": tuple(one.name for one in crowd)}
    with AuditLog(tmp_path / "audit.jsonl", purpose="site", id="ann") as log:
        for part in ours.told("share"):
            log.append("ann", "secure sum with", round=1, step="share", session="a" * 64, **part)
    found = [one["details"] for one in entries(tmp_path / "audit.jsonl")][1:]
    assert [one["part"] for one in found] == [f"{n} of 6" for n in range(1, 7)]
    said = [(one["name"], one["organisation"]) for each in found for one in each["peers"]]
    assert said == [(one.name, one.organisation) for one in crowd]


def test_what_is_told_of_a_few_stands_in_one_entry(home):
    ours = room(home)
    ours.roster = (Peer("bob", "Inserm", "1", "0" * 64), Peer("cid", "cid", "2", "1" * 64))
    ours.left = {"mask": ("bob",)}
    assert list(ours.told("mask")) == [{"peers": [{"name": "bob", "organisation": "Inserm"}]}]


def test_no_word_of_anybody_makes_a_transcript_that_cannot_be(home):
    ours = room(home)
    ours.enter(terms(), came(home))
    made = ours.transcript("s", TASK, "a\x1b[31m\nb\u202e", (1.0, 2.0))
    assert made.reason == "a?[31m?b?"


@pytest.fixture
def home(tmp_path):
    return identities(tmp_path, NAMES)


def room(home, **rules):
    return Room(pki.Notary(home / "ann"), PeerRules(**rules))


def came(home, names=NAMES):
    found = {name: certificate(home, name) for name in names}
    return Credentials(found, pki.Notary(home / "hub").listed())


def terms():
    return session_terms(
        plan_of(rounds=2), 3, study="s", run="r1", round=2, plan=bytes(32), model=bytes(32)
    )


def test_whom_it_does_not_know_it_does_not_vouch_for(home):
    ours = room(home)
    ours.enter(terms(), came(home, ("bob",)))
    signed = pki.Notary(home / "bob").sign(b"said")
    assert ours.signed("bob", b"said", signed)
    assert not ours.signed("bob", b"other", signed)
    with pytest.raises(Aborted, match="handed out no certificate of cid") as stop:
        ours.signed("cid", b"said", pki.Notary(home / "cid").sign(b"said"))
    assert stop.value.reason is SessionReason.PEERS
    assert ours.judge(NAMES) == "the server handed out no certificate of cid; ask it why"


def test_its_own_certificate_is_its_own_whatever_is_handed_out(home):
    ours = room(home)
    handed = came(home)
    strange = {**handed.certificates, "ann": handed.certificates["bob"]}
    ours.enter(terms(), Credentials(strange, handed.revoked))
    assert ours.certificates["ann"] == ours.notary.certificate
    assert [peer.name for peer in ours.peers(NAMES)] == list(NAMES)


def test_an_older_list_than_one_that_it_saw_is_refused_and_changes_nothing(home):
    ours, before = room(home), came(home)
    pki.revoke(home / "authority", "cid", "compromised", NOW)
    newer = (home / "authority" / "revoked.pem").read_text()
    ours.enter(terms(), Credentials(before.certificates, newer))
    assert "cid" in ours.judge(NAMES) and "revoked" in ours.judge(NAMES)
    known = ours.certificates
    with pytest.raises(IdentityError, match="number"):
        ours.enter(terms(), Credentials({}, before.revoked))
    assert ours.certificates == known


@pytest.mark.parametrize(
    ("rules", "names", "words"),
    [
        ({}, NAMES[:2], "at least 2"),
        ({"least_peers": 3}, NAMES, "asks for 3"),
        ({"peers": ("bob", "dot")}, NAMES, "not among the peers"),
        ({"organisations": ("cid", "Inserm")}, NAMES, "Inserm"),
    ],
)
def test_the_rules_of_its_policy_are_asked_of_whoever_is_named(rules, names, words, home):
    ours = room(home, **rules)
    ours.enter(terms(), came(home))
    assert words in ours.judge(names)


def test_what_was_noted_tells_another_life_all_that_this_one_saw(home):
    ours, later = room(home), room(home)
    ours.enter(terms(), came(home))
    for step, names in (
        (SessionStep.SHARE, NAMES),
        (SessionStep.MASK, NAMES),
        (SessionStep.CONSENT, NAMES[:2]),
    ):
        ours.saw(Saw(step, bytes(32), names))
    later.recall(ours.noted())
    span = (NOW.timestamp(), NOW.timestamp() + 5)
    assert later.transcript("s", TASK, "", span) == ours.transcript("s", TASK, "", span)
    made = later.transcript("s", TASK, "x" * 5000, span)
    assert (made.run, made.round, made.attempt, made.outcome) == ("r1", 2, 4, "given up")
    assert len(made.reason) == LONGEST and made.terms["cohort"] == 3
    assert dict(made.left) == {"share": NAMES, "mask": NAMES, "consent": NAMES[:2]}


def test_a_room_that_saw_nobody_has_a_transcript_of_nobody(home):
    span = (NOW.timestamp(), NOW.timestamp())
    made = room(home).transcript("s", TASK, "nobody came", span)
    assert (made.session, made.roster, made.left) == ("", (), ())
