# SPDX-License-Identifier: Apache-2.0
"""A sampler of one's own: traits, candidates, what it keeps, what it is shown, who is barred."""

import json
import math
import runpy
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

import muster
from muster import Local, Plan, aggregation, algorithms, optimizers, pipeline, sampling, tasks
from muster.errors import DataError, PlanError, RunError
from muster.keys import key
from muster.plain import unpacked
from muster.privacy import PerExample
from muster.rounds import drawn
from muster.runs.replay import replay
from muster.sampling import Cohort, Sampler, SamplerTraits
from muster.testing import check_sampler
from muster.types import Roster

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_sampler.py"


@dataclass(frozen=True)
class PowerOfChoice(Sampler):
    """A draw of those of `among` candidates whose loss is highest (Cho et al. 2020)."""

    count: int = 2
    among: int = 4

    @property
    def traits(self):
        return SamplerTraits(count=self.count, needs_losses=True)

    def candidates(self, roster, state, round, key):
        chosen = key.choice(len(roster.eligible), min(self.among, len(roster.eligible)))
        return Cohort(tuple(roster.eligible[i] for i in chosen))

    def sample(self, roster, state, round, key, losses=None):
        told = dict.fromkeys(roster.eligible, 0.0) | (losses or {})
        return Cohort(tuple(sorted(told, key=told.get, reverse=True)[: self.count])), state


@dataclass(frozen=True)
class Remembering(Sampler):
    """A draw of the least often drawn, counted by what came back; its state grows."""

    count: int = 2

    @property
    def traits(self):
        return SamplerTraits("deterministic", count=self.count, needs_losses=True)

    def sample(self, roster, state, round, key, losses=None):
        kept = state or {"times": {}, "path": np.zeros(0, np.int64)}
        tie = key.uniform(len(roster.eligible))
        both = zip(roster.eligible, tie, strict=True)
        order = sorted(both, key=lambda one: (kept["times"].get(one[0], 0), one[1]))
        return Cohort(tuple(c for c, _ in order[: self.count])), kept

    def observe(self, state, roster, replies):
        times = dict(state["times"])
        for one in replies:
            times[one.client] = times.get(one.client, 0) + (2 if one.missing else 1)
        shown = [state["path"], [len(roster.seen), len(roster.losses)]]
        return {"times": times, "path": np.concatenate(shown), "said": str(replies)}


def people(count=7, test=False):
    draw = np.random.default_rng(3)
    rows = {
        f"c{i}": (draw.normal(size=(3 + i, 4)).astype("float32"), np.arange(3 + i) % 3)
        for i in range(count)
    }
    held = {c: (x[:1] + 50, y[:1]) for c, (x, y) in rows.items()} if test else None
    return muster.Population.from_arrays(rows, held)


def plan(sampler, **fields):
    values = {
        "task": tasks.numpy.SoftmaxRegression(4, 3),
        "algorithm": algorithms.FedAvg(),
        "local": Local(steps=2, batch=2, optimizer=optimizers.SGD(0.2)),
        "sampling": sampler,
        "rounds": 5,
    }
    return Plan(**(values | fields))


def simulated(made, given, path, **more):
    return muster.simulate(made, given, path=path, **({"workers": 1} | more))


@pytest.mark.parametrize("sampler", [PowerOfChoice(), Remembering()], ids=repr)
def test_it_is_sound(sampler):
    check_sampler(sampler)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"kind": "fair"}, "no accountant knows"),
        ({"count": 0}, "whole number above 0"),
        ({"count": True}, "whole number above 0"),
        ({"fraction": 0.0}, r"lie in \(0, 1\]"),
        ({"fraction": math.nan}, r"lie in \(0, 1\]"),
        ({"count": 1, "fraction": 0.5}, "at most one of"),
        ({"separation": 0}, "rounds above 0"),
        ({"replacement": True, "kind": "uniform"}, "more than one bound"),
    ],
)
def test_traits_that_contradict_are_refused(fields, said):
    with pytest.raises(PlanError, match=said):
        SamplerTraits(**fields)


