# SPDX-License-Identifier: Apache-2.0
"""Keep: which models stay, against a search through the whole of what was measured."""

import math
import random

import pytest

from muster import Keep, Local, Plan, algorithms, optimizers, pipeline, sampling, tasks
from muster.aggregation import Mean
from muster.errors import PlanError
from muster.plan.keep import best_of
from muster.plan.registry import assign, fingerprint, from_text, to_value

FIELDS = {
    "task": tasks.numpy.LogisticRegression(5, 3),
    "algorithm": algorithms.FedAvg(),
    "local": Local(epochs=1, batch=8, optimizer=optimizers.SGD(0.1)),
}


def searched(seen, every, lower):
    """Search for all that must be on the disk after these versions, by looking at all at once."""
    found = {len(seen) - 1}
    for version, value in enumerate(seen):
        if every and version % every == 0:
            found.add(version)
        beaten = any(
            other is not None
            and not math.isnan(other)
            and (other < value if lower else other > value)
            for other in seen
            if value is not None and not math.isnan(value)
        )
        equal = any(other == value for other in seen[:version])
        if value is not None and not math.isnan(value) and not beaten and not equal:
            found.add(version)
    return found


@pytest.mark.parametrize("seed", range(60))
def test_what_stays_is_what_a_search_of_everything_finds(seed):
    dice = random.Random(seed)
    lower, every = dice.random() < 0.5, dice.choice([None, 1, 2, 3, 5])
    keep, there, seen = Keep("loss", every), set(), []
    odd = [None, math.nan, math.inf, -math.inf, 0.5, 0.5]
    for version in range(dice.randrange(1, 25)):
        seen.append(dice.choice([*odd, dice.random(), dice.random()]))
        values = {at: value for at, value in enumerate(seen) if value is not None}
        there = keep.stays({*there, version}, values, lower=lower)
        assert there == searched(seen, every, lower)


def test_by_default_the_last_alone_stays():
    assert Keep().stays({3, 4}, {3: 0.1}, lower=True) == {4}
    assert Keep(every=1).stays({0, 3, 4}, {}, lower=True) == {0, 3, 4}
    assert Keep(every=4).stays((), {}, lower=True) == frozenset()
    assert best_of((1, 2), {1: math.nan}, lower=True) is None


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"best": 3}, "best must be the name of a metric"),
        ({"every": 0}, "every must be a whole number of rounds above 0"),
        ({"every": 1.5}, "every must be a whole number"),
        ({"every": True}, "every must be a whole number"),
    ],
)
def test_what_cannot_be_kept_by(fields, sentence):
    with pytest.raises(PlanError, match=sentence):
        Keep(**fields)


def test_the_metric_is_one_of_the_plan():
    with pytest.raises(PlanError, match=r"does not measure; .* did you mean 'accuracy'"):
        Plan(**FIELDS, keep=Keep(best="acuracy"))
    with pytest.raises(PlanError, match=r"Plan\(keep=3\): that is no Keep"):
        Plan(**FIELDS, keep=3)


def test_it_stays_outside_the_fingerprint_and_travels():
    kept = Plan(**FIELDS, keep=Keep("accuracy", 4))
    assert fingerprint(kept) == fingerprint(Plan(**FIELDS))
    assert to_value(kept)["keep"] == {"class": "Keep", "best": "accuracy", "every": 4}
    assert assign(Plan(**FIELDS), "keep=Keep(best='loss', every=2)").keep == Keep("loss", 2)
    assert from_text("Keep(every=3)") == Keep(every=3)


def test_correlated_noise_stays_with_no_older_model():
    noisy = {
        **FIELDS,
        "sampling": sampling.All(),
        "weighting": "equal",
        "aggregation": Mean("expected"),
        "pipeline": [pipeline.Clip(1.0), pipeline.BandedNoise(2.0, bands=2)],
    }
    assert Plan(**noisy).keep == Keep()
    for keep in (Keep(every=2), Keep("accuracy")):
        with pytest.raises(PlanError, match="the last rows of its noise"):
            Plan(**noisy, keep=keep)
