# SPDX-License-Identifier: Apache-2.0
"""A site's ledger read back is what was charged, and what it affords is what the budget grants."""

import json
import math
import shutil
from dataclasses import replace

import pytest
from tests.adversary.sums import Session, Sums
from tests.federation.coordinator.masked import plan_of

from muster import Every, Local, PerExample, Plan, algorithms, pipeline, tasks
from muster.aggregation import Mean
from muster.errors import MusterError, RunError
from muster.federation.protocol.message import TrainAssignment
from muster.federation.site import joined
from muster.federation.site.peers import PeerRules
from muster.federation.site.policy import Policy
from muster.federation.site.secrets import SiteSecrets
from muster.federation.site.store import SiteStore
from muster.federation.site.study import STUDIES, StudyRecord
from muster.federation.site.trainer import Habits
from muster.privacy import Charge, Release, promise, spent
from muster.privacy.statement import rounded_up
from muster.runs.privacy.site import accounts, peers_of, studies
from muster.secagg import Sum, messages

LOCAL = Local(epochs=2, batch=4, examples=PerExample(1.0, 2.0))
RULES = Policy(budget_epsilon=6.0, budget_delta=1e-4)
ROWS = 20


def plan(local=LOCAL, *stages):
    return Plan(
        task=tasks.numpy.SoftmaxRegression(4, 3),
        algorithm=algorithms.FedAvg(),
        local=local,
        pipeline=stages,
        weighting="equal",
        evaluate=Every(clients=0),
    )


def trained(home, rounds, given=None, policy=RULES, run="r", site_store="vault-1"):
    """So many rounds at a site with this home; how many its budget let pass."""
    kept, study = (
        SiteStore(home / site_store),
        StudyRecord(home / STUDIES / policy.study, policy.study),
    )
    kept.enter(run, "a")
    try:
        site = SiteSecrets(given or plan(), policy, kept, study, ROWS, lambda n: bytes(n))
        site.joined()
        tasks_ = [TrainAssignment(run, round, "a" * 64, 15.0) for round in range(1, rounds + 1)]
        return sum(site.charge(task) is None for task in tasks_)
    finally:
        kept.close()
        study.close()


def test_what_was_charged_is_read_back_from_an_identity_or_a_study(tmp_path):
    trained(tmp_path / "lyon", 3)
    for folder in ("lyon", "lyon/studies", "lyon/studies/default"):
        (found,) = accounts(tmp_path / folder)
        assert found.budget.epsilon == 6.0
        assert found.ledger.epsilon == promise(LOCAL, ROWS, 3, 1e-4).epsilon
        assert found.left == 6.0 - found.ledger.epsilon
        (part,) = found.parts
        assert part == ("r", 3, 1, 3, found.ledger.epsilon)
        assert found.unit.startswith("one row of this site")


def test_what_is_left_is_what_the_budget_grants(tmp_path):
    trained(tmp_path, 2)
    (before,) = accounts(tmp_path)
    assert trained(tmp_path, 50) == 2 + before.more
    (after,) = accounts(tmp_path)
    assert after.more == 0
    assert after.ledger.epsilon <= 6.0


def test_runs_of_a_study_share_a_ledger_whatever_their_vaults(tmp_path):
    trained(tmp_path, 2, run="one")
    trained(tmp_path, 1, run="two", site_store="vault-2")
    (found,) = accounts(tmp_path)
    assert found.path == tmp_path / "studies/default/privacy.json"
    one, two = found.parts
    assert (one.run, one.trainings, two.run, two.trainings) == ("one", 2, "two", 1)
    assert one.epsilon == promise(LOCAL, ROWS, 2, 1e-4).epsilon
    assert two.epsilon < one.epsilon < found.ledger.epsilon
    (again,) = accounts(tmp_path, RULES)
    assert again == found