def test_what_is_no_sampler_is_refused():
    class Duck:
        def sample(self, roster, state, round, key, losses=None):
            return Cohort(roster.clients), state

    for given in (Duck(), sampling.All, None):
        with pytest.raises(PlanError, match=r"that is no Sampler; give one"):
            plan(given)


def test_a_cohort_sorts_itself_and_holds_nobody_twice():
    assert Cohort(("b", "a", "c"), (1, 2, 3)) == Cohort(("a", "b", "c"), (2, 1, 3))
    assert Cohort(("x", 10, 9)).clients == (9, 10, "x")
    assert Cohort([3, 1]).clients == (1, 3)
    with pytest.raises(PlanError, match="client 'a' is in a cohort twice"):
        Cohort(("a", "b", "a"))
    with pytest.raises(PlanError, match="has 1 counts"):
        Cohort(("a", "b"), (1,))


def test_a_cohort_of_strangers_is_refused_before_anybody_is_sent_to():
    @dataclass(frozen=True)
    class Wrong(Sampler):
        traits = SamplerTraits()

        def sample(self, roster, state, round, key, losses=None):
            return Cohort((*roster.eligible[:1], "nobody")), state

    roster = Roster(("a", "b"), lambda: [1, 1])
    with pytest.raises(PlanError, match="drew client 'nobody' in round 3"):
        drawn(plan(Wrong()), roster, None, 3, key(0))


def test_the_candidates_are_asked_on_the_rows_they_train_on(tmp_path):
    """Each round takes the two highest of four losses, by hand from the model of the round before.

    Test rows, which the clients also have, would give other losses.
    """
    given = people(test=True)
    run = simulated(plan(PowerOfChoice(), keep=muster.Keep(every=1)), given, tmp_path / "run")
    task = plan(PowerOfChoice()).task
    for record in run.trained:
        before = run.at(record["round"] - 1).parameters
        asked = dict(map(tuple, record["candidates"]))
        assert len(asked) == 4
        for client, loss in asked.items():
            sums = task.evaluate(before, np.zeros(0, "float32"), *given[client])
            assert loss == pytest.approx(sums["loss"] / sums["rows"], rel=1e-6)
        worst = sorted(asked, key=asked.get, reverse=True)[:2]
        assert record["invited"] == sorted(worst) == record["accepted"]
        assert {client for client, _ in record["losses"]} == set(worst)


def test_all_candidates_are_the_highest_of_all_and_as_many_are_whoever_was_drawn(tmp_path):
    every = simulated(plan(PowerOfChoice(2, among=7)), people(), tmp_path / "every")
    for record in every.trained:
        asked = dict(map(tuple, record["candidates"]))
        assert len(asked) == 7
        assert min(asked[c] for c in record["invited"]) >= sorted(asked.values())[-2]
    few = simulated(plan(PowerOfChoice(2, among=2)), people(), tmp_path / "few")
    for record in few.trained:
        assert [client for client, _ in record["candidates"]] == record["invited"]


@pytest.mark.parametrize("sampler", [PowerOfChoice(), Remembering()], ids=repr)
def test_stopped_anywhere_it_goes_on_with_the_same_bits_and_is_replayed(tmp_path, sampler):
    made, given = plan(sampler), people()
    whole = simulated(made, given, tmp_path / "whole")
    for end in range(1, 5):
        folder, ends = tmp_path / f"run{end}", []

        def at(label, ends=ends, end=end):
            ends.append(label)
            if ends.count("commit: end") == end:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            simulated(made, given, folder, at=at)
        run = simulated(made, given, folder, resume=True)
        assert run.parameters.tobytes() == whole.parameters.tobytes()
        for one, other in zip(run.trained, whole.trained, strict=True):
            drop = ("seconds",)
            assert {k: v for k, v in one.items() if k not in drop} == {
                k: v for k, v in other.items() if k not in drop
            }
        assert replay(folder, made, given).identical
    assert replay(tmp_path / "whole", made, given).identical


