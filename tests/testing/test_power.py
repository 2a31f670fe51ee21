# SPDX-License-Identifier: Apache-2.0
"""The public checks find what is broken on purpose, and say it in one sentence."""

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pytest

from muster import optimizers, testing
from muster.aggregation import RobustAggregator
from muster.algorithms.algorithm import Algorithm, ModelState, Update
from muster.pipeline.stage import Stage
from muster.sampling import Cohort, Sampler, SamplerTraits
from muster.simulation import Choice, LocalExecutor, Simulation
from muster.store import MemoryStore
from muster.tasks import numpy as tasks
from muster.types import Failed, State
from muster.vectors import tree_map


def caught(check, *args):
    with pytest.raises(AssertionError) as found:
        check(*args)
    sentence = str(found.value)
    assert sentence
    assert "\n" not in sentence
    return sentence


class Kept(NamedTuple):
    x: Any
    c: Any


@dataclass(frozen=True)
class Broken(Algorithm):
    fault: str = ""
    server: optimizers.Optimizer = optimizers.SGD(1.0)

    def correct(self, g, w, sent, memory):
        if self.fault == "in place":
            g += w
        if self.fault == "branch" and g.sum() > 0:
            return g + 1
        if self.fault == "rows":
            return g - g.mean(0)
        return g.astype("float64") if self.fault == "dtype" else g

    def report(self, w, sent, memory, work):
        delta = w - sent.x
        if self.fault == "payload":
            return ModelState(delta), memory
        if self.fault == "zeros":
            delta = delta / abs(delta).sum(-1)[..., None]
        return Update(delta), memory

    def step(self, state, mean, share):
        x, s = self.server.step(state.shared.x, mean.delta, state.private)
        return State(Kept(x, x) if self.fault == "state" else ModelState(x), s)


