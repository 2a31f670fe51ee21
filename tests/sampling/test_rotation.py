# SPDX-License-Identifier: Apache-2.0
"""Turns in fixed slots: one in so many rounds, and nobody moves when another joins or leaves."""

import math
from collections import Counter

import numpy as np
import pytest

import muster
from muster import Local, Plan, aggregation, algorithms, optimizers, pipeline, sampling, tasks
from muster.errors import PlanError
from muster.keys import key
from muster.plan.private import charges
from muster.plan.registry import assign, from_text, to_value
from muster.privacy import Secret, spent
from muster.privacy.gaussian import gaussian_epsilon
from muster.rounds import drawn
from muster.runs.replay import replay
from muster.sampling import Rotation
from muster.types import Roster


def roster(names):
    names = tuple(sorted(names, key=str))
    return Roster(names, lambda: np.ones(len(names), int))


def draw(slots, names, round, seed=0, path=("sample",)):
    return Rotation(slots).sample(roster(names), "state", round, key(seed).at(*path, round), None)


def test_everybody_has_one_turn_in_so_many_rounds_and_then_the_same_again():
    names = [f"c{i:03}" for i in range(200)]
    cohorts = [draw(7, names, round)[0].clients for round in range(1, 22)]
    assert Counter(c for cohort in cohorts[:7] for c in cohort) == Counter(names)
    assert cohorts[:7] == cohorts[7:14] == cohorts[14:]
    for cohort in cohorts:
        assert list(cohort) == sorted(set(cohort))
    assert draw(7, names, 1)[1] == "state"


def test_nobody_moves_when_another_joins_or_leaves():
    names = [f"c{i}" for i in range(100)] + list(range(40))
    before = {c: r for r in range(1, 6) for c in draw(5, names, r)[0].clients}
    for left in (names[::2], names[1::3], [*names, "new", 99_999], names[:1]):
        after = {c: r for r in range(1, 6) for c in draw(5, left, r)[0].clients}
        assert set(after) == set(left)
        assert all(after[c] == before[c] for c in left if c in before)


def test_a_slot_is_a_function_of_the_id_and_the_seed_alone():
    names = list(range(60))
    one = [draw(4, names, r)[0] for r in range(1, 5)]
    assert one == [draw(4, names, r, path=("else", 3, "where"))[0] for r in range(1, 5)]
    assert one != [draw(4, names, r, seed=1)[0] for r in range(1, 5)]


def test_slots_are_drawn_evenly_and_independently():
    """4000 clients in 8 slots; 24.32 is the 0.999 quantile at 7, 61.1 that of pairs at 31."""
    names = [f"site-{i}" for i in range(4000)]
    slot = {c: r for r in range(1, 9) for c in draw(8, names, r)[0].clients}
    counts = Counter(slot.values())
    assert sum((n - 500) ** 2 / 500 for n in counts.values()) < 24.32
    pairs = Counter((slot[a], slot[b] % 4) for a, b in zip(names[::2], names[1::2], strict=True))
    assert len(pairs) == 32
    assert sum((n - 62.5) ** 2 / 62.5 for n in pairs.values()) < 61.1


def test_a_slot_may_be_empty():
    cohorts = [draw(50, ["only"], round)[0].clients for round in range(1, 51)]
    assert sorted(cohorts)[-1] == ("only",)
    assert cohorts.count(()) == 49


def test_a_secret_to_draw_from_is_refused():
    with pytest.raises(PlanError, match="would give every client another slot in each round"):
        Rotation(3).sample(roster("abc"), None, 1, Secret(bytes(32)), None)


def test_a_round_of_a_server_with_secrets_draws_it_from_the_plans_seed():
    made, people = plan(), roster(f"c{i}" for i in range(9))
    for round in (1, 2, 3, 4):
        secret = drawn(made, people, None, round, Secret(bytes([round]) * 32))
        assert secret == drawn(made, people, None, round, key(made.seed))
    moved = drawn(plan(seed=1), people, None, 1, Secret(bytes(32)))
    assert moved != drawn(made, people, None, 1, key(made.seed))


@pytest.mark.parametrize("slots", [0, -1, 2.0, True, "3", 10**7, math.nan])
def test_a_number_of_slots_that_is_none_is_refused(slots):
    with pytest.raises(PlanError, match=r"Rotation.slots=.* whole number of rounds"):
        Rotation(slots)


def test_its_chance_is_one_in_so_many():
    assert Rotation(8).share(roster("abc")) == 1 / 8
    assert Rotation(1).sample(roster("abc"), None, 5, key(0), None)[0].clients == ("a", "b", "c")


