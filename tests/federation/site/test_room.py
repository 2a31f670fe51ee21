# SPDX-License-Identifier: Apache-2.0
"""Who is in one secure sum with a site: by certificates, by rules, and what is noted of it."""

from datetime import UTC, datetime

import pytest
from tests.federation.coordinator.masked import certificate, identities, plan_of

from muster.errors import IdentityError
from muster.federation.protocol.message import TrainAssignment
from muster.federation.site.peers import PeerRules
from muster.federation.site.room import LONGEST, Room
from muster.plan.secure import session_terms
from muster.secagg import Saw, SessionStep
from muster.security import pki
from muster.security.pki.credentials import Credentials

NAMES = ("ann", "bob", "cid")
NOW = datetime.now(UTC)
TASK = TrainAssignment("r1", 2, "0" * 64, 1.0, 1, 3, attempt=4)


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
    assert not ours.signed("cid", b"said", pki.Notary(home / "cid").sign(b"said"))
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
