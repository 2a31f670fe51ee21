# SPDX-License-Identifier: Apache-2.0
"""The streaming mean: a weighted sum of fixed shape, whatever the pieces it arrives in."""

import weakref

import numpy as np
import pytest
from tests.laws.setting import planned

from muster.aggregation import Mean
from muster.aggregation.sums import add
from muster.errors import PlanError
from muster.plan.registry import assign, fingerprint, to_value
from muster.types import Reply


def reply(client, value=1.0, weight=1.0):
    delta = np.atleast_1d(value)
    return Reply((client,), {"delta": delta}, weight, {"loss": float(delta[0])})


def test_nobody_sums_to_nothing():
    assert Mean().reduce([], ("a", "b")) is None
    assert Mean().reduce([], ()) is None


def test_everything_adds_up():
    total = Mean().reduce([reply("a", 1.0, 2.0), reply("c", 5.0, 3.0)], ("a", "b", "c"))
    assert total.clients == ("a", "c")
    assert total.payload["delta"].tolist() == [6.0]
    assert (total.weight, total.metrics) == (5.0, {"loss": 6.0})


@pytest.mark.parametrize("gone", [(), (0,), (0, 1, 2, 3), (17, 50, 99)])
def test_absent_clients_leave_holes(gone):
    """A block is a place among the invited: who is absent moves nobody into another block."""
    rng = np.random.default_rng(3)
    invited = tuple(f"{i:03}" for i in range(100))  # blocks of four
    values = rng.normal(size=(100, 8))  # eight sums, so that one alike by luck hides nothing
    here = [i for i in range(100) if i not in gone]
    replies = [reply(invited[i], values[i]) for i in here]
    blocks = [[r for r, i in zip(replies, here, strict=True) if i // 4 == b] for b in range(25)]
    expected = add([add(block) for block in blocks if block])
    total = Mean().reduce(iter(replies), invited)
    assert total.payload["delta"].tobytes() == expected.payload["delta"].tobytes()
    assert total.weight == expected.weight
    assert total.payload["delta"].tobytes() != add(replies).payload["delta"].tobytes()
    run = [add([add(block) for block in blocks[:9] if block])]
    rest = [add(block) for block in blocks[9:] if block]
    again = Mean().reduce(run + rest, invited)
    assert again.payload["delta"].tobytes() == expected.payload["delta"].tobytes()


def test_replies_are_consumed_one_by_one():
    """Memory does not grow with the cohort: no reply is kept once the next is asked for."""
    seen = []

    def stream():
        for i in range(64):
            one = reply(i)
            seen.append(weakref.ref(one))
            yield one
            del one
            assert sum(ref() is not None for ref in seen) <= 4

    assert Mean().reduce(stream(), tuple(range(64))).payload["delta"].tolist() == [64.0]


def test_an_unknown_denominator_is_refused():
    with pytest.raises(PlanError, match=r"Mean.denominator='all'.: use 'replies' or 'expected'"):
        Mean("all")


def test_an_unknown_sum_is_refused():
    with pytest.raises(PlanError, match=r"Mean.sum='exact'.: use 'float' or 'fixed'"):
        Mean(sum="exact")


def test_a_run_that_was_begun_before_there_was_a_choice_of_sums_goes_on():
    """The value of a plan, and so its fingerprint, is what it was; another sum is another plan."""
    assert to_value(Mean()) == {"class": "Mean", "denominator": "replies"}
    assert to_value(Mean(sum="fixed")) == to_value(Mean()) | {"sum": "fixed"}
    assert assign(planned(), "aggregation=Mean(sum='fixed')").aggregation == Mean(sum="fixed")
    assert fingerprint(planned(aggregation=Mean(sum="fixed"))) != fingerprint(planned())
