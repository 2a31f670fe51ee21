# SPDX-License-Identifier: Apache-2.0
"""Terms that cannot be kept are refused when they are written; sets travel as bits."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.errors import PlanError
from muster.secagg.session import Aborted, Keep, Reason, Terms, bitmap, members

TERMS = Terms("run", 1, bytes(32), bytes(32), size=8, most=255, cohort=10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"plan": b""}, "SHA-256"),
        ({"model": bytes(31)}, "SHA-256"),
        ({"minimum": 1}, "2 ≤ minimum"),
        ({"minimum": 11}, "minimum ≤ cohort"),
        ({"cohort": 65521}, "65520"),
        ({"corrupt": 1.0}, "two fractions"),
        ({"dropout": -0.1}, "two fractions"),
        ({"security": 0}, "one bit"),
        ({"size": 0}, "size ≥ 1"),
        ({"round": -1}, "round ≥ 0"),
        ({"most": 0}, "fewer bits"),
        ({"most": 1 << 62}, "fewer bits"),
    ],
)
def test_terms_that_cannot_be_kept_are_refused(change, message):
    with pytest.raises(PlanError, match=message):
        replace(TERMS, **change)


def test_the_digest_of_the_terms_covers_every_field():
    changes = [
        {"run": "other"}, {"round": 2}, {"plan": b"\1" * 32}, {"model": b"\1" * 32}, {"size": 9},
        {"most": 254}, {"cohort": 11}, {"minimum": 4}, {"corrupt": 0.2}, {"dropout": 0.2},
        {"malicious": True}, {"security": 41},
    ]  # fmt: skip
    assert {key for change in changes for key in change} == set(Terms.__dataclass_fields__)
    assert len({replace(TERMS, **change).context for change in [{}, *changes]}) == 13


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_a_set_comes_back(bits):
    assert members(bitmap(np.array(bits)), len(bits)).tolist() == bits


@pytest.mark.parametrize(("data", "count"), [(b"", 1), (b"\1\0", 8), (b"\1", 9), (b"\x08", 3)])
def test_what_is_no_set_is_refused(data, count):
    with pytest.raises(Aborted) as caught:
        members(data, count)
    assert caught.value.reason is Reason.MALFORMED


def test_an_end_travels_between_processes():
    error = pickle.loads(pickle.dumps(Aborted(Reason.COHORT, "too few", remote=True)))
    assert (error.reason, str(error), error.remote) == (Reason.COHORT, "too few", True)


def test_what_is_kept_does_not_print():
    assert "secret" not in repr(Keep("advertise", b"secret"))
