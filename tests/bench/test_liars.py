# SPDX-License-Identifier: Apache-2.0
"""The bench of liars poisons whom it says, and its defences are plans."""

from dataclasses import replace

import numpy as np
import pytest
from bench import liars

from muster import aggregation, data
from muster.aggregation import Median
from muster.errors import PlanError
from muster.keys import key
from muster.rounds import play, start
from muster.simulation import Choice, LocalExecutor, Simulation
from muster.store import MemoryStore
from muster.types import Cohort


def test_only_the_liars_rows_change():
    honest, _ = data.digits(clients=liars.WRITERS)
    told = liars.poisoned(honest, 5, seed=1)
    changed = [c for c in honest.clients if not np.array_equal(honest[c][1], told[c][1])]
    assert len(changed) == 5
    for client in changed:
        np.testing.assert_allclose(told[client][0], liars.INK * honest[client][0])
        assert (told[client][1] == 9 - honest[client][1]).all()


def test_every_defence_is_a_plan_with_groups_enough():
    """As many may collude as so small groups allow, and one more is refused."""
    writers = tuple(range(liars.WRITERS))
    for _, groups, rule, corrupt in liars.DEFENCES:
        plan = liars.defended(groups, rule, corrupt, seed=0)
        assert len(plan.groups(writers, key(0))) == groups
        assert plan.aggregation == rule
        if groups > 1:
            with pytest.raises(PlanError, match="small groups"):
                liars.defended(groups, rule, corrupt + 0.011, seed=0).groups(writers, key(0))


def test_no_honest_update_reaches_the_clip():
    people, _ = data.digits(clients=liars.WRITERS)
    plan = replace(liars.defended(1, aggregation.Mean(), 0.1, 0), pipeline=(), aggregation=Median())
    executor = LocalExecutor(plan, "loop", people)
    choice = Choice("loop", 1, True, "")
    simulation, store = Simulation(plan, people, MemoryStore(), choice, executor), MemoryStore()
    state = start(plan)
    for round in range(1, 4):
        simulation.send(Cohort(people.clients), state.sent(), round)
        norms = [np.linalg.norm(reply.payload["delta"]) for reply in simulation.replies()]
        assert len(norms) == liars.WRITERS and max(norms) < liars.BOUND
        state = play(plan, state, simulation, store, round, lambda *_: {})
