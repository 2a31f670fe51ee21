# SPDX-License-Identifier: Apache-2.0
"""Membership inference works on a model without noise, and within (ε, δ) on one with noise."""

import numpy as np
import pytest

from muster.errors import MusterError
from muster.keys import key
from muster.pipeline import Clip, Contract, Field, Noise, Pipeline
from muster.privacy.audits import auc, epsilon_found, tpr_at, violates
from muster.privacy.gaussian import gaussian_epsilon
from muster.types import Reply

D, MEMBERS = 60, 40


def scores(multiplier, seed=0):
    """Minus the loss of members and others under a model that sums its members' clipped updates.

    Client i's update points at its own target; the loss is the squared distance to it, along it.
    """
    rng = np.random.default_rng(seed)
    targets = rng.normal(size=(2 * MEMBERS, D))
    targets /= np.linalg.norm(targets, axis=1, keepdims=True)
    contract, total = Contract((Field("delta", D, bits=64),), cap=1.0), targets[:MEMBERS].sum(0)
    if multiplier:
        pipeline = Pipeline.build((Clip(1.0), Noise(multiplier)), contract)
        reply = Reply((), {"delta": total}, float(MEMBERS))
        total = pipeline.decode(reply, pipeline.init(), key(seed))[0].payload["delta"]
    reached = targets @ total
    return reached[:MEMBERS], reached[MEMBERS:]


def pooled(multiplier, runs=60):
    made = [scores(multiplier, seed) for seed in range(runs)]
    return np.concatenate([m for m, _ in made]), np.concatenate([o for _, o in made])


def test_without_noise_members_are_found():
    members, others = pooled(0.0)
    assert auc(members, others) > 0.7
    assert tpr_at(members, others, 0.05) > 0.15


def test_more_noise_finds_fewer():
    values = [auc(*pooled(z)) for z in (0.0, 5.0, 20.0, 80.0)]
    assert values == sorted(values, reverse=True)
    assert values[-1] < 0.55


def canary_scores(multiplier, runs=4000, claimed=1.0):
    """The strongest attacker: it knows all but one client, and looks along that one's update."""
    contract = Contract((Field("delta", 4, bits=64),), cap=1.0)
    pipeline = Pipeline.build((Clip(1.0), Noise(multiplier * claimed)), contract)
    update, out = np.array([0.0, 1.0, 0.0, 0.0]), []
    for inside in (1.0, 0.0):
        reply, draw = Reply((), {"delta": update * inside}, 5.0), key(7).at(int(inside))
        totals = [
            pipeline.decode(reply, pipeline.init(), draw.at(t))[0].payload["delta"]
            for t in range(runs)
        ]
        out.append(np.array(totals) @ update)
    return out


@pytest.mark.parametrize("multiplier", [0.7, 1.0, 2.0])
def test_what_the_noise_stage_releases_keeps_its_epsilon(multiplier):
    members, others = canary_scores(multiplier)
    epsilon = gaussian_epsilon(1e-5, multiplier)
    for threshold in (0.0, 0.5, 1.0, 1.5):
        assert not violates(members, others, epsilon, 1e-5, threshold)
    assert epsilon_found(members, others, 1e-5, 1.0) > 0.2  # the attack is not a weak one


def test_noise_of_a_third_is_found_out():
    members, others = canary_scores(1.0, claimed=1 / 3)
    assert violates(members, others, gaussian_epsilon(0.01, 1.0), 0.01, 1.0)


def test_ties_and_edges():
    same = np.array([1.0, 1.0, 2.0])
    assert auc(same, same) == pytest.approx(0.5)
    assert tpr_at(same, same, 0.0) == 0.0
    assert tpr_at(same, same, 1.0) == 1.0
    assert epsilon_found(same, same, 1e-5, 1.5) == 0.0
    rng = np.random.default_rng(0)
    assert not violates(rng.normal(size=500), rng.normal(size=500), 0.5, 1e-5, 0.0)
    low = epsilon_found(np.arange(500.0), np.arange(500.0) - 499, 1e-5, -0.5)
    assert low > 3  # nobody outside, everybody inside


@pytest.mark.parametrize(
    ("members", "others"), [([], [1.0]), ([1.0], []), ([np.nan], [1.0]), ([1.0], [np.nan])]
)
def test_scores_that_are_none_are_refused(members, others):
    with pytest.raises(MusterError, match="at least one score of each, and no NaN"):
        auc(np.array(members), np.array(others))
