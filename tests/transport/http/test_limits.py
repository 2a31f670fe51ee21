# SPDX-License-Identifier: Apache-2.0
"""How often one may ask."""

import pytest

from muster.security.refusal import RefusalReason, Refused
from muster.transport.http.limits import Limits


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_a_bucket_fills_at_its_rate_and_never_beyond_its_burst():
    clock = Clock()
    limits = Limits(2.0, 4.0, clock=clock)
    assert [limits.take("a") for _ in range(5)] == [0, 0, 0, 0, 0.5]
    clock.now += 0.5
    assert [limits.take("a") for _ in range(2)] == [0, 0.5]
    clock.now += 1000
    assert [limits.take("a") for _ in range(5)] == [0, 0, 0, 0, 0.5]
    assert limits.take("b") == 0
    with pytest.raises(Refused, match=r"a asks more than 2 times a second; wait 1 s") as caught:
        limits.check("a")
    assert caught.value.reason is RefusalReason.TOO_OFTEN


def test_the_table_is_bounded_and_forgets_the_most_silent():
    limits = Limits(1.0, 1.0, names=2, clock=Clock())
    assert [limits.take(name) for name in "ab"] == [0, 0]
    assert limits.take("a") == 1.0
    assert limits.take("c") == 0  # b is forgotten
    assert limits.take("a") == 1.0 and limits.take("b") == 0
    assert len(limits._left) == 2