@pytest.mark.parametrize(
    "fault", ["in place", "rows", "dtype", "payload", "zeros", "state", "branch"]
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_a_broken_algorithm_is_caught(fault):
    testing.check_algorithm(Broken())
    if fault == "branch":
        pytest.importorskip("jax")
    caught(testing.check_algorithm, Broken(fault))


@dataclass(frozen=True)
class Half(Stage):
    """Halves on the client and doubles on the server, or is broken on purpose."""

    fault: str = ""

    def accept(self, contract):
        if self.fault == "accept":
            raise ValueError("no")
        return contract

    def encode(self, payload, contract, sent, memory, key):
        if self.fault == "in place":
            payload["delta"] /= 2
            return payload, memory
        if self.fault == "cohort":
            return {k: v - v.mean(0) for k, v in payload.items()}, memory
        if self.fault == "NaN":
            return {k: v / abs(v).max() * abs(v).max() / 2 for k, v in payload.items()}, memory
        return {k: (v / 2).astype(v.dtype) for k, v in payload.items()}, memory

    def decode(self, total, contract, state, key):
        twice = 1 if self.fault == "decode" else 2
        return type(total)(
            total.clients, {k: v * twice for k, v in total.payload.items()}, total.weight
        ), state


@pytest.mark.parametrize("fault", ["accept", "in place", "cohort", "NaN", "decode"])
@pytest.mark.filterwarnings("ignore:invalid value")
def test_a_broken_stage_is_caught(fault):
    testing.check_stage(Half())
    caught(testing.check_stage, Half(fault))


class Forgetful(MemoryStore):
    """A store with one fault."""

    def __init__(self, fault):
        super().__init__()
        self.fault = fault

    def commit(self, round, arrays, record, accepted, stays=()):
        if self.fault == "stays":
            stays = ()
        if self.fault == "hoards":
            stays = self.versions()
        if self.fault == "twice" and self._state and round <= self._state[0]:
            self._records.append(dict(record))
            return
        if self.fault == "state":
            arrays = {name: np.asarray(a, np.float32) for name, a in arrays.items()}
        if self.fault == "record":
            record = {"round": round}
        if self.fault == "everybody":
            accepted = [client for _, client in self._staged]
        if self.fault == "half":
            self._records.append(dict(record))
            super().commit(round, arrays, record, accepted, stays)
            self._records.pop()
        else:
            super().commit(round, arrays, record, accepted, stays)
        if self.fault == "lost":
            self._memory.clear()

    def memory(self, clients, version=None):
        return super().memory(clients, None if self.fault == "newest" else version)

    def remember(self, round, client, arrays):
        super().remember(round, client, arrays)
        if self.fault == "early":
            self._memory[client] = dict(arrays)


@pytest.mark.parametrize(
    "fault",
    ["state", "record", "everybody", "half", "lost", "early", "twice", "stays", "hoards", "newest"],
)
def test_a_broken_store_is_caught(fault):
    kept = Forgetful(fault)
    caught(testing.check_store, lambda: kept)


class Odd(Simulation):
    """A runtime with one fault."""

    fault = ""

    def replies(self):
        answers = list(super().replies())
        if self.fault == "order":
            answers = answers[::-1]
        if self.fault == "weight":
            answers = [replace(a, weight=a.weight + 1) for a in answers]
        if self.fault == "twice":
            answers += answers[-1:]
        if self.fault == "failed":
            answers += [Failed(a.clients[0], "train", "no") for a in answers[:1]]
        if self.fault == "bits":
            COUNTS[self.fault] += 1
            answers = [self.shaken(a, 1e-15 * COUNTS[self.fault]) for a in answers]
        yield from answers

    def shaken(self, answer, by):
        return replace(answer, payload={k: v * (1 + by) for k, v in answer.payload.items()})

    def memories(self, clients):
        found = super().memories(clients)
        return found and dict.fromkeys(found, self._blank) if self.fault == "blank" else found

    def evaluate(self, cohort, sent, round):
        found = list(super().evaluate(cohort, sent, round))
        return iter(found[:-1] if self.fault == "evaluate" else found)

    def settle(self, round, accepted):
        if self.fault == "settle":
            COUNTS["settle"] += 1
            self._store._memory["c00"] = {"c": np.array([COUNTS["settle"]])}


COUNTS = Counter()
FAULTS = ["order", "weight", "twice", "failed", "bits", "blank", "evaluate", "settle"]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_runtime_is_caught(fault):
    def make(plan, population, store, absent):
        executor = LocalExecutor(plan, "loop", population)
        odd = Odd(plan, population, store, Choice("loop", 4, True, ""), executor, absent)
        odd.fault = fault
        return odd

    caught(testing.check_clients, make)


@dataclass(frozen=True)
class Wrong(tasks.SoftmaxRegression):
    """A task with one fault."""

    fault: str = ""

    def gradient(self, w, buffers, batch):
        g, loss, buffers = super().gradient(w, buffers, batch)
        if self.fault == "gradient":
            g[..., 0] *= 2
        if self.fault == "matrix" and w.ndim > 1:
            g = g[::-1]
        return g, loss, buffers

    def descend(self, w, buffers, batch, rate):
        return super().descend(w, buffers, batch, 2 * rate if self.fault == "descend" else rate)

    def gradients(self, w, buffers, batch):
        g, losses = super().gradients(w, buffers, batch)
        return (np.broadcast_to(g.mean(0), g.shape) if self.fault == "rows" else g), losses

    def clipped(self, w, buffers, batch, bound):
        return super().clipped(w, buffers, batch, 2 * bound if self.fault == "clip" else bound)

    def evaluate(self, w, buffers, x, y, metrics=()):
        found = super().evaluate(w, buffers, x, y, metrics)
        return found | {"loss": found["loss"] / len(x)} if self.fault == "means" else found

    def check(self, x, y):
        if self.fault != "check":
            super().check(x, y)

    def init(self, key):
        w, buffers = super().init(key)
        if self.fault == "init":
            COUNTS["init"] += 1
            w += COUNTS["init"]
        return (w[:-1], buffers) if self.fault == "size" else (w, buffers)


@pytest.mark.parametrize(
    "fault",
    ["gradient", "matrix", "descend", "rows", "clip", "means", "check", "init", "size"],
)
def test_a_broken_task_is_caught(fault):
    draw = np.random.default_rng(0)
    rows = draw.normal(size=(12, 4)), draw.integers(0, 3, 12)
    testing.check_task(Wrong(4, 3), *rows)
    caught(testing.check_task, Wrong(4, 3, fault=fault), *rows)


@dataclass(frozen=True)
class Believes(RobustAggregator):
    """A mean of the rows with a fault."""

    fault: str = ""

    @property
    def min_replies(self):
        return 0 if self.fault == "least" else 1

    def aggregate(self, rows):
        if self.fault == "in place":
            rows[0]["delta"] *= 2
        if self.fault == "first":
            return tree_map(lambda x: x[0], rows)
        if self.fault == "dtype":
            return tree_map(lambda x: x.mean(0, dtype="float64"), rows)
        if self.fault == "shape":
            return tree_map(lambda x: x.mean(0, keepdims=True), rows)
        if self.fault == "random":
            return tree_map(lambda x: x.mean(0) + np.random.normal() * 1e-9, rows)
        divisor = 1 if self.fault == "sum" else None
        return tree_map(lambda x: x.sum(0) / x.dtype.type(divisor or len(x)), rows)

    def reduce(self, replies, invited):
        replies = tuple(replies)
        return super().reduce(replies[:1] if self.fault == "parts" else replies, invited)


def test_a_sound_rule_passes():
    testing.check_rule(Believes())


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("least", "no number above 0"),
        ("in place", "changes the rows"),
        ("dtype", "expected"),
        ("shape", "expected"),
        ("random", "gives other bits"),
        ("first", "in another order"),
        ("sum", "like rows"),
        ("parts", "keep every reply"),
    ],
)
def test_a_broken_rule_is_caught(fault, sentence, monkeypatch):
    monkeypatch.setattr("muster.testing.rule.check_value", lambda thing: None)
    assert sentence in caught(testing.check_rule, Believes(fault))