def test_each_study_has_its_own_ledger(tmp_path):
    for number, name in enumerate(("hearts", "lungs"), 1):
        trained(tmp_path, number, policy=replace(RULES, study=name), site_store=name)
    assert [found.parts[0].trainings for found in accounts(tmp_path)] == [1, 2]
    (lungs,) = accounts(tmp_path, replace(RULES, study="lungs"))
    assert lungs.path.parent.name == "lungs"
    with pytest.raises(RunError, match="no ledger of privacy is in the study 'default' in"):
        accounts(tmp_path, RULES)


def test_noise_on_the_update_is_about_the_site_as_a_whole(tmp_path):
    local = Local(epochs=1, batch=4)
    stages = (pipeline.Clip(1.0), pipeline.LocalNoise(3.0, 1e-5))
    rules = replace(RULES, budget_epsilon=60.0, clip=0.5, noise=9.0)
    trained(tmp_path, 2, plan(local, *stages), rules)
    (found,) = accounts(tmp_path)
    assert found.unit.startswith("all rows of this site together")
    assert found.parts[0].trainings == 2, "a training with two mechanisms is one"
    assert len(found.ledger.entries) == 4
    once = [e.charge for e in found.ledger.entries[:2]]
    more = [replace(c, rounds=found.more) for c in once]
    assert spent([*found.ledger.charges, *more], 1e-4).epsilon <= 60.0
    more = [replace(c, rounds=found.more + 1) for c in once]
    assert spent([*found.ledger.charges, *more], 1e-4).epsilon > 60.0


def test_another_policy_says_another_budget(tmp_path):
    trained(tmp_path, 2)
    (found,) = accounts(tmp_path, replace(RULES, budget_epsilon=99.0))
    assert found.budget.epsilon == 99.0
    with pytest.raises(RunError, match=r"counts at delta 0.0001 and the budget at .* budget_delta"):
        accounts(tmp_path, replace(RULES, budget_delta=1e-6))


def test_a_site_that_has_not_trained_yet(tmp_path):
    trained(tmp_path, 0)
    (found,) = accounts(tmp_path)
    assert (found.parts, found.more, found.left) == ([], None, 6.0)


def test_a_ledger_without_a_note_has_no_known_budget(tmp_path):
    trained(tmp_path, 1)
    (tmp_path / "studies/default/budget.json").unlink()
    (found,) = accounts(tmp_path)
    assert (found.budget, found.left, found.more) == (None, None, None)
    assert found.parts[0].trainings == 1


def test_what_is_no_ledger_is_refused(tmp_path):
    with pytest.raises(RunError, match="is no folder; give a site's identity, or the folder of"):
        accounts(tmp_path / "nowhere")
    with pytest.raises(RunError, match=r"no ledger of privacy is in .* budget_epsilon and"):
        accounts(tmp_path)
    trained(tmp_path, 1)
    study = tmp_path / "studies/default"
    (study / "budget.json").write_text("{")
    with pytest.raises(RunError, match=r"budget.json cannot be read .* --policy site.toml"):
        accounts(tmp_path)
    (study / "budget.json").unlink()
    (study / "privacy.json").write_text("[]")
    with pytest.raises(MusterError, match="this is no privacy ledger"):
        accounts(tmp_path)


def test_charges_are_of_the_field(tmp_path):
    """A ledger that was written by hand, so that nothing of the writer is taken on trust."""
    charge = Charge(Release("gaussian", 5.0, 1.0), rounds=4, run="r/1/model/secret")
    from muster.privacy import PrivacyLedger

    (tmp_path / "privacy.json").write_text(PrivacyLedger(1e-5).enter(7, charge).to_json())
    (tmp_path / "budget.json").write_text(json.dumps({"epsilon": 3.0, "delta": 1e-5}))
    (found,) = accounts(tmp_path)
    (part,) = found.parts
    assert (part.run, part.trainings, part.first, part.last) == ("r", 1, 7, 7)


MASKED = plan_of(rounds=5, secure=pipeline.SecureSum(minimum=4))


