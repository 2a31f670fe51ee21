# SPDX-License-Identifier: Apache-2.0
"""Real sites, and a server that fills their sums with names of its own, or lets peers fall out.

Whom a site sums with is its own policy's to say, by certificates that it has checked: of the
roster, of the members, and of those who are left. What it saw is in its log before it speaks, and
in a signed transcript before its secrets go.
"""

import math
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from tests.adversary.certificates import renewed
from tests.adversary.sums import Session, Sums
from tests.adversary.test_site_secrets import Clock, entries
from tests.adversary.test_site_session import said
from tests.federation.coordinator.masked import certificate, identities, plan_of
from tests.federation.site.scene import Killed

from muster import aggregation, pipeline, privacy
from muster.federation.protocol.message import Decline, TrainingFailure
from muster.federation.site.policy import Policy
from muster.federation.site.secagg import HOURS
from muster.federation.site.trainer import Habits
from muster.privacy.book import LedgerFile
from muster.secagg import Sum
from muster.secagg.graph import Odds, graph_of
from muster.secagg.messages import Advert, Consent, MaskedVector, Quit, Revealed, Shares
from muster.security import pki
from muster.security.transcript import examine

NAMES = ("ann", "bob", "cid", "dot", "eve", "fay")
NOW = datetime.now(UTC)


@pytest.fixture
def liar(tmp_path):
    liar = Sums(tmp_path, names=NAMES)
    liar.late = ()
    return liar


def led(liar, *sessions, habits=None, **rules):
    """Lead the sessions; all sites have these rules."""
    habits = habits or Habits(wait=0.0)
    return liar.lead(*sessions, habits=replace(habits, policy=Policy(**rules)))


def shown(liar, name):
    """The transcripts of a site, in which no fault was found."""
    found = examine(liar.home / name / "studies" / "default" / "secure")
    assert found.faults == ()
    return [one.transcript for one in found.whole]


def refused(liar, session, words, **rules):
    """Nobody says a share: all leave, for that reason, and have it in their transcripts."""
    led(liar, session, **rules)
    for name in session.names:
        assert set(said(session, name)) <= {Advert, Quit}
        assert session.heard[name][-1].reason == "PEERS"
        assert not list((liar.home / name / "vault").glob("secure-*"))
        (ended,) = shown(liar, name)
        assert ended.outcome == "given up" and words in ended.reason


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ({"peers": ("ann", "bob", "c*")}, "not among the peers of the site's policy"),
        ({"organisations": ("Inserm",)}, "nobody else in the sum speaks for Inserm"),
    ],
)
def test_a_sum_with_others_than_the_policy_has_is_left_before_a_share_is_said(rules, words, liar):
    refused(liar, Session(NAMES), words, **rules)


def test_a_sum_of_too_few_is_declined_before_anything_is_begun_for_it(liar):
    session = Session(NAMES[:4])
    led(liar, session, least_peers=4)
    for name in session.names:
        assert said(session, name) == []
        decline = liar.sites[name].of(Decline)[0]
        assert "4 clients would be in the secure sum of round 1" in decline.text
        assert "asks for 4 beside this one" in decline.text
        assert entries(liar, name, "task") == []


def floors():
    """Plans of everybody that open no sum of fewer than five, each for another reason."""
    masked = pipeline.SecureSum(dropout=0.0)
    noise = pipeline.DiscreteNoise(4.0, clients=5)
    plain = {"weighting": "equal", "cap": None, "rounds": 5}
    shares = plan_of(secure=masked, minimum=5, aggregation=aggregation.Mean("expected"), **plain)
    return {
        "SecureSum(minimum)": plan_of(secure=pipeline.SecureSum(minimum=5, dropout=0.0), **plain),
        "Plan(minimum)": plan_of(secure=masked, minimum=5, **plain),
        "noise in shares": replace(shares, pipeline=(*shares.pipeline[:2], noise, shares.secure)),
    }


@pytest.mark.parametrize("why", floors())
def test_a_plan_of_everybody_states_the_fewest_that_a_site_is_summed_with(why, tmp_path):
    """The server invites four, three of them its own: no site begins anything for it."""
    liar = Sums(tmp_path, names=NAMES, plan=floors()[why])
    session = Session(NAMES[:4], side=iter(()))
    liar.lead(session)
    for name in session.names:
        assert said(session, name) == []
        assert entries(liar, name, "task") == []
        decline = liar.sites[name].of(Decline)[0]
        assert "4 clients were invited and at least 5 are required" in decline.text
        assert list((liar.home / name / "vault").glob("*secure*")) == []