@dataclass(frozen=True)
class Draws(Sampler):
    """Independent coins, or broken on purpose."""

    fault: str = ""

    @property
    def traits(self):
        if self.fault == "traits":
            return "poisson"
        if self.fault in ("apart", "size"):
            return SamplerTraits("", count=3, separation=2)
        return SamplerTraits("poisson")

    def candidates(self, roster, state, round, key):
        return Cohort(roster.eligible[:2]) if self.fault == "asks" else None

    def sample(self, roster, state, round, key, losses=None):
        people = roster.clients if self.fault == "barred" else roster.eligible
        chance = np.full(len(people), 0.25)
        if self.fault == "rows":
            chance *= roster.eligible_rows() / roster.eligible_rows().mean()
        if self.fault == "losses":
            chance *= [1.5 if roster.losses.get(c, 1) > 0.6 else 1 for c in people]
        drawn = key.uniform(len(people))
        if self.fault == "random":
            drawn = np.random.default_rng().random(len(people))
        if self.fault == "pairs":
            drawn = np.repeat(drawn[::2], 2)[: len(people)]
        if self.fault == "rounds" and round % 2 == 0:
            drawn = type(key)(key.path[:-1]).at(round - 1).uniform(len(people))
        chosen = tuple(c for c, one, at in zip(people, drawn, chance, strict=True) if one < at)
        if self.fault == "apart":
            chosen = people[:3]
        if self.fault == "size":
            chosen = people[round % 2 * 2 :][:2]
        if self.fault == "times":
            return Cohort(chosen, (1,) * len(chosen)), state
        kept = {"lost": {1, 2}, "object": [object()]}.get(self.fault, state)
        if self.fault == "changes":
            kept = state or [0]
            kept[0] += 1
        return Cohort(chosen) if self.fault != "tuple" else chosen, kept

    def observe(self, state, roster, replies):
        return {1.5: 0} if self.fault == "observe" else state

    def share(self, roster):
        return {"share": 0.5, "none": 0.0}.get(self.fault, 0.25)


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("traits", "no SamplerTraits"),
        ("asks", "that its traits do not declare"),
        ("barred", "who may not be drawn"),
        ("rows", "a poisson draw has"),
        ("losses", "a poisson draw has"),
        ("pairs", "the pair"),
        ("rounds", "twice in a row"),
        ("share", "a poisson draw has 200"),
        ("none", "no number in"),
        ("random", "from the same arguments"),
        ("apart", "again after 1 rounds"),
        ("size", "its traits say 3"),
        ("times", "say replacement=True"),
        ("lost", "is lost"),
        ("object", "is lost"),
        ("observe", "observe returns is lost"),
        ("changes", "changes the state"),
        ("tuple", "no Cohort"),
    ],
)
def test_a_broken_sampler_is_caught(fault, sentence):
    testing.check_sampler(Draws())
    assert sentence in caught(testing.check_sampler, Draws(fault))