def test_it_is_recorded_and_set_from_a_shell():
    assert from_text("Rotation(slots=4)") == Rotation(4)
    assert assign(plan(), "sampling.slots=5").sampling == Rotation(5)
    assert to_value(Rotation(4)) == {"class": "Rotation", "slots": 4}


def plan(slots=3, rounds=6, stages=None, **fields):
    stages = stages or (pipeline.Clip(0.5), pipeline.BandedNoise(2.0, bands=3, separation=slots))
    values = {
        "task": tasks.numpy.MLP([4, 5, 3]),
        "algorithm": algorithms.FedAvg(),
        "local": Local(epochs=1, batch=4, optimizer=optimizers.SGD(0.2)),
        "sampling": Rotation(slots),
        "weighting": "equal",
        "rounds": rounds,
        "pipeline": stages,
        "aggregation": aggregation.Mean("expected"),
        "evaluate": muster.Every(1, clients=0),
    }
    return Plan(**(values | fields))


def test_noise_that_counts_on_turns_apart_may_count_on_it():
    assert plan(slots=4).stages.releases()[0].separation == 4
    banded = pipeline.BandedNoise(2.0, bands=3, separation=5)
    with pytest.raises(PlanError, match=r"Rotation\(slots=4\) keeps 4; .*or a sampling that keeps"):
        plan(slots=4, stages=(pipeline.Clip(0.5), banded))
    with pytest.raises(PlanError, match=r"such as Rotation\(slots=5\)"):
        plan(sampling=sampling.All(), stages=(pipeline.Clip(0.5), banded))
    with pytest.raises(PlanError, match="expects everybody who is drawn to count"):
        plan(overselect=1.5)
    with pytest.raises(PlanError, match="has no number of clients to draw more of"):
        plan(overselect=1.5, aggregation=aggregation.Mean(), stages=(pipeline.Clip(0.5),))


@pytest.mark.parametrize("stage", ["noise", "banded"])
def test_a_run_in_turns_is_charged_its_turns_resumed_and_replayed(tmp_path, stage):
    draw = np.random.default_rng(3)
    people = muster.Population.from_arrays(
        {f"c{i}": (draw.normal(size=(8, 4)).astype("float32"), np.arange(8) % 3) for i in range(9)}
    )
    noisy = None if stage == "banded" else (pipeline.Clip(0.5), pipeline.Noise(2.0))
    given = plan(stages=noisy, budget=muster.privacy.Budget(99.0, 1e-3))
    whole = muster.simulate(given, people, path=tmp_path / "whole", workers=1)
    ends = []

    def at(label):
        ends.append(label)
        if ends.count("commit: end") == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        muster.simulate(given, people, path=tmp_path / "run", workers=1, at=at)
    run = muster.simulate(given, people, path=tmp_path / "run", workers=1, resume=True)
    assert run.parameters.tobytes() == whole.parameters.tobytes()
    assert replay(tmp_path / "run", given, people).identical
    turns = Counter(c for record in run.trained for c in record["invited"])
    assert turns == Counter(dict.fromkeys(people.clients, 2))
    found = [record["privacy"]["epsilon"] for record in run.trained]
    exact = [gaussian_epsilon(1e-3, 2.0 / math.sqrt(k)) for k in (1, 1, 1, 2, 2, 2)]
    if stage == "noise":
        assert found == pytest.approx(exact, rel=1e-9)
    else:  # each turn's bands end before the next begins, and the last is cut short
        assert found[-1] == pytest.approx(exact[-1], rel=1e-9)
        assert found == sorted(found) and found[2] == pytest.approx(exact[2], rel=1e-9)
    held = roster(people.clients)
    charge = charges(given, held, "r")[0]
    assert spent([charge] * 6, 1e-3).epsilon == pytest.approx(found[-1])
    assert (charge.selection.kind, charge.selection.separation) == ("rotation", 3)


def test_one_in_so_many_of_the_clients_is_what_a_sum_is_divided_by():
    """Over all slots the updates count once each, so the steps of a turn of rounds are the mean."""
    made, people = plan(slots=4, stages=(pipeline.Clip(1.0),)), roster(range(30))
    total = 0.0
    for round in range(1, 5):
        cohort, _ = drawn(made, people, None, round, key(0))
        total += sum(c + 1.0 for c in cohort.clients) / (made.sampling.share(people) * 30)
    assert total / 4 == pytest.approx(np.mean(np.arange(30) + 1.0))
