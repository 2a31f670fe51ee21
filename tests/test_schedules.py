# SPDX-License-Identifier: Apache-2.0
"""The factor of the local rate, round by round."""

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.errors import PlanError
from muster.schedules import Constant, Cosine, Exponential, Milestones, Schedule


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        (Constant(), [1, 1, 1, 1, 1, 1]),
        (Exponential(0.5), [1, 1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32]),
        (Exponential(0.5, every=2), [1, 1, 1 / 2, 1 / 2, 1 / 4, 1 / 4]),
        (Milestones((2, 4), 0.1), [1, 1, 0.1, 0.1, 0.01, 0.01]),
        (Milestones((4, 2), 0.1), [1, 1, 0.1, 0.1, 0.01, 0.01]),
        (Milestones(()), [1, 1, 1, 1, 1, 1]),
        (
            Cosine(4, floor=0.5),
            [1, (3 + math.sqrt(0.5)) / 4, 0.75, (3 - math.sqrt(0.5)) / 4, 0.5, 0.5],
        ),
        (Cosine(2, floor=0.2), [1, 0.6, 0.2, 0.2, 0.2, 0.2]),
    ],
    ids=str,
)
def test_factors(schedule, factors):
    assert [schedule.factor(round) for round in range(1, 7)] == pytest.approx(factors)


SCHEDULES = st.one_of(
    st.just(Constant()),
    st.builds(Exponential, st.floats(0.1, 1), st.integers(1, 5)),
    st.builds(Milestones, st.lists(st.integers(1, 50), max_size=4).map(tuple)),
    st.builds(Cosine, st.integers(1, 50), st.floats(0.001, 1)),
)


@given(SCHEDULES, st.integers(1, 60))
def test_a_schedule_starts_at_one_and_never_rises(schedule, round):
    assert schedule.factor(1) == 1
    assert 0 <= schedule.factor(round + 1) <= schedule.factor(round) + 1e-12


def test_schedules_are_values():
    assert Exponential(0.9) == Exponential(0.9)
    assert hash(Milestones((1, 2))) == hash(Milestones((1, 2)))
    assert isinstance(Cosine(3), Schedule)


@pytest.mark.parametrize(("decay", "every"), [(0, 1), (1.1, 1), (math.nan, 1), (0.9, 0)])
def test_a_decay_outside_its_range_is_refused(decay, every):
    with pytest.raises(PlanError, match=r"decay must lie in \(0, 1\] and every be at least 1"):
        Exponential(decay, every)


@pytest.mark.parametrize(
    "wrong", [lambda: Cosine(0), lambda: Cosine(3, floor=0.0), lambda: Milestones((1,), 0.0)]
)
def test_a_schedule_that_would_train_nothing_is_refused(wrong: Callable[[], Schedule]) -> None:
    with pytest.raises(PlanError, match="must be"):
        wrong()