@pytest.mark.parametrize("why", floors())
def test_a_server_that_says_five_and_shows_four_gets_no_share(why, tmp_path):
    """It tells each site that five take part, and hands out a roster of four."""
    liar = Sums(tmp_path, names=NAMES, plan=floors()[why])

    def terms(real):
        lied = replace(real, minimum=3, colluders=1)
        vars(lied)["context"] = real.context  # what is signed is what the sites sign
        return lied

    liar.terms = terms
    session = Session(NAMES[:4], most=math.inf, asked={"peers": 5})
    liar.lead(session)
    for name in session.names:
        assert said(session, name) == [Advert, Quit]
        assert session.heard[name][-1].reason == "COHORT"
        (ended,) = shown(liar, name)
        assert "4 clients take part; 5 to 5 are required" in ended.reason
        assert ended.terms["colluders"] == 1, "by the plan, of five"


@pytest.mark.parametrize(
    ("kind", "words"), [(Shares, {Advert, Shares}), (MaskedVector, {MaskedVector})]
)
def test_a_server_that_lets_peers_fall_out_gets_nothing_that_opens_the_sum(kind, words, liar):
    """It says that one was silent when the shares, or the masked vectors, were due."""
    liar.deaf = kind, frozenset({"fay"})
    session = Session(NAMES, most=200)
    led(liar, session, least_peers=5)
    heard = {kind for name in NAMES for kind in said(session, name)}
    assert words <= heard and not heard & {Consent, Revealed}
    (ended,) = shown(liar, "ann")
    assert "asks for 5" in ended.reason


def test_who_falls_silent_costs_no_sum_that_the_policy_allows(liar):
    liar.deaf = MaskedVector, frozenset({"fay"})
    session = Session(NAMES, most=math.inf)
    led(liar, session, least_peers=4)
    assert isinstance(session.found, Sum) and "fay" not in session.found.survivors


# -- rings: a mask is shared with neighbours alone, and a sum holds everybody -------------------

CROWD = tuple(f"s{i:02}" for i in range(24))
RING = pipeline.SecureSum(corrupt=0.05, dropout=0.0)


def ring_of(home, names=CROWD, **more):
    """Sites whose sums are rings in which each has two neighbours."""
    liar = Sums(home, names=names, plan=plan_of(rounds=5, secure=RING, **more))
    liar.late = ()
    return liar


def spoken(session):
    """The kinds of all that anybody said."""
    return {kind for name in session.names for kind in said(session, name)}


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ({"peers": CROWD[:-1]}, "s23 (s23) is in the sum and not among the peers"),
        ({"organisations": ("Inserm",)}, "nobody else in the sum speaks for Inserm"),
    ],
)
def test_a_stranger_anywhere_in_a_ring_is_seen_before_a_share_is_said(
    rules, words, rings, tmp_path
):
    """Two of the 24 stand beside it; what the others' rules ask for is asked of all."""
    liar = ring_of(tmp_path)
    session = Session(CROWD)
    led(liar, session, **rules)
    for name in CROWD[:-1]:
        assert set(said(session, name)) <= {Advert, Quit}
        (ended,) = shown(liar, name)
        assert ended.outcome == "given up" and words in ended.reason
        assert liar.sites[name].of(Decline) == []


def test_rules_in_a_ring_are_met_by_all_of_its_roster(rings, tmp_path):
    """Each has two neighbours, and `least_peers` is of the sum."""
    liar = ring_of(tmp_path)
    session = Session(CROWD, most=math.inf)
    led(liar, session, least_peers=23, peers=CROWD)
    assert isinstance(session.found, Sum) and session.found.survivors == CROWD
    (made,) = shown(liar, "s00")
    assert [peer.name for peer in made.roster] == list(CROWD)
    assert dict(made.left) == dict.fromkeys(("share", "mask", "consent"), CROWD)
    assert dict(made.counts) == dict.fromkeys(("share", "mask", "consent"), 24)


