# SPDX-License-Identifier: Apache-2.0
"""Rules keep replies apart, and the order in which they came."""

import numpy as np

from muster.aggregation import Median
from muster.types import Reply


def reply(clients, value, weight):
    note = ({"survivors": len(clients)},) if len(clients) > 1 else ()
    return Reply(clients, {"delta": np.array([value])}, weight, {"loss": value}, None, note)


def test_nobody_is_none():
    assert Median().reduce(iter(()), ("a", "b")) is None


def test_replies_are_the_parts_of_one():
    parts = (reply(("b",), 1.0, 2.0), reply(("a", "c"), 5.0, 3.0))
    total = Median().reduce(iter(parts), ("a", "b", "c"))
    assert total.parts == parts
    assert total.clients == ("b", "a", "c")
    assert (total.weight, total.metrics) == (5.0, {"loss": 6.0})
    assert total.secure == ({"survivors": 2},)
