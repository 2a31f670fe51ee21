# SPDX-License-Identifier: Apache-2.0
"""A transcript has one form, holds what it may, and refuses all else in a sentence."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("cryptography")

from tests.security.transcript.scene import CROWD, NOW, transcript

from muster.errors import AuditError
from muster.security.pki.notary import Peer
from muster.security.transcript.record import Transcript, described, from_value, to_value


def test_a_transcript_is_read_as_it_was_written():
    made = transcript()
    value = json.loads(json.dumps(to_value(made)))
    assert from_value(value) == made
    assert value["roster"][1] == {
        "name": "bob",
        "organisation": "Hôpital Nord",
        "serial": "b",
        "key": f"{11:064x}",
    }
    assert value["left"][1] == ["mask", ["ann", "bob", "zoe"]]


def test_a_time_is_kept_in_utc_to_the_millisecond():
    far = timezone(timedelta(hours=5, minutes=30))
    made = transcript(began=datetime(2026, 5, 4, 12, 0, 0, 123_999, tzinfo=far))
    assert to_value(made)["began"] == "2026-05-04T06:30:00.123+00:00"
    assert from_value(json.loads(json.dumps(to_value(made)))) == made


def test_a_session_that_came_to_nothing_has_a_transcript_too():
    made = transcript(session="", roster=(), left=(), outcome="given up", reason="nobody came")
    assert from_value(json.loads(json.dumps(to_value(made)))) == made


PEER = CROWD[0]


@pytest.mark.parametrize(
    "change",
    [
        {"study": ""},
        {"study": "x" * 129},
        {"study": "heart\n"},
        {"study": 7},
        {"run": "\u202erun"},
        {"round": 0},
        {"round": True},
        {"round": 1.0},
        {"round": 1 << 63},
        {"revoked": -1},
        {"session": "AB" * 32},
        {"session": "ab"},
        {"terms": []},
        {"terms": {"x": 0.5}},
        {"terms": {"x": None}},
        {"terms": {"x": True}},
        {"terms": {"X": 1}},
        {"terms": {"x": "y" * 129}},
        {"terms": {"x": 1 << 63}},
        {"terms": {f"x{'y' * k}": k for k in range(65)}},
        {"roster": [*CROWD]},
        {"roster": ("ann",)},
        {"roster": CROWD[::-1], "left": ()},
        {"roster": (PEER, PEER), "left": ()},
        {"roster": (Peer("Ann", "x", "1", "0" * 64),), "left": ()},
        {"roster": (Peer("ann", "In\u202eserm", "1", "0" * 64),), "left": ()},
        {"roster": (Peer("ann", "Ho\u0302pital", "1", "0" * 64),), "left": ()},
        {"roster": (Peer("ann", "x", "0x1", "0" * 64),), "left": ()},
        {"roster": (Peer("ann", "x", "1", "0" * 63),), "left": ()},
        {"left": [("share", ("ann",))]},
        {"left": (("share",),)},
        {"left": (("share", ["ann"]),)},
        {"left": (("share", "ann"),)},
        {"left": (("Share", ("ann",)),)},
        {"left": (("share", ("mia",)),)},
        {"left": (("share", ("zoe", "ann")),)},
        {"left": (("share", ("ann", "ann")),)},
        {"left": (("share", (7,)),)},
        {"left": tuple((f"step {'x' * k}", ()) for k in range(17))},
        {"counts": ()},
        {"counts": [("share", 4), ("mask", 3)]},
        {"counts": (("share", 4), ("consent", 3))},
        {"counts": (("share", 4), "mask")},
        {"counts": (("share", 3), ("mask", 3))},
        {"counts": (("share", 4), ("mask", True))},
        {"counts": (("share", 4), ("mask", 3.0))},
        {"outcome": "won"},
        {"reason": "x" * 1001},
        {"reason": "\x1b[31m"},
        {"reason": None},
        {"began": datetime(2026, 5, 4)},
        {"ended": "2026-05-04"},
    ],
)
def test_a_field_that_it_may_not_hold_is_refused_in_one_short_line(change):
    with pytest.raises(AuditError) as caught:
        transcript(**change)
    told = str(caught.value)
    assert told.isprintable() and len(told) < 300


@given(
    place=st.sampled_from([*to_value(transcript())]),
    value=st.none()
    | st.integers()
    | st.text(max_size=5)
    | st.floats()
    | st.booleans()
    | st.lists(st.none() | st.text(max_size=3), max_size=3)
    | st.dictionaries(st.text(max_size=3), st.none() | st.integers() | st.text(max_size=3)),
)
def test_any_value_in_place_of_a_field_is_refused_or_is_one(place, value):
    changed = json.loads(json.dumps(to_value(transcript()))) | {place: value}
    try:
        made = from_value(changed)
    except AuditError:
        return
    assert json.loads(json.dumps(to_value(made))) == changed


@pytest.mark.parametrize("value", [None, 7, "x", [], {}, {"study": "x"}])
def test_what_is_no_transcript(value):
    with pytest.raises(AuditError, match="no transcript"):
        from_value(value)


def test_another_spelling_of_the_same_is_refused():
    value = json.loads(json.dumps(to_value(transcript())))
    for change in (
        {"began": value["began"].replace("+00:00", "Z")},
        {
            "left": [["share", "a"]],
            "counts": [["share", 1]],
            "roster": [value["roster"][0] | {"name": "a"}],
        },
    ):
        with pytest.raises(AuditError, match="written in another way"):
            from_value(value | change)


def test_the_terms_of_a_session_are_described_without_fractions():
    @dataclass(frozen=True)
    class Agreed:
        run: str = "run-1"
        plan: bytes = b"\xab" * 32
        cohort: int = 4
        corrupt: float = 1 / 3
        malicious: bool = True

    found = described(Agreed())
    assert found == {
        "run": "run-1",
        "plan": "ab" * 32,
        "cohort": 4,
        "corrupt": "0.3333333333333333",
        "malicious": "True",
    }
    assert transcript(terms=found).terms == found


def test_the_terms_of_a_real_session_fit():
    secagg = pytest.importorskip("muster.secagg")
    terms = secagg.SessionTerms(
        "s", "run-1", 3, bytes(32), bytes(32), size=8, most=65535, cohort=1000
    )
    assert transcript(terms=described(terms)).terms["cohort"] == 1000
    assert isinstance(transcript(), Transcript) and NOW.tzinfo is UTC