def test_without_rules_a_ring_shows_whom_a_site_has_verified_and_of_how_many(rings, tmp_path):
    liar = ring_of(tmp_path)
    session = Session(CROWD, most=math.inf)
    led(liar, session)
    assert isinstance(session.found, Sum)
    (made,) = shown(liar, "s00")
    assert len(made.roster) == 3 and dict(made.counts)["share"] == 24
    first = entries(liar, "s00", "secure sum with")[0]
    assert len(first["peers"]) == 3 and first["clients"] == 24


# -- charges: what is refused for who is there is not in the ledger -----------------------------

BUDGET = {"budget_epsilon": 500.0, "budget_delta": 1e-3}


def noised(secure, **more):
    """Plans whose clients add noise in shares, which a site's ledger charges."""
    plan = plan_of(rounds=5, secure=secure, weighting="equal", cap=None, minimum=4, **more)
    stages = (*plan.pipeline[:2], pipeline.DiscreteNoise(4.0, clients=4), plan.secure)
    return replace(
        plan,
        pipeline=stages,
        aggregation=aggregation.Mean("expected"),
        budget=privacy.Budget(500.0, 1e-3),
    )


def charged(liar, name):
    """The rounds in the ledger of a site."""
    path = liar.home / name / "studies" / "default" / "privacy.json"
    return [entry.round for entry in LedgerFile(path).read(1e-3).entries]


def stranger(liar, session):
    return {"peers": session.names[:-1]}


def absent(liar, session):
    return {"organisations": ("Inserm",)}


def lagging(liar, session):
    (liar.home / "ann" / "revoked.pem").write_text(revoked(liar, "zoe"))
    return {}


@pytest.mark.parametrize("why", [stranger, absent, lagging])
def test_no_charge_stands_for_a_sum_that_is_left_for_who_is_there(why, tmp_path):
    """The roster comes when the update is made: what it is charged for leaves with its mask."""
    liar = Sums(tmp_path, names=(*NAMES, "zoe"), plan=noised(pipeline.SecureSum(dropout=0.0)))
    session = Session(NAMES)
    rules = why(liar, session)
    led(liar, session, **BUDGET, **rules)
    assert MaskedVector not in said(session, "ann")
    assert {Shares, MaskedVector}.isdisjoint(said(session, "ann"))
    assert charged(liar, "ann") == []


def test_a_word_about_rows_is_charged_also_where_it_is_that_training_failed(tmp_path):
    """Ann gets the model of another plan; bob is told of it, and nobody hands it out to him."""
    liar = Sums(tmp_path, names=NAMES, plan=noised(pipeline.SecureSum(dropout=0.0)))
    other = liar.sites["ann"].publish_of(plan_of(layers=(4, 7, 3)))
    honest, seen = liar.handle, []

    def handle(name, request):
        if request.url.path == "/v1/answers" and name == "ann":
            seen.append(charged(liar, name))
        return honest(name, request)

    liar.handle = handle
    led(liar, Session(NAMES, asked={"model": other}), **BUDGET)
    failed = liar.sites["ann"].of(TrainingFailure)
    assert failed and seen[0] == [1]
    assert charged(liar, "bob") == []


def test_a_charge_is_in_the_ledger_before_the_masked_vector_leaves(tmp_path):
    """And stays there where the sum is given up afterwards: others may open it."""
    liar = Sums(tmp_path, names=NAMES, plan=noised(pipeline.SecureSum(dropout=0.0)))
    liar.deaf = MaskedVector, frozenset({"fay"})
    seen, honest = {}, liar.handle

    def handle(name, request):
        if request.method == "POST" and request.url.path.startswith("/v1/secure/"):
            seen.setdefault((name, request.content[4]), charged(liar, name))
        return honest(name, request)

    liar.handle = handle
    led(liar, session := Session(NAMES, most=200), **BUDGET, least_peers=5)
    assert seen["ann", Shares.kind] == [] and seen["ann", MaskedVector.kind] == [1]
    assert not {Consent, Revealed} & spoken(session)
    assert charged(liar, "ann") == [1]


@pytest.mark.parametrize(
    ("label", "before"),
    [("site: share is said", []), ("site: before mask is kept", [1]), ("site: mask is said", [1])],
)
def test_a_kill_around_the_charge_leaves_one_charge(label, before, tmp_path):
    liar = Sums(tmp_path, names=NAMES, plan=noised(pipeline.SecureSum(dropout=0.0)))
    liar.late = ()

    def at(passed):
        if passed == label:
            raise Killed

    liar.at = {"ann": at}
    session = Session(NAMES, most=math.inf)
    with pytest.raises(Killed):
        led(liar, session, **BUDGET)
    assert charged(liar, "ann") == before
    liar.at = {}
    led(liar, session, **BUDGET)
    assert isinstance(session.found, Sum) and charged(liar, "ann") == [1]


