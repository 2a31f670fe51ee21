# SPDX-License-Identifier: Apache-2.0
"""A run's threat table is made of what the run recorded, and of a site's rules."""

import pytest

from muster import Every, Local, PerExample, aggregation, pipeline
from muster.federation.site.peers import PeerRules
from muster.privacy.mask import Sums
from muster.privacy.threats import Peers
from muster.privacy.told import Disclosure, Keeps
from muster.runs import Run
from muster.runs.privacy.masked import mask_of
from muster.runs.privacy.site import peers_of
from muster.runs.privacy.threats import setting_of, table
from muster.sampling import All, Uniform

MASKED = (pipeline.Clip(1.0), pipeline.Quantize(12), pipeline.SecureSum())
SHARES = (*MASKED[:2], pipeline.DiscreteNoise(2.0, 4), pipeline.SecureSum())
EVERYBODY = All()
HIDDEN = {"weighting": "equal", "evaluate": Every(clients=0), "rounds": 2}


def test_without_masks_the_table_is_there_from_the_start(train):
    run = train("plain", rounds=1)
    setting = setting_of(run)
    assert (setting.carrier, setting.sums, setting.trust) == ("one machine", None, frozenset())
    assert "each client's update by itself" in table(run)[2].learns


def test_the_mask_is_that_of_the_sums_as_they_were_made(train):
    run = train("masked", pipeline=MASKED, **HIDDEN)
    (note,) = run.trained[0]["secure"]
    count = len(note["clients"])
    found = setting_of(Run(run.path))
    lost = note["losses"]
    assert found.sums == Sums(count, note["threshold"], note["honest"], count // 3, lost)
    assert not found.sums.ring and not found.told.rows


def test_the_worst_sum_counts(train):
    run = train("masked", pipeline=MASKED, **HIDDEN)
    run.trained[1]["secure"][0]["honest"] = 2
    assert setting_of(run).sums.honest == 2
    assert "sums of at least 2 honest clients" in table(run)[2].learns


def test_before_the_first_masked_sum_there_is_none(train):
    run = train("masked", pipeline=MASKED, **HIDDEN)
    run.history.clear()
    assert setting_of(run) is None and table(run) == ()


def test_noise_says_whom_it_is_kept_from(train):
    mean = aggregation.Mean("expected")
    run = train("shares", pipeline=SHARES, minimum=4, aggregation=mean, **HIDDEN)
    assert setting_of(run).trust == {"distributed"}
    assert "the noise of those k is counted as known" in table(run)[3].learns


def test_a_policy_has_its_say(train):
    run = train("masked", pipeline=MASKED, **HIDDEN)
    unknown, named = table(run)[4], table(run, Peers(3, names=4))[4]
    assert "rules of sites are not known here" in unknown.rests_on
    assert "keys of its own under the names that this site gives" in named.learns


def test_a_server_that_chooses_needs_more_where_plan_or_site_name_a_floor(train):
    """Ten clients, a third of whom may collude; a server that is bound by nothing invites three."""

    def own(name, peers=None, draw=EVERYBODY, **settings):
        stages = (*MASKED[:2], pipeline.SecureSum(dropout=0.0, **settings))
        run = train(name, pipeline=stages, sampling=draw, **HIDDEN)
        return setting_of(run, peers).own

    assert own("free") == 2
    assert own("floor", minimum=9) == 4
    ten = Uniform(count=10)
    assert own("drawn", draw=ten) == 4
    assert own("allowed", Peers(2), ten) == 2, "a site with a rule takes part in less than is drawn"
    assert own("asked", Peers(8), ten) == 4


def test_a_sites_rules_bind_who_is_in_the_roster_not_how_many_are_said_to_be_invited(train):
    """Of five with one who colludes four shares open a secret: three own ones tell two stories.

    Four of a site's rules, and five, are as many with it; a roster of four would need two own ones.
    """
    stages = (*MASKED[:2], pipeline.SecureSum(dropout=0.0))
    run = train("free", pipeline=stages, sampling=All(), **HIDDEN)

    def own(**rules):
        return setting_of(run, peers_of(PeerRules(**rules))).own

    assert own() == 2
    assert own(least_peers=4) == 3
    assert own(organisations=["A", "B", "C", "D"]) == 3
    assert own(organisations=["A", "B"], least_peers=2) == 2
    eight = [f"p{i}" for i in range(8)]
    assert own(least_peers=8) == 4, "ten are invited then, of whom four tell two stories"
    assert own(least_peers=8, peers=eight) == 5, "and with eight names there are nine"
    assert own(least_peers=8, peers=["p*"]) == 4


def test_the_floor_of_noise_in_shares_and_of_the_plan_counts(train):
    mean = aggregation.Mean("expected")
    run = train("shares", pipeline=SHARES, minimum=4, aggregation=mean, **HIDDEN)
    assert setting_of(run).own == 3
    run = train("counted", pipeline=MASKED, minimum=9, sampling=All(), **HIDDEN)
    assert setting_of(run).own == 4


def test_noise_of_the_clients_hides_no_loss_and_no_metric(train):
    """Nor the number of rows: the server has all three exactly, beside an update under noise."""
    noise = (pipeline.Clip(1.0), pipeline.LocalNoise(8.0, 1e-5))
    run = train("noised", pipeline=noise, weighting="equal", rounds=1)
    assert setting_of(run).told == Disclosure()
    said = table(run)[2].learns
    assert "under that client's own noise; and exactly, as no noise covers them, its row" in said
    assert "(what its site.toml does not keep)" in said
    kept = table(run, Peers(), Keeps(metrics=True, rows=True))[2].learns
    assert "exactly" not in kept and "row count" not in kept
    noised = table(train("plain", rounds=1), Peers(), Keeps(noise=True))[2].learns
    assert "own noise, of which its own ledger says how much; and exactly" in noised


@pytest.mark.parametrize("metrics", ["hidden", "public"])
def test_masks_that_make_metrics_public_tell_none_that_the_rows_noise_keeps(metrics, train):
    examples = PerExample(1.0, 2.0, metrics=metrics)
    stages = (*MASKED[:2], pipeline.SecureSum(metrics="public"))
    local = Local(epochs=1, batch=4, examples=examples)
    run = train("rows", pipeline=stages, local=local, **HIDDEN)
    public = metrics == "public"
    assert mask_of(run).public == public == setting_of(run).told.trained
    assert ("loss" in table(run)[2].learns) == public
    assert ("nothing beside them" in table(run)[2].learns) != public