@pytest.fixture(scope="module")
def joined_home(tmp_path_factory):
    """Five real sites that were in one secure sum, of four, as the fifth fell silent."""
    liar = Sums(tmp_path_factory.mktemp("fed") / "fed", plan=MASKED)
    liar.late, liar.deaf = (), (messages.MaskedVector, frozenset({"eve"}))
    habits = Habits(wait=0.0, policy=Policy(least_peers=3))
    liar.lead(Session(liar.names, most=math.inf), habits=habits)
    return liar.home


def said(study, reader):
    (line,) = [one for one in study.threats if one.reader == reader]
    return f"{line.learns} | {line.rests_on}"


def test_who_learns_what_of_a_site_is_made_of_what_it_saw_itself(joined_home):
    """Of five, one of whom may collude, four open a sum: three of them are honest."""
    (study,) = studies(joined_home / "ann")
    assert (study.account, study.faults) == (None, ())
    assert "no content" in said(study, "the network")
    assert "sums of at least 3 honest clients" in said(study, "the server")
    assert "at most 1 of 5 clients work with it" in said(study, "the server")
    colluding = said(study, "the server with k clients")
    assert "needs k = 3 of its own" in colluding and "least_peers = 3 in its site.toml" in colluding
    assert "at least 3 of them in a sum" in said(study, "the authority")
    assert "neither plan nor policy has this site add any" in said(study, "a reader of the model")


def test_the_number_of_a_ring_is_that_which_a_site_was_shown(rings, tmp_path):
    """The server told it of 60, and showed it 24, of whom it verified its four neighbours."""
    names = tuple(f"s{i:02}" for i in range(24))
    given = plan_of(rounds=5, secure=pipeline.SecureSum(corrupt=0.05, dropout=0.0))
    for rules, verified in ((Policy(), 5), (Policy(least_peers=20), 24)):
        liar = Sums(tmp_path / str(verified), plan=given, names=names)
        liar.late = ()
        session = Session(names, most=math.inf, asked={"peers": 60})
        liar.lead(session, habits=Habits(wait=0.0, policy=rules))
        assert isinstance(session.found, Sum)
        (study,) = studies(liar.home / "s00")
        line = said(study, "the server")
        assert "of 24 clients work with it" in line and "60" not in line
        words = "24 are on the list that the server showed of a ring, and this site has verified 5"
        assert (words in line) == (verified == 5)
        assert "for 24 clients" in said(study, "the server with k clients")


def test_a_policy_is_asked_instead_of_that_it_joined_with(joined_home):
    rules = Policy(least_peers=20, peers=["bob", "cid"] + [f"p{i}" for i in range(20)])
    (study,) = studies(joined_home / "ann", rules)
    assert "needs k = 8 of the peers that site.toml names" in said(
        study, "the server with k clients"
    )
    with pytest.raises(RunError, match="the study 'other' in"):
        studies(joined_home / "ann", Policy(study="other"))


def test_transcripts_that_were_altered_are_said(joined_home, tmp_path):
    home = tmp_path / "ann"
    shutil.copytree(joined_home / "ann", home)
    (transcript,) = (home / STUDIES / "default" / "secure").glob("0*.json")
    transcript.write_bytes(transcript.read_bytes().replace(b'"cohort":5', b'"cohort":9'))
    (study,) = studies(home)
    assert study.threats == () and len(study.faults) == 1


def test_before_it_has_joined_and_before_the_first_sum_nothing_is_said(tmp_path):
    trained(tmp_path / "lyon", 1)
    (study,) = studies(tmp_path / "lyon")
    assert study.threats is None and study.account is not None
    joined.write(study.path, joined.Joined.of(MASKED, RULES, ROWS, plain=False))
    (study,) = studies(tmp_path / "lyon")
    assert study.threats == ()


NOISED = (pipeline.Clip(1.0), pipeline.Noise(1.0))


