# SPDX-License-Identifier: Apache-2.0
"""Law 12: an answer weighs what its assignment and its commit say, whatever its client did before.

What it did before: took part or not, and remembers anything at all.
"""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.laws.setting import ALGORITHMS, CLASSES, FEATURES, people, planned

from muster import keys
from muster.local import Group, train
from muster.rounds import play, start
from muster.simulation import Choice, LocalExecutor, Simulation
from muster.simulation.threads import one_thread
from muster.store import MemoryStore
from muster.types import Reply
from muster.vectors import tree_map

CLIENTS, ROUNDS = 5, 3


def group_of(sizes, times, memories):
    """Clients of so many rows, with what they remember."""
    draw, total = np.random.default_rng(3), sum(sizes)
    x, y = draw.normal(size=(total, FEATURES)), draw.integers(0, CLASSES, total)
    starts = np.cumsum([0, *sizes[:-1]])
    return Group(tuple(range(len(sizes))), times, x, y, starts, np.array(sizes), memories)


@pytest.mark.parametrize("made", ALGORITHMS, ids=lambda made: made.__name__)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_a_weight_is_of_rows_and_draws_whatever_its_client_remembers(made, data):
    """In training, by any engine, in any round, beside anybody; with memories of any numbers."""
    plan = planned(made())
    if plan.weighting == "examples":
        plan = replace(plan, cap=data.draw(st.sampled_from([None, 2, 4])))
    engine = data.draw(st.sampled_from(["loop", "matrix"]))
    count = 1 if engine == "loop" else data.draw(st.integers(1, 4))
    sizes = [data.draw(st.integers(1, 6)) for _ in range(count)]
    times = tuple(data.draw(st.integers(1, 3)) for _ in range(count))
    wanted = [
        float(plan.weights(np.array([n]), (t,))[0]) for n, t in zip(sizes, times, strict=True)
    ]
    state, draw = start(plan), np.random.default_rng(data.draw(st.integers(0, 99)))
    blank = plan.fresh_memory(*plan.task.init(keys.key(plan.seed).at("init")))

    def any_memory():
        return tree_map(lambda leaf: draw.normal(scale=0.1, size=np.shape(leaf)), blank)

    kinds = [lambda: blank, any_memory] if plan.remembers else [lambda: None]
    for make in kinds:
        memories = tuple(make() for _ in sizes) if plan.remembers else None
        group = group_of(sizes, times, memories)
        round = data.draw(st.integers(1, 1000))
        assert train(plan, engine, round, state.sent(), group).weights.tolist() == wanted


class Weighed(Simulation):
    """A simulation that notes what each answer weighs, by round."""

    def replies(self):
        """The replies, noted."""
        for answer in super().replies():
            if isinstance(answer, Reply):
                parts = answer.parts or (answer,)
                self.noted.setdefault(self._round, []).extend((p.clients, p.weight) for p in parts)
            yield answer


def weighed(plan, population, absent):
    """By round, which clients' answers weighed what; these did not answer."""
    store = MemoryStore()
    choice, executor = Choice("loop", 1, True, "asked for"), LocalExecutor(plan, "loop", population)
    simulation = Weighed(plan, population, store, choice, executor, absent)
    simulation.noted = {}
    state = start(plan)
    with one_thread(plan.task):
        for round in range(1, ROUNDS + 1):
            state = play(plan, state, simulation, store, round, lambda *_: {})
    return simulation.noted


@pytest.mark.parametrize("made", ALGORITHMS, ids=lambda made: made.__name__)
@settings(max_examples=8, deadline=None)
@given(st.lists(st.sets(st.integers(0, CLIENTS - 1), max_size=CLIENTS - 1), min_size=2, max_size=2))
def test_who_took_part_before_weighs_no_more_and_no_less(made, before):
    """A run whose rounds any clients missed, and one that nobody missed: the same last weights."""
    plan, population = planned(made()), people(CLIENTS)
    missed = {round: frozenset(gone) for round, gone in enumerate(before, 1)}
    assert weighed(plan, population, missed)[ROUNDS] == weighed(plan, population, {})[ROUNDS]
