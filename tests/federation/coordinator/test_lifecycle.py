# SPDX-License-Identifier: Apache-2.0
"""A round closes for one of three reasons, and a lease ends for one: no progress."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.federation.coordinator.lifecycle import Call, closes, late, next_event, phase
from muster.store.records import Assignment

STANDINGS = ("invited", "arrived", "declined", "failed", "late")
SEATS = st.lists(st.sampled_from(STANDINGS), max_size=9).map(
    lambda found: {i: Assignment(i, standing) for i, standing in enumerate(found)}
)
TIMES = st.floats(0, 100)


@pytest.mark.parametrize(
    ("standings", "call", "now", "cause"),
    [
        (["arrived", "declined", "failed", "late"], Call(4), 0, "everybody has answered"),
        ([], Call(0), 0, "everybody has answered"),
        (["arrived", "invited"], Call(1), 0, "enough have replied"),
        (["arrived", "invited"], Call(2), 0, None),
        (["declined", "invited"], Call(1), 0, None),
        (["invited"], Call(1, 5.0), 4.999, None),
        (["invited"], Call(1, 5.0), 5.0, "the deadline has passed"),
    ],
)
def test_when_it_closes(standings, call, now, cause):
    seats = [Assignment(i, standing) for i, standing in enumerate(standings)]
    assert closes(call, seats, now) == cause


@given(SEATS, st.dictionaries(st.integers(0, 8), TIMES), TIMES)
def test_only_those_who_are_awaited_and_silent_are_late(seats, leases, now):
    gone = {seat.client for seat in late(seats, leases, now)}
    for client, seat in seats.items():
        silent = leases.get(client, math.inf) <= now
        assert (client in gone) == (seat.standing == "invited" and silent)


@given(SEATS, st.dictionaries(st.integers(0, 8), TIMES), TIMES, TIMES)
def test_nothing_changes_by_the_clock_before_the_next_event(seats, leases, until, now):
    call = Call(len(seats) + 1, until)
    event = next_event(call, seats, leases)
    if now < event:
        assert closes(call, seats.values(), now) in (None, "everybody has answered")
        assert not late(seats, leases, now)
    elif event < math.inf:
        assert closes(call, seats.values(), event) or late(seats, leases, event)


def test_phases_go_forward():
    invited, arrived = Assignment(1), Assignment(1, "arrived")
    assert [phase([invited], False), phase([invited], True), phase([arrived], True)] == [
        "selected",
        "training",
        "collecting",
    ]
    assert phase([arrived], taken=False) == "collecting"  # after a restart
