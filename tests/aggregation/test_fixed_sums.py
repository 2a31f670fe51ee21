# SPDX-License-Identifier: Apache-2.0
"""Replies in fixed point: the same bits in any order, block and tree."""

import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.aggregation import Mean
from muster.aggregation.fixed_sums import fixed_sum, partial_sum, settled
from muster.types import Reply

COUNT = 30
INVITED = tuple(range(COUNT))
FIXED = Mean(sum="fixed")


def rows(seed=0):
    """Updates of all sizes, one vector of floats and one of integers, of so many clients."""
    rng = np.random.default_rng(seed)
    delta = rng.lognormal(0, 20, (COUNT, 7)) * rng.choice([-1, 1], (COUNT, 7))
    levels = rng.integers(-(2**40), 2**40, (COUNT, 3))
    weights = rng.lognormal(0, 3, COUNT)
    metrics = {"loss": rng.lognormal(0, 9, COUNT), "rows": np.ones(COUNT)}
    buffers = rng.normal(size=(COUNT, 2)).astype(np.float32)
    return {"delta": delta.astype(np.float32), "levels": levels}, buffers, weights, metrics


PAYLOAD, BUFFERS, WEIGHTS, METRICS = rows()


def reply(i):
    payload = {name: value[i] for name, value in PAYLOAD.items()}
    metrics = {name: float(values[i]) for name, values in METRICS.items()}
    return Reply((i,), payload, float(WEIGHTS[i]), metrics, BUFFERS[i], norms=((i, 1.0),))


def together(clients):
    """The partial sum of clients that trained as one group."""
    at = list(clients)
    taken = {name: value[at] for name, value in PAYLOAD.items()}
    metrics = {name: values[at] for name, values in METRICS.items()}
    return partial_sum(Reply(tuple(at), {}, 0.0), taken, BUFFERS[at], WEIGHTS[at], metrics)


def bits(reply):
    assert (type(reply.weight), type(reply.metrics["loss"])) == (float, float)
    arrays = (*reply.payload.values(), reply.buffers)
    return [(a.dtype.str, a.tobytes()) for a in arrays], reply.weight, reply.metrics


WANTED = FIXED.reduce(map(reply, INVITED), INVITED)


@given(st.permutations(INVITED), st.randoms(use_true_random=False))
def test_any_order_grouping_and_tree(order, chance):
    pieces = []
    while order:
        count = chance.randint(1, min(9, len(order)))
        part, order = order[:count], order[count:]
        shapes = [
            lambda part=part: [reply(i) for i in part],
            lambda part=part: [together(part)],
            lambda part=part: [fixed_sum([reply(i) for i in part])],
            lambda part=part: [pickle.loads(pickle.dumps(together(part)))],
        ]
        pieces += chance.choice(shapes)()
    chance.shuffle(pieces)
    if chance.random() < 0.5:
        half = len(pieces) // 2
        pieces = [one for one in (fixed_sum(pieces[:half]), fixed_sum(pieces[half:])) if one]
    found = FIXED.reduce(iter(pieces), INVITED)
    assert bits(found) == bits(WANTED)
    assert sorted(found.clients) == list(INVITED)


def test_the_float_sum_is_another_in_another_order():
    """The test above has power."""
    a, b = (Mean().reduce(map(reply, order), INVITED) for order in (INVITED, INVITED[::-1]))
    assert a.payload["delta"].tobytes() != b.payload["delta"].tobytes()
    assert a.metrics["loss"] != b.metrics["loss"]


def test_it_is_the_sum():
    exact = [math.fsum(column) for column in PAYLOAD["delta"].T.tolist()]
    assert WANTED.payload["delta"].tolist() == pytest.approx(exact, rel=1e-6)
    assert WANTED.payload["levels"].tolist() == PAYLOAD["levels"].sum(0).tolist()
    assert WANTED.weight == math.fsum(WEIGHTS)
    assert WANTED.metrics == {"loss": math.fsum(METRICS["loss"]), "rows": COUNT}


def test_what_was_given_is_left_as_it_was():
    first = reply(0)
    before = first.payload["delta"].copy(), first.payload["levels"].copy()
    FIXED.reduce([first, reply(1)], INVITED)
    assert first.payload["delta"].tobytes() == before[0].tobytes()
    assert first.payload["levels"].tobytes() == before[1].tobytes()


def test_metrics_that_one_keeps_are_none():
    quiet = Reply((3,), reply(3).payload, 1.0, {}, BUFFERS[3])
    assert settled(fixed_sum([reply(0), quiet, reply(1)])).metrics == {}


def test_nobody():
    assert fixed_sum([]) is None
    assert FIXED.reduce(iter([]), ()) is None
    assert FIXED.partial(iter([]), ()) is Mean().partial(iter([]), ()) is None