def test_a_budget_that_is_spent_is_asked_before_anything_is_begun(tmp_path):
    liar = Sums(tmp_path, names=NAMES, plan=noised(pipeline.SecureSum(dropout=0.0)))
    session = Session(NAMES)
    led(liar, session, budget_epsilon=1e-3, budget_delta=1e-3)
    for name in NAMES:
        assert said(session, name) == [] and entries(liar, name, "task") == []
        assert "budget of privacy" in liar.sites[name].of(Decline)[0].text
        assert charged(liar, name) == []


def revoked(liar, name):
    """The authority takes a certificate back, and every site but that one has heard of it."""
    pki.revoke(liar.home / "authority", name, "compromised", NOW)
    return (liar.home / "authority" / "revoked.pem").read_text()


def test_a_member_that_was_revoked_is_in_no_sum_though_the_server_invites_it(liar):
    listed = revoked(liar, "fay")
    liar.executor = lambda name, found: replace(found, revoked=listed)
    session = Session(NAMES)
    led(liar, session)
    for name in NAMES:
        assert set(said(session, name)) == {Advert, Quit}
    (ended,) = shown(liar, "ann")
    assert ended.revoked == 1 and ended.outcome == "given up"


@pytest.mark.parametrize("lapse", ["revoked", "ended"])
@pytest.mark.parametrize(("step", "next_"), [("advertise", Shares), ("consent", Revealed)])
def test_a_certificate_that_counts_no_more_costs_that_sum_and_is_no_failure(
    step, next_, lapse, liar
):
    """It is revoked, or ends, between two steps; who leaves for that says so, and has not failed.

    Ann alone has heard of it here. What a server makes of it:
    `test_a_site_that_leaves_for_who_is_there_has_not_failed`.
    """

    def at(passed):
        if passed != f"site: {step} is said":
            return
        if lapse == "ended":
            liar.days["ann"] = 500
        else:
            (liar.home / "ann" / "revoked.pem").write_text(revoked(liar, "fay"))

    liar.at = {"ann": at}
    session = Session(NAMES, most=math.inf)
    led(liar, session)
    heard = said(session, "ann")
    assert next_ not in heard and heard[-1] is Quit
    first = next(one for one in session.heard["ann"] if isinstance(one, Quit))
    assert first.reason == "PEERS" and isinstance(session.found, Sum)
    if lapse == "revoked":
        (ended,) = shown(liar, "ann")
        assert "of 'fay' is revoked" in ended.reason


def test_a_server_whose_list_of_the_revoked_lags_makes_no_sum(liar):
    listed = revoked(liar, "fay")
    (liar.home / "ann" / "revoked.pem").write_text(listed)
    session = Session(NAMES[:5], most=math.inf)
    led(liar, session)
    assert set(said(session, "ann")) == {Quit}
    (ended,) = shown(liar, "ann")
    assert "the server's revocation list has the number 0" in ended.reason


def rekeyed(liar, name):
    """The authority certifies another key under a name, and whoever has it attends so; the key."""
    home = liar.home / name
    asked, key = pki.renew(home)
    grant = pki.Grant("https://hub:8443", "site")
    done = pki.approve(
        liar.home / "authority", asked, grant, NOW, renewal=True, out=home / "b.json"
    )
    pki.accept(done.bundle, home, NOW)
    (home / "b.json").unlink()
    return key


def key_of(liar, name):
    return pki.fingerprint(certificate(liar.home, name).encode())


def test_an_authority_that_certifies_its_own_key_under_a_peers_name_is_not_that_peer(liar):
    """By its name alone it is; by the key that the policy has for the name it is not."""
    keyed = tuple(f"{name}={key_of(liar, name)}" for name in NAMES)
    mine = rekeyed(liar, "bob")
    led(liar, session := Session(NAMES), peers=keyed)
    for name in {*NAMES} - {"bob"}:
        assert set(said(session, name)) == {Advert, Quit}
        assert session.heard[name][-1].reason == "PEERS"
        (ended,) = shown(liar, name)
        assert f"bob is in the sum with the key {mine}" in ended.reason


