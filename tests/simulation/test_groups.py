# SPDX-License-Identifier: Apache-2.0
"""Masked sums by group: the bits of plain sums, and a rule that bears liars behind masks."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.laws.setting import people, planned, same_bits
from tests.laws.test_law_5_masks import played as alike
from tests.laws.test_law_5_masks import silent

import muster
from muster import Every, algorithms, sampling
from muster.aggregation import Mean, Median, TrimmedMean
from muster.pipeline import Clip, Quantize, SecureSum
from muster.plan.decoding import decoded
from muster.rounds import start
from muster.runs.replay import replay
from muster.simulation import Choice, LocalExecutor, Simulation
from muster.simulation.secagg import TALK, SimulatedSecAgg
from muster.store import MemoryStore

COUNT, GROUPS = 11, 3
PLAIN = planned(pipeline=[Clip(0.5), Quantize(12)], cap=6, evaluate=Every(clients=0))


def played(plan, count=COUNT, rounds=1, **more):
    return alike(plan, count, rounds, **more)


def masked(plan=PLAIN, groups=GROUPS, **changes):
    secure = SecureSum(groups=groups, corrupt=0.05, dropout=0.0)
    return replace(plan, pipeline=(*plan.pipeline, secure), **changes)


def drawn(plan, round, clients=tuple(range(COUNT))):
    """As a simulation draws them."""
    return plan.groups(clients, muster.keys.key(plan.seed).at("groups", round))


def test_groups_are_a_partition_that_the_seed_draws_anew_each_round():
    plan, clients = masked(), tuple(range(COUNT))
    found = [drawn(plan, round) for round in range(1, 9)]
    for groups in found:
        assert sorted(c for group in groups for c in group) == list(clients)
        assert sorted(map(len, groups)) == [3, 4, 4]
        assert all(list(group) == sorted(group) for group in groups)
    assert len(set(found)) == 8
    assert found == [drawn(plan, round) for round in range(1, 9)]
    assert drawn(replace(plan, seed=1), 1) != found[0]
    assert drawn(masked(groups=1), 1) == (clients,)


@settings(max_examples=20)
@given(st.dictionaries(st.integers(0, COUNT - 1), st.sampled_from([s.value for s in TALK])))
def test_the_mean_of_groups_has_the_bits_of_the_plain_mean(lost):
    state, history = played(masked(), masks=SimulatedSecAgg(lost={1: lost}))
    (record,) = history
    plain, theirs = played(PLAIN, absent=silent(history))
    assert record["accepted"] == theirs[0]["accepted"]  # in the cohort's order
    assert len(record.get("secure", [])) <= GROUPS
    assert same_bits(state, plain)
    again, _ = played(masked(), absent=silent(history))
    assert same_bits(state, again)


def test_a_group_below_its_threshold_is_not_opened_and_the_others_are():
    plan = masked()
    first, *others = drawn(plan, 1)
    lost = dict.fromkeys(first[:2], "mask")
    _, (record,) = played(plan, masks=SimulatedSecAgg(lost={1: lost}))
    assert record["accepted"] == sorted(c for group in others for c in group)
    assert [one["survivors"] for one in record["secure"]] == [len(group) for group in others]
    why = {one["client"]: one["error"] for one in record["failed"]}
    assert set(why) == set(first[2:])
    assert {one["client"] for one in record["late"]} == set(first[:2])


def test_too_few_groups_for_the_rule_give_the_round_up():
    plan = masked(aggregation=TrimmedMean(1))
    first, *_ = drawn(plan, 1)
    state, (record,) = played(
        plan, masks=SimulatedSecAgg(lost={1: dict.fromkeys(first[:2], "mask")})
    )
    assert record["abandoned"] and record["accepted"] == []
    assert same_bits(state, start(plan))


def test_a_cohort_too_small_for_its_groups_is_given_up():
    _, (record,) = played(masked(), count=8)
    assert record["abandoned"]
    (error,) = {one["error"] for one in record["failed"]}
    assert error.startswith("SecureSum: 2 clients are in one of 3 groups and at least 3 are requ")


@pytest.mark.parametrize("rule", [Median(), TrimmedMean(1)])
def test_the_rule_judges_the_groups_means(rule):
    """Against the same updates, summed by hand without a mask."""
    plan = masked(aggregation=rule)
    state, _ = played(plan)
    begin, bare = start(plan), replace(PLAIN, aggregation=Mean())
    means = []
    for group in drawn(plan, 1):
        here = Simulation(
            bare,
            people(COUNT, bare.dtype),
            MemoryStore(),
            Choice("loop", 2, True, ""),
            LocalExecutor(bare, "loop", people(COUNT, bare.dtype)),
        )
        here.send(muster.types.Cohort(group), begin.sent(), 1)
        total = bare.aggregation.reduce(here.replies(), group)
        mean, _ = decoded(bare, total, total.weight, begin.stages, muster.keys.key(0))
        means.append(mean.payload.delta)
    wanted = rule.aggregate(np.stack(means))
    moved = state.algorithm.shared.x - begin.algorithm.shared.x
    np.testing.assert_allclose(moved, wanted, rtol=1e-9, atol=1e-12)


def test_liars_in_fewer_groups_than_f_do_not_reach_the_model():
    """One client sends what it likes within the clip: the mean follows it, the rule does not."""
    honest, told = people(12), {}
    for client in honest.clients:
        x, y = honest[client]
        told[client] = (x, y) if client else (x * 50, 2 - y)
    liars = muster.Population.from_arrays(told)
    base = planned(
        pipeline=[Clip(5.0), Quantize(16)], weighting="equal", rounds=6, evaluate=Every(clients=0)
    )
    x = np.concatenate([honest[c][0] for c in honest.clients])
    y = np.concatenate([honest[c][1] for c in honest.clients])

    def loss(plan, population):
        run = muster.simulate(plan, population)
        return run_loss(plan, run, x, y)

    grouped = masked(base, groups=4, aggregation=Median())
    clean, mean = loss(base, honest), loss(base, liars)
    robust = loss(grouped, liars)
    assert mean - clean > 4 * abs(robust - clean)


def run_loss(plan, run, x, y):
    return float(plan.task.evaluate(run.parameters, run.buffers, x, y)["loss"]) / len(x)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_on_disk_replays(tmp_path, workers):
    plan = masked(
        planned(algorithms.Scaffold(), pipeline=[Clip(1.0), Quantize(12)], weighting="equal"),
        aggregation=Median(),
        sampling=sampling.Uniform(count=9),
        evaluate=Every(clients=0),
    )
    run = muster.simulate(plan, people(COUNT), path=tmp_path / "run", workers=workers)
    assert all(len(record["secure"]) == GROUPS for record in run.trained)
    assert replay(tmp_path / "run", plan, people(COUNT)).identical


def test_single_replies_reach_a_rule_without_masks():
    plan = replace(PLAIN, pipeline=(), aggregation=Median(), weighting="equal", cap=None)
    state, (record,) = played(plan)
    assert record["accepted"] == list(range(COUNT))
    each = []
    for client in range(COUNT):
        alone, _ = played(
            replace(plan, aggregation=Mean()),
            absent={1: frozenset(set(range(COUNT)) - {client})},
        )
        each.append(alone.algorithm.shared.x)
    wanted = np.median(each, axis=0)
    np.testing.assert_allclose(state.algorithm.shared.x, wanted, rtol=1e-9)


@pytest.mark.parametrize("engine", ["loop", "matrix", "fused"])
def test_a_rule_sees_the_same_replies_from_any_number_of_workers(tmp_path, engine):
    plan = replace(PLAIN, pipeline=(), aggregation=Median(), weighting="equal", cap=None, rounds=3)
    found = [
        muster.simulate(
            plan, people(40), path=tmp_path / f"{workers}", engine=engine, workers=workers
        ).parameters.tobytes()
        for workers in (1, 2)
    ]
    assert found[0] == found[1]
    assert replay(tmp_path / "2", plan, people(40)).identical
