# SPDX-License-Identifier: Apache-2.0
"""The worst client counts, as dp-accounting says of each by itself."""

import numpy as np
import pytest

from muster.extras import require
from muster.local import Local
from muster.privacy import PerExample, promise
from muster.privacy.gaussian import gaussian_epsilon
from muster.privacy.rows import Held, affords, worst

DELTA = 1e-5


def rule(batches="poisson", multiplier=2.0, **fields):
    return Local(**{"batch": 16} | fields, examples=PerExample(1.0, multiplier, batches))


def library(rate, steps, multiplier):
    """The tight value, without a line of ours."""
    room = require("dp_accounting", extra="privacy")
    event = room.GaussianDpEvent(multiplier)
    if rate < 1:
        event = room.PoissonSampledDpEvent(rate, event)
    accountant = require("dp_accounting.pld", extra="privacy").PLDAccountant()
    return accountant.compose(event, steps).get_epsilon(DELTA)


@pytest.mark.parametrize("local", [rule(steps=5), rule(epochs=2)])
def test_it_is_the_largest_of_what_the_library_says_of_each(local):
    draw = np.random.default_rng(1)
    sizes, turns = draw.integers(8, 300, 8).tolist(), draw.integers(0, 6, 8).tolist()
    people = list(map(Held, range(8), sizes, turns))
    each = {}
    for one in people:
        if one.turns:
            batch = min(16, one.rows)
            steps = local.steps or local.epochs * -(-one.rows // batch)
            each[one] = library(batch / one.rows, steps * one.turns, 2.0)
    found = worst(local, people, DELTA)
    assert found.spent.epsilon == pytest.approx(max(each.values()), rel=1e-3)
    assert each[found.held] == pytest.approx(max(each.values()), rel=1e-3)
    assert found.spent.epsilon == promise(local, found.held.rows, found.held.turns, DELTA).epsilon


def test_full_batches_have_a_closed_form():
    found = worst(rule(steps=3, batch=None), [Held("a", 9, 4), Held("b", 90, 5)], DELTA)
    assert found.held.client == "b"  # how many rows is nothing to a full batch
    assert found.spent.epsilon == pytest.approx(gaussian_epsilon(DELTA, 2.0 / 15**0.5))


def test_where_a_full_batch_meets_shuffled_ones_the_noise_decides():
    """An epoch in pieces is sensitive to √5 bounds, one whole to one."""
    found = worst(rule("shuffled", epochs=1), [Held("a", 16, 4), Held("b", 64, 1)], DELTA)
    assert found.held.client == "b"
    assert found.spent.epsilon == pytest.approx(gaussian_epsilon(DELTA, 2.0 / 5**0.5))
    more = worst(rule("shuffled", epochs=1), [Held("a", 16, 6), Held("b", 64, 1)], DELTA)
    assert more.held.client == "a"
    assert more.spent.epsilon == pytest.approx(gaussian_epsilon(DELTA, 2.0 / 6**0.5))


def test_nobody_who_never_trained_is_charged():
    assert worst(rule(steps=5), [], DELTA) is None
    assert worst(rule(steps=5), [Held("a", 20, 0)], DELTA) is None


def test_many_clients_cost_few_looks(monkeypatch):
    from muster.privacy.rows import parallel

    looks = []
    monkeypatch.setattr(
        parallel, "spent", lambda *a, real=parallel.spent: looks.append(1) or real(*a)
    )
    many = [Held(i, 20 + i % 400, 1 + i % 7) for i in range(4000)]
    found = worst(rule(steps=5, multiplier=4.0), many, DELTA)
    assert len(looks) < 10
    wanted = max(
        promise(rule(steps=5, multiplier=4.0), n, t, DELTA).epsilon
        for n, t in {(h.rows, h.turns) for h in many if h.rows < 27}
    )
    assert found.spent.epsilon == wanted


@pytest.mark.parametrize("local", [rule(steps=5), rule(epochs=1)])
def test_a_budget_affords_what_the_worst_client_can_bear(local):
    sizes = [200, 40, 90]
    rounds = affords(local, sizes, 5.0, DELTA)
    assert max(promise(local, n, rounds, DELTA).epsilon for n in sizes) <= 5.0
    assert max(promise(local, n, rounds + 1, DELTA).epsilon for n in sizes) > 5.0
    assert affords(local, sizes, 0.01, DELTA) == 0
