# SPDX-License-Identifier: Apache-2.0
"""A record and its row say the same."""

import json
from types import SimpleNamespace

import pytest
from tests.store.scene import arrived, opening

pytest.importorskip("sqlalchemy")

from muster.store.records import Assignment, Transition
from muster.store.sql.tables import (
    name_of,
    opened_row,
    seat,
    seat_row,
    transition,
    transition_row,
)
from muster.store.sql.tables import (
    opening as opened_of,
)


def stored(row):
    """Return a row as a database gives it back: JSON has no tuples."""
    return SimpleNamespace(**json.loads(json.dumps(row)))


@pytest.mark.parametrize("client", ["a", "1", 1, -5, "ü\n", ""])
def test_records_come_back(client):
    for one in (
        arrived(client),
        Assignment(client),
        Assignment(client, "failed", "crash", "Traceback"),
    ):
        assert seat(stored(seat_row(3, "train", one))) == one
    for step in (Transition(0.5, 1, "a", "b", "c", client), Transition(0.5, 1, "a", "b", "c")):
        assert transition(stored(transition_row(step))) == step
    one = opening(clients=(client, 7))
    assert opened_of(stored(opened_row(one))) == one


def test_one_and_the_text_one_are_two_clients():
    assert name_of(1) != name_of("1")
