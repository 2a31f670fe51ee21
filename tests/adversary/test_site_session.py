# SPDX-License-Identifier: Apache-2.0
"""One secure sum for an assignment, for ever: no site gives the same vector to two of them.

The attack: session 1 is played to its last message, which is then refused as late; the same task,
with one peer less, begins session 2 without the victim. The same vectors are in both sums, so their
difference is the victim's, bit for bit, without a colluder and for one charge.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
from tests.adversary.sums import Session, Sums
from tests.federation.coordinator.masked import plan_of
from tests.federation.site.scene import Killed

from muster import aggregation, pipeline, privacy
from muster.federation.protocol.codec_tensors import decode
from muster.federation.protocol.message import Decline
from muster.federation.protocol.template import update_template
from muster.federation.site.policy import Policy
from muster.federation.site.trainer import Habits
from muster.privacy.book import LedgerFile
from muster.secagg import Sum
from muster.secagg.messages import Advert, Compared, Consent, MaskedVector, Quit, Revealed, Shares

SPOKEN = [Advert, Shares, Compared, MaskedVector, Consent, Revealed]


@pytest.fixture
def liar(tmp_path):
    return Sums(tmp_path)


def vector(liar, name):
    """The numbers that a site's update puts into a sum."""
    (path,) = (liar.home / name / "vault").glob("update-*")
    tree = decode(path.read_bytes(), update_template(liar.plan))
    fields = {key: np.asarray(part) for key, part in tree["payload"].items()}
    weight = int(liar.plan.weights(np.array([len(liar.people[name][0])]), (1,))[0])
    return liar.plan.frame.flatten(fields, weight).astype(np.int64)


def said(session, name):
    """The kinds of messages that a site said in a session."""
    return [type(message) for message in session.heard[name]]


def test_a_session_that_is_refused_at_its_end_is_followed_by_no_other(liar):
    one, two = Session(liar.names, most=math.inf), Session(liar.names[:-1], most=400)
    liar.lead(one, two)
    assert isinstance(one.found, Sum) and not isinstance(two.found, Sum)
    assert (
        one.found.total.astype(np.int64).tolist()
        == sum(vector(liar, name) for name in liar.names).tolist()
    ), "the first sum was real"
    for name in two.names:
        words = set(said(two, name)) - {Quit}
        assert words <= {Revealed}, "of the first session, at most: not a word of a second"
        decline = liar.sites[name].of(Decline)[0]
        assert "begun with another peers" in decline.text


CHANGED = {
    "a peer less": ({}, -1),
    "another number of peers": ({"peers": 4}, None),
    "another model": ({"model": ""}, None),
    "drawn twice": ({"times": 2}, None),
    "nothing": ({}, None),
}


@pytest.mark.parametrize("late", SPOKEN)
@pytest.mark.parametrize("what", CHANGED)
def test_whatever_is_changed_and_whenever_it_is_cut_a_site_says_one_thing(what, late, liar):
    """Each kind of message was said once, or twice with the same bytes."""
    asked, names = CHANGED[what]
    if "model" in asked:
        other = replace(liar.plan, seed=9)
        asked = {"model": {site.publish_of(other) for site in liar.sites.values()}.pop()}
    liar.late = late
    one = Session(liar.names)
    two = Session(liar.names[:names], asked=asked)
    liar.lead(one, two)
    for name in liar.names:
        by_kind = {}
        for message in [*one.heard[name], *two.heard[name]]:
            by_kind.setdefault(type(message), set()).add(message.to_bytes())
        assert all(len(told) == 1 for kind, told in by_kind.items() if kind is not Quit)
    assert not isinstance(two.found, Sum) or what == "nothing"


def test_an_abandoned_round_is_followed_by_a_new_one_with_a_new_charge(tmp_path):
    """On the same model; secrets, rounding and noise are others."""
    stages = [
        pipeline.Clip(1.0),
        pipeline.Quantize(12),
        pipeline.DiscreteNoise(4.0, 4),
        pipeline.SecureSum(),
    ]
    plan = replace(
        plan_of(rounds=5),
        pipeline=stages,
        minimum=4,
        weighting="equal",
        cap=None,
        aggregation=aggregation.Mean("expected"),
        budget=privacy.Budget(500.0, 1e-3),
    )
    liar = Sums(tmp_path, plan=plan)
    policy = Policy(budget_epsilon=500.0, budget_delta=1e-3)
    one = Session(liar.names, round=1, most=math.inf)
    again = Session(liar.names[:-1], round=1)
    two = Session(liar.names, round=2, most=math.inf)
    liar.settles = {2: (1, False)}
    liar.lead(one, again, two, habits=Habits(wait=0.0, policy=policy))
    for name in liar.names:
        entries = LedgerFile(tmp_path / name / "studies/default/privacy.json").read(1e-3).entries
        assert [entry.round for entry in entries] == [1, 2], "a charge for each session"
    assert isinstance(one.found, Sum) and isinstance(two.found, Sum)
    assert one.found.total.tolist() != two.found.total.tolist()


