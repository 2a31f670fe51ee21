# SPDX-License-Identifier: Apache-2.0
"""A round that does or does not count is an output that no noise covers: so it tells nothing."""

import math

import numpy as np
import pytest

from muster import Every, Local, Plan, aggregation, algorithms, sampling, tasks
from muster.errors import PlanError
from muster.pipeline import BandedNoise, Clip, DiscreteNoise, LocalNoise, Noise, Quantize, SecureSum
from muster.rounds import play, start
from muster.store import MemoryStore
from muster.types import Reply, Roster


def plan(*stages, **fields):
    values = {
        "task": tasks.numpy.LinearRegression(2),
        "algorithm": algorithms.FedAvg(),
        "local": Local(steps=1),
        "pipeline": stages,
        "weighting": "equal",
        "aggregation": aggregation.Mean("expected"),
        "evaluate": Every(clients=0),
    }
    return Plan(**(values | fields))


NOISY = (Clip(1.0), Noise(1.0))
BANDED = (Clip(1.0), BandedNoise(1.0, 2))
MASKED = (Clip(1.0), Quantize(8), Noise(1.0), SecureSum())


class Few:
    """Clients of whom these answer, each with one update."""

    def __init__(self, names, payload):
        self.names, self.payload = names, payload

    def known(self):
        return Roster(tuple(range(10)), lambda: np.ones(10, int))

    def send(self, cohort, sent, round):
        self.round = round

    def replies(self):
        for name in self.names:
            yield Reply((name,), {"delta": self.payload}, 1.0, {}, np.zeros(0))

    def evaluate(self, cohort, sent, round):
        return iter(())

    def settle(self, round, accepted):
        self.accepted = accepted


def test_the_tenth_of_ten_decides_whether_a_round_counts():
    """Without noise that is a setting; under noise it is one bit that tells all: δ = 1 at any ε."""
    bare = plan(Clip(1.0), minimum=10)
    for count, abandoned in ((10, False), (9, True)):
        store = MemoryStore()
        play(bare, start(bare), Few(range(count), np.zeros(3)), store, 1, lambda *_: {})
        assert store.history()[0]["abandoned"] is abandoned
    with pytest.raises(PlanError, match="would give a round up for want of replies"):
        plan(*NOISY, minimum=10)


@pytest.mark.parametrize("minimum", [2, 10, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("stages", [NOISY, BANDED, MASKED], ids=["noise", "banded", "masked"])
@pytest.mark.parametrize("draw", [sampling.All(), sampling.Poisson(0.5)], ids=["all", "coins"])
def test_noise_on_the_sum_has_no_minimum(stages, minimum, draw):
    with pytest.raises(PlanError, match=r"Plan\(minimum=.* use Plan\(minimum=1\): a sum of nobody"):
        plan(*stages, minimum=minimum, sampling=draw)
    assert plan(*stages, minimum=1, sampling=draw).minimum == 1


def test_noise_of_the_clients_keeps_its_minimum():
    shares = (Clip(1.0), Quantize(8), DiscreteNoise(1.0, 10, dropout=0.2))
    assert plan(*shares, minimum=8).minimum == 8
    local = plan(Clip(1.0), LocalNoise(1.0, 1e-5), minimum=3, aggregation=aggregation.Mean())
    assert local.minimum == 3


@pytest.mark.parametrize(
    ("count", "q", "least", "without", "more"),
    [(20, 0.5, 18, 2.01e-4, 7.45e-4), (100, 0.5, 50, 0.540, 0.579), (100, 0.5, 60, 0.0284, 0.0364)],
)
def test_coins_do_not_hide_the_bit_either(count, q, least, without, more):
    """One client more commits more often: the gap is δ that no noise takes away."""

    def commits(n):
        return sum(math.comb(n, k) * q**k * (1 - q) ** (n - k) for k in range(least, n + 1))

    assert commits(count) == pytest.approx(without, rel=5e-3)
    assert commits(count + 1) == pytest.approx(more, rel=5e-3)
    assert commits(count + 1) - commits(count) > 1e-4


@pytest.mark.parametrize("stages", [NOISY, BANDED], ids=["noise", "banded"])
@pytest.mark.parametrize("count", [0, 1, 9, 10])
def test_whoever_answers_a_round_under_noise_counts(stages, count):
    made, store = plan(*stages), MemoryStore()
    before = start(made)
    clients = Few(range(count), np.ones(3, np.float32))
    state = play(made, before, clients, store, 1, lambda *_: {})
    assert store.history()[0]["abandoned"] is False
    assert (state.algorithm.shared.x != before.algorithm.shared.x).all()


class Unread(np.ndarray):
    """Numbers that may be added up and covered by noise, and not be looked at before."""

    def __array_ufunc__(self, ufunc, method, *given, **named):
        assert (ufunc, method) in ((np.add, "__call__"), (np.multiply, "__call__")), (
            f"{ufunc.__name__}.{method} read a sum before its noise was added"
        )
        bare = [np.asarray(x) if isinstance(x, Unread) else x for x in given]
        named.pop("out", None)
        found = ufunc(*bare, **named)
        covered = ufunc is np.add and not all(isinstance(x, Unread) for x in given)
        return found if covered else found.view(Unread)

    def __bool__(self):
        raise AssertionError("a sum was read before its noise was added")

    __float__ = __int__ = __bool__


def unread():
    return np.full(3, 7, np.float32).view(Unread)


@pytest.mark.parametrize("stages", [NOISY, BANDED], ids=["noise", "banded"])
def test_nothing_looks_at_a_sum_before_its_noise_is_added(stages):
    """Checks of a new model, whichever there are, read what is released and nothing else."""
    made, store = plan(*stages), MemoryStore()
    with pytest.raises(AssertionError, match=r"isfinite\.__call__ read a sum"):
        np.isfinite(unread())
    with pytest.raises(AssertionError, match="read a sum before"):
        unread().max()
    state = play(made, start(made), Few(range(4), unread()), store, 1, lambda *_: {})
    assert type(state.algorithm.shared.x) is np.ndarray
    plain = play(
        made, start(made), Few(range(4), np.full(3, 7, np.float32)), MemoryStore(), 1, lambda *_: {}
    )
    assert state.algorithm.shared.x.tobytes() == plain.algorithm.shared.x.tobytes()