def test_a_pool_of_workers_draws_the_same(tmp_path):
    made, given = plan(PowerOfChoice()), people()
    one = simulated(made, given, tmp_path / "one")
    two = simulated(made, given, tmp_path / "two", workers=2)
    assert two.facts["workers"] == 2
    assert one.parameters.tobytes() == two.parameters.tobytes()
    assert [r["candidates"] for r in one.trained] == [r["candidates"] for r in two.trained]


def test_it_is_told_who_failed_and_a_replay_agrees(tmp_path):
    """One client's rows are no numbers once they are loaded: it fails whenever it is drawn."""
    good = people()

    def load(client):
        x, y = good[client]
        return (np.full_like(x, 1e30) if client == "c3" else x), y

    given = muster.Population.lazy(good.clients, load, good.sizes.tolist())
    made = plan(Remembering(), rounds=8)
    run = simulated(made, given, tmp_path / "run", lenient=True)
    assert any("failed" in record for record in run.trained)
    state = unpacked(run.last.arrays["sampler"])
    drawn_often = Counter(c for record in run.trained for c in record["invited"])
    failed = Counter(one["client"] for r in run.trained for one in r.get("failed", ()))
    assert failed.keys() == {"c3"}
    assert state["times"] == {c: n + failed[c] for c, n in drawn_often.items()}
    assert replay(tmp_path / "run", made, given).identical


def test_it_is_shown_who_was_seen_and_what_was_told(tmp_path):
    run = simulated(plan(Remembering()), people(), tmp_path / "run")
    path = unpacked(run.last.arrays["sampler"])["path"].reshape(-1, 2).tolist()
    before, wanted = set(), []
    for record in run.trained:
        wanted.append([len(before), len(before)])
        before |= set(record["accepted"])
    assert path == wanted


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"pipeline": [pipeline.Clip(1.0), pipeline.Noise(1.0)]}, "which noise protects"),
        ({"pipeline": [pipeline.Clip(1.0), pipeline.LocalNoise(1.0, 1e-5)]}, "noise protects"),
        (
            {
                "pipeline": [pipeline.Clip(1.0), pipeline.Quantize(16), pipeline.SecureSum()],
                "evaluate": muster.Every(clients=0),
                "sampling": PowerOfChoice(8, 9),
            },
            "which a mask hides",
        ),
        (
            {
                "local": Local(steps=1, examples=PerExample(1.0, 1.1, metrics="public")),
                "weighting": "equal",
            },
            r"PerExample.* protects",
        ),
    ],
    ids=["noise", "local noise", "mask", "rows"],
)
def test_losses_that_are_hidden_or_protected_are_refused(fields, said):
    values = {"sampling": Remembering(), "weighting": "equal"} | fields
    sampler = values.pop("sampling")
    with pytest.raises(PlanError, match=said):
        plan(sampler, **values)
    plan(sampling.Uniform(count=sampler.count), **values)  # it is the losses alone


def test_the_three_gates_are_counted_where_a_population_says_who_may_be_drawn(tmp_path):
    given = people().barring({"c1": "no consent", "c4": "too few rows", "c5": "no consent"})
    for sampler in (sampling.All(), sampling.Uniform(fraction=0.5), sampling.Weighted(3)):
        fields = {"weighting": "equal"}
        run = simulated(plan(sampler, **fields), given, tmp_path / type(sampler).__name__)
        for record in run.trained:
            assert not {"c1", "c4", "c5"} & set(record["invited"])
            assert record["gates"] == {
                "known": 7,
                "eligible": 4,
                "sampled": len(record["invited"]),
                "barred": {"no consent": 2, "too few rows": 1},
            }
    assert len(run.trained[0]["invited"]) <= 3
    free = simulated(plan(sampling.Uniform(fraction=0.5)), people(), tmp_path / "free")
    assert all("gates" not in record for record in free.history)
    with pytest.raises(RunError, match="dealt otherwise"):
        simulated(plan(sampling.All(), weighting="equal"), people(), tmp_path / "All", resume=True)