def test_an_update_that_was_damaged_in_a_session_has_no_second_one(liar):
    one = Session(liar.names)
    liar.lead(one)
    (path,) = (liar.home / "ann" / "vault").glob("update-*")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    again = Session(liar.names)
    liar.lead(again)
    assert set(said(again, "ann")) == {Quit}
    assert not list((liar.home / "ann" / "vault").glob("secure-*-key"))


@pytest.mark.parametrize("lost", ["the vault", "the secrets"])
def test_a_session_whose_secrets_are_gone_is_over(lost, liar):
    liar.late, liar.ends = Consent, False
    liar.lead(Session(liar.names))
    site_store = liar.home / "ann" / "vault"
    if lost == "the vault":
        site_store.rename(liar.home / "ann" / "lost")
    else:
        for path in site_store.glob("secure-*"):
            path.unlink()
    again = Session(liar.names)
    liar.lead(again)
    declined = liar.sites["ann"].of(Decline)
    if lost == "the vault":
        assert said(again, "ann") == [] and "secret of its noise is gone" in declined[0].text
    else:
        assert set(said(again, "ann")) == {Quit}
    assert set(said(again, "bob")) <= {*SPOKEN}, "the others go on"


@pytest.mark.parametrize("label", ["site: before session is opened", "site: session is opened"])
def test_a_kill_before_the_first_word_costs_nothing(label, liar):
    left = [True]

    def at(passed):
        if passed == label and left:
            left.clear()
            raise Killed

    liar.at, liar.late = {"ann": at}, ()
    with pytest.raises(Killed):
        liar.lead(Session(liar.names))
    liar.lead(session := Session(liar.names, most=math.inf))
    assert isinstance(session.found, Sum) and said(session, "ann") == SPOKEN


def test_a_session_is_in_the_record_before_its_first_word(liar):
    seen = []
    session = Session(liar.names, most=math.inf)
    honest = liar.handle

    def handle(name, request):
        if request.method == "POST" and request.url.path.startswith("/v1/secure/") and not seen:
            seen.append(liar.begun(name, session))
        return honest(name, request)

    liar.handle = handle
    liar.lead(session)
    assert seen[0].session is not None and not seen[0].session.over


def test_a_round_that_was_masked_is_masked_no_second_time_under_another_attempt(tmp_path):
    """The server opens the sum of five, tells nobody its fate, and says that it went back.

    The same round over the same model without eve: the difference of the sums is eve's update.
    """
    liar = Sums(tmp_path)
    liar.late, liar.ends = (), False  # else the sites hear the end of the run, and forget
    habits = Habits(wait=0.0, policy=Policy(repeated_rounds=1))
    first = Session(liar.names, most=math.inf)
    liar.lead(first, habits=habits)
    assert len(first.found.survivors) == 5
    second = Session(liar.names[:4], most=400, asked={"attempt": 2})
    liar.terms = lambda terms: replace(terms, attempt=2)
    liar.lead(second, habits=habits)
    for name in second.names:
        assert set(said(second, name)) <= {Revealed, Quit}, "not a word of a second session"
        assert "was masked here under another attempt" in liar.sites[name].of(Decline)[0].text


def test_a_round_of_which_nothing_was_masked_is_the_sites_to_allow_again(tmp_path):
    """All left before a masked vector was due, so no sum of the first attempt holds anybody."""
    liar = Sums(tmp_path)
    liar.late, liar.ends = Compared, False
    habits = Habits(wait=0.0, policy=Policy(repeated_rounds=1))
    first = Session(liar.names)
    liar.lead(first, habits=habits)
    assert MaskedVector not in {kind for name in liar.names for kind in said(first, name)}
    liar.late = ()
    second = Session(liar.names, most=math.inf, asked={"attempt": 2})
    liar.terms = lambda terms: replace(terms, attempt=2)
    liar.lead(second, habits=habits)
    assert isinstance(second.found, Sum)
