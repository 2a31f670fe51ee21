# SPDX-License-Identifier: Apache-2.0
"""A record and its row say the same."""

import json
from types import SimpleNamespace

import pytest

pytest.importorskip("sqlalchemy")

from muster.store.records import Transition
from muster.store.sql.tables import transition, transition_row


def stored(row):
    """Return a row as a database gives it back: JSON has no tuples."""
    return SimpleNamespace(**json.loads(json.dumps(row)))


@pytest.mark.parametrize("client", ["a", "1", 1, -5, "ü\n", ""])
def test_records_come_back(client):
    for step in (Transition(0.5, 1, "a", "b", "c", client), Transition(0.5, 1, "a", "b", "c")):
        assert transition(stored(transition_row(step))) == step