@pytest.mark.parametrize(
    ("given", "rounds", "words"),
    [
        (plan(), 3, "by its own ledger, this site's noise hides one row of this site"),
        (plan(), 0, "its ledger holds none"),
        (
            replace(plan(Local(epochs=1)), pipeline=NOISED, aggregation=Mean("expected")),
            0,
            "what the server adds is its word",
        ),
    ],
)
def test_what_a_site_can_claim_is_its_own_ledgers(given, rounds, words, tmp_path):
    home = tmp_path / "lyon"
    trained(home, rounds)
    kept = home / STUDIES / "default"
    joined.write(kept, joined.Joined.of(given, Policy(), ROWS, plain=True))
    (study,) = studies(home)
    assert words in said(study, "a reader of the model")
    assert "all that is sent" in said(study, "the network")
    if rounds:
        epsilon = rounded_up(study.account.ledger.epsilon)
        assert f"With epsilon {epsilon} at delta 0.0001" in said(study, "a reader of the model")
        assert "in which noise hides single rows" in said(study, "the server")


@pytest.mark.parametrize(
    ("peers", "named", "keyed"),
    [
        (None, False, False),
        (("lyon-*",), False, False),
        (("lyon", "bonn"), True, False),
        (("lyon=" + "ab" * 32, "bonn"), True, False),
        (("lyon=" + "ab" * 32, "bonn=" + "cd" * 32), True, True),
    ],
)
def test_a_table_knows_whether_every_peer_stands_with_its_key(peers, named, keyed):
    found = peers_of(PeerRules(peers=peers))
    assert (found.named, found.keyed) == (named, keyed)


SHARES = (pipeline.Clip(1.0), pipeline.Quantize(16), pipeline.DiscreteNoise(8.0, 4))


def dealt():
    """A plan with noise in shares of four, behind a mask."""
    return replace(
        plan(Local(epochs=1, batch=4)),
        pipeline=(*SHARES, pipeline.SecureSum()),
        minimum=4,
        aggregation=Mean("expected"),
    )


def test_an_epsilon_of_shares_says_what_it_takes_for_granted_and_what_it_is_without(tmp_path):
    home = tmp_path / "lyon"
    trained(home, 2, dealt())
    (found,) = accounts(home)
    assert (found.assumed.others, found.assumed.shares) == (2, 4)
    once = found.ledger.charges[0]
    own = replace(once, release=replace(once.release, known=3), rounds=2)
    assert found.alone == spent([own], 1e-4).epsilon > found.epsilon == found.ledger.epsilon
    local = plan(Local(epochs=1, batch=4), pipeline.Clip(1.0), pipeline.LocalNoise(3.0, 1e-5))
    joined.write(home / STUDIES / "default", joined.Joined.of(local, RULES, ROWS, plain=False))
    (study,) = studies(home)
    reader = said(study, "a reader of the model")
    assert f"With epsilon {rounded_up(found.epsilon)} at delta 0.0001" in reader
    assert "There it is assumed that of the 4 shares of noise in each sum 2 besides" in reader
    assert f"by this site's own share alone epsilon is {rounded_up(found.alone)}" in reader


def test_a_policy_of_own_shares_counts_all_of_a_ledger_so(tmp_path):
    home, own = tmp_path / "lyon", replace(RULES, own_share_only=True, budget_epsilon=2.0)
    trained(home, 1, dealt(), replace(RULES, budget_epsilon=2.0))
    (believed,) = accounts(home)
    (alone,) = accounts(home, own)
    assert alone.assumed is None and alone.epsilon == believed.alone > believed.epsilon
    assert alone.left == 2.0 - alone.epsilon < believed.left
    assert alone.parts[0].epsilon == alone.epsilon
    assert 1 + alone.more == trained(home, 99, dealt(), own) < 1 + believed.more
    (noted,) = accounts(home)
    assert noted.own and noted.more == 0, "the policy that it joined with says how to count"
    assert noted.epsilon <= 2.0