def test_the_barred_are_no_part_of_an_expected_sum(tmp_path):
    """Poisson with rate one over those eligible is everybody eligible, and their plain mean."""
    given = people().barring({"c6": "away"})
    ways = (
        plan(sampling.Poisson(1.0), aggregation=aggregation.Mean("expected")),
        plan(sampling.All()),
    )
    runs = [simulated(one, given, tmp_path / f"{i}") for i, one in enumerate(ways)]
    few = simulated(plan(sampling.All()), people().only(given.clients[:-1]), tmp_path / "few")
    for run in runs:
        np.testing.assert_allclose(run.parameters, few.parameters, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("reasons", "said"),
    [
        ({"zz": "away"}, "'zz' is not enrolled"),
        ({"c1": ""}, "a reason in words"),
        ({"c1": 3}, "a reason in words"),
        ({f"c{i}": "away" for i in range(7)}, "all 7 clients are barred"),
    ],
)
def test_a_population_that_bars_amiss_is_refused(reasons, said):
    with pytest.raises(DataError, match=said):
        people().barring(reasons)


def test_too_few_that_may_be_drawn_are_refused_before_any_training(tmp_path):
    given = people().barring({f"c{i}": "away" for i in range(5)})
    with pytest.raises(PlanError, match="no round can ever count with the 2 clients"):
        simulated(plan(sampling.Uniform(count=3), minimum=3), given, tmp_path / "run")
    assert given.only(["c0", "c6"]).barred == {"c0": "away"}
    assert given.fingerprint() != people().fingerprint()


def test_participation_counts_replies_and_spread(tmp_path):
    run = simulated(plan(Remembering(), rounds=7), people(), tmp_path / "run")
    found = run.participation()
    invited = Counter(c for record in run.trained for c in record["invited"])
    assert found.clients == people().clients
    assert dict(zip(found.clients, found.invited, strict=True)) == invited
    assert found.rounds == (2,) * 7 and found.spread["gini"] == 0
    lone = simulated(plan(sampling.Uniform(count=1), rounds=1), people(), tmp_path / "lone")
    assert sorted(lone.participation().rounds) == [0] * 6 + [1]
    assert lone.participation().spread == pytest.approx(
        {"least": 0, "mean": 1 / 7, "most": 1, "deviation": np.std([1, *[0] * 6]), "gini": 6 / 7}
    )
    assert "c0: 2 of 2 invitations" in str(found)


def test_the_aggregation_that_nobody_names_is_the_one_that_noise_needs():
    noisy = [pipeline.Clip(1.0), pipeline.Noise(0.5)]
    made = plan(sampling.Uniform(count=2), pipeline=noisy, weighting="equal")
    assert made.aggregation == aggregation.Mean("expected")
    assert plan(sampling.Uniform(count=2)).aggregation == aggregation.Mean()
    with pytest.raises(PlanError, match=r"use Mean\(denominator='expected'\)"):
        replace(made, aggregation=aggregation.Mean())


def test_the_example_runs_as_it_stands(tmp_path):
    pytest.importorskip("sklearn")
    done = subprocess.run(
        [sys.executable, EXAMPLE], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "from 3 to 3 (Gini 0)" in done.stdout
    assert "no amplification" in done.stdout


def test_the_example_is_one_plan_and_its_state_is_text_that_lasts(tmp_path):
    pytest.importorskip("sklearn")
    pytest.importorskip("dp_accounting")
    made = runpy.run_path(str(EXAMPLE), run_name="own_sampler")
    given = muster.data.digits(clients=9, alpha=0.5)
    run = muster.simulate(made["plan"], given, path=tmp_path / "run", workers=1)
    assert set(run.participation().rounds) == {3}
    assert not run.privacy().private  # a simulation's noise is no secret
    kept = bytes(run.last.arrays["sampler"])
    assert sorted(n for _, n in json.loads(kept)["dict"]) == [7] * 3 + [8] * 3 + [9] * 3