def test_a_peer_of_the_policy_is_known_by_its_key(liar):
    keyed = tuple(f"{name}={key_of(liar, name)}" for name in NAMES)
    led(liar, session := Session(NAMES, most=math.inf), peers=keyed)
    assert isinstance(session.found, Sum) and session.found.survivors == NAMES


def test_a_peer_may_stand_with_the_key_before_its_renewal_and_the_one_after_it(liar):
    keyed = [f"{name}={key_of(liar, name)}" for name in NAMES]
    keyed.append(f"bob={rekeyed(liar, 'bob')}")
    led(liar, session := Session(NAMES, most=math.inf), peers=tuple(keyed))
    assert isinstance(session.found, Sum) and session.found.survivors == NAMES


def test_a_peer_that_comes_with_another_key_is_in_the_log_before_a_share_is_said(liar):
    """It may be a renewal: the sum goes on, and nobody has to look for what has changed."""
    before, told, when = key_of(liar, "bob"), [], []
    liar.settles = {1: (1, True)}
    led(liar, Session(NAMES, most=math.inf), habits=Habits(wait=0.0, watch=told.append))
    assert entries(liar, "ann", "peer keys changed") == []
    key = rekeyed(liar, "bob")
    honest = liar.handle

    def handle(name, request):
        said = request.method == "POST" and request.url.path.startswith("/v1/secure/")
        if said and name == "ann" and request.content[4] == Shares.kind:
            when.append(len(entries(liar, "ann", "peer keys changed")))
        return honest(name, request)

    liar.handle = handle
    liar.settles = {}
    again = Session(NAMES, round=2, most=math.inf)
    led(liar, again, habits=Habits(wait=0.0, watch=told.append))
    assert isinstance(again.found, Sum) and when == [1]
    (changed,) = entries(liar, "ann", "peer keys changed")
    assert changed == {
        "round": 2,
        "count": 1,
        "peers": [{"name": "bob", "key": key, "before": before}],
    }
    assert any("bob has another key than before" in event.get("text", "") for event in told)
    found = examine(liar.home / "ann" / "studies" / "default" / "secure")
    assert [(one.number, one.name, one.key, one.before) for one in found.key_changes] == [
        (2, "bob", key, before)
    ]
    assert entries(liar, "bob", "peer keys changed") == [], "its own it knows"


def test_certificates_of_another_authority_make_no_sum(liar):
    strange = certificate(identities(liar.home / "other", ("fay",)), "fay")
    liar.executor = lambda name, found: replace(
        found, certificates={**found.certificates, "fay": strange}
    )
    session = Session(NAMES)
    led(liar, session)
    for name in NAMES[:-1]:
        assert set(said(session, name)) == {Advert, Quit}, "fay's own certificate is its own"


def test_no_certificate_that_is_handed_out_stands_for_this_site(liar):
    """A site knows its own; the server hands it another one of its name."""
    other = certificate(liar.home, renewed(liar.home, "ann").name)
    liar.executor = lambda name, found: (
        replace(found, certificates={**found.certificates, "ann": other})
        if name == "ann"
        else found
    )
    session = Session(NAMES, most=math.inf)
    led(liar, session)
    assert isinstance(session.found, Sum) and "ann" in session.found.survivors


def test_whom_it_is_with_is_in_the_log_before_shares_and_before_the_masked_vector(liar):
    before = {}
    honest = liar.handle

    def handle(name, request):
        if request.method == "POST" and request.url.path.startswith("/v1/secure/"):
            steps = [entry["step"] for entry in entries(liar, name, "secure sum with")]
            before.setdefault((name, request.content[4]), steps)
        return honest(name, request)

    liar.handle = handle
    led(liar, Session(NAMES, most=math.inf))
    assert before["ann", Shares.kind] == ["share"]
    assert before["ann", MaskedVector.kind] == ["share", "mask"]
    assert before["ann", Consent.kind] == ["share", "mask", "consent"]
    (first, *_) = entries(liar, "ann", "secure sum with")
    assert first["peers"] == [{"name": name, "organisation": name} for name in NAMES]


