# SPDX-License-Identifier: Apache-2.0
"""A run's threat table is made of what the run recorded, and of a site's rules."""

from muster import Every, aggregation, pipeline
from muster.privacy.mask import Sums
from muster.privacy.threats import Peers
from muster.runs import Run
from muster.runs.privacy.threats import setting_of, table

MASKED = (pipeline.Clip(1.0), pipeline.Quantize(12), pipeline.SecureSum())
SHARES = (*MASKED[:2], pipeline.DiscreteNoise(2.0, 4), pipeline.SecureSum())
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
    assert not found.sums.ring and not found.public


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
    unknown, named = table(run)[4], table(run, Peers(3, named=True))[4]
    assert "rules of sites are not known here" in unknown.rests_on
    assert "keys of its own under the names that this site gives" in named.learns