def test_each_session_leaves_a_transcript_that_the_audit_log_names(liar):
    liar.deaf = MaskedVector, frozenset({"fay"})
    session = Session(NAMES, most=math.inf)
    led(liar, session)
    (made,) = shown(liar, "ann")
    assert (made.study, made.run, made.round, made.attempt) == ("default", "r1", 1, 1)
    assert (made.outcome, made.reason) == ("opened", "")
    assert [peer.name for peer in made.roster] == list(NAMES)
    assert dict(made.left) == {"share": NAMES, "mask": NAMES, "consent": NAMES[:5]}
    assert made.terms["cohort"] == 6 and made.terms["minimum"] == 3
    (noted,) = entries(liar, "ann", "transcript")
    whole = examine(liar.home / "ann" / "studies" / "default" / "secure").whole[0]
    assert (noted["number"], noted["digest"]) == (1, whole.file_digest)


@pytest.mark.parametrize(
    "label",
    [
        "site: share is said",
        "site: mask is said",
        "site: before secrets are destroyed",
        "site: transcript is written",
        "site: session is over",
        "site: secrets are destroyed",
    ],
)
def test_a_kill_around_the_transcript_leaves_one_whole_transcript(label, liar):
    left = [True]

    def at(passed):
        if passed == label and left:
            left.clear()
            raise Killed

    liar.at = {"ann": at}
    session = Session(NAMES, most=math.inf)
    with pytest.raises(Killed):
        led(liar, session)
    liar.at = {}
    liar.settles = {1: (1, True)}
    led(liar, session)
    (made,) = shown(liar, "ann")
    assert made.outcome == "opened" and made.terms["cohort"] == 6
    assert dict(made.left) == dict.fromkeys(("share", "mask", "consent"), NAMES)


def test_a_session_whose_secrets_expire_leaves_a_transcript_too(liar):
    clock = Clock()
    clock.now = NOW.timestamp()
    habits = Habits(wait=0.0, wall=clock)

    def at(passed):
        if passed == "site: mask is said":
            raise Killed

    liar.at = {"ann": at}
    with pytest.raises(Killed):
        led(liar, Session(NAMES, most=math.inf), habits=habits)
    liar.at = {}
    clock.now += 3600 * HOURS
    led(liar, Session(NAMES), habits=habits)
    (made,) = shown(liar, "ann")
    assert made.outcome == "given up" and "24 hours" in made.reason
    assert made.ended - made.began == (made.ended - made.began).__class__(hours=HOURS)


def test_a_session_that_is_open_when_the_run_ends_leaves_a_transcript_too(liar):
    liar.late = MaskedVector
    led(liar, Session(NAMES))
    (made,) = shown(liar, "ann")
    assert (made.outcome, made.reason) == ("given up", "the run has ended")


def test_a_server_that_says_that_a_sum_is_open_has_no_site_sign_that_it_is(liar):
    """It tells the fate of a round in which the site has masked nothing yet."""
    liar.late, liar.settles = Advert, {1: (1, True)}
    led(liar, Session(NAMES))
    (made,) = shown(liar, "ann")
    assert made.outcome == "given up"
    assert made.reason == "the server says that its update counts, and this site has masked none"


def test_a_folder_of_transcripts_that_was_altered_keeps_no_secret_alive(liar):
    place = liar.home / "ann" / "studies" / "default" / "secure"
    place.mkdir(parents=True)
    (place / "head.json").write_text("{}")
    session = Session(NAMES, most=math.inf)
    led(liar, session)
    assert isinstance(session.found, Sum)
    assert not list((liar.home / "ann" / "vault").glob("secure-*"))
    (lost,) = entries(liar, "ann", "transcript lost")
    assert "move the folder away" in lost["text"]


def test_a_roster_may_lack_whom_a_sum_may_lose(tmp_path):
    """Told of five, of whom one may be lost and one collude: a sum of four has three honest."""
    liar = Sums(tmp_path, names=NAMES)
    liar.late = ()
    session = Session(NAMES[:4], most=math.inf, asked={"peers": 5})
    liar.lead(session)
    assert isinstance(session.found, Sum)
    for name in session.names:
        assert Shares in said(session, name)
        (ended,) = shown(liar, name)
        cohort, *odds = (ended.terms[key] for key in ("cohort", "colluders", "losses"))
        graph = graph_of(4, Odds(*odds), bytes(32), cohort)
        assert (cohort, graph.threshold, graph.honest) == (5, 4, 3)
