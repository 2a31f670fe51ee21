# SPDX-License-Identifier: Apache-2.0
"""Control messages: they arrive as they were, or are refused for one of the listed reasons."""

import asyncio
import json
import pickle
import tracemalloc
from dataclasses import FrozenInstanceError, replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.federation.coordinator import scenes as coming
from tests.federation.coordinator.scenes import STATES

from muster.errors import MusterError
from muster.federation.coordinator.admission import AdmissionLimits, admit, arrived
from muster.federation.coordinator.commands import AskTask, BodyArrived
from muster.federation.coordinator.decide import decide
from muster.federation.coordinator.receiver import Receiver
from muster.federation.coordinator.service import FederationService
from muster.federation.coordinator.uploads import Uploads
from muster.federation.protocol import message
from muster.federation.protocol.codec_tensors import decode, digest, encode
from muster.federation.protocol.message import (
    Ack,
    Hello,
    Poll,
    TrainAssignment,
    UpdateHeader,
    Welcome,
    agree,
    from_json,
    to_json,
)
from muster.federation.protocol.transport import UpdateBody
from muster.security.refusal import RefusalReason, Refused, parse
from muster.transport.http.limits import Limits

HASH = "0123456789abcdef" * 4
HELLO = Hello((1, 2), "lyon", HASH)
WELCOME = Welcome(2, "digits-1", "lyon", 15.0, "hearts")
TASK = TrainAssignment("digits-1", 3, HASH, 15.0)
UPDATE = UpdateHeader("digits-1", 3, HASH, 1000, 120.0, {"loss": 0.25, "rows": 120.0})
VERDICT = Ack(False, RefusalReason.LATE, "ended 3 s ago")
ALL = [HELLO, WELCOME, TASK, UPDATE, VERDICT, Ack(True)]
KINDS = (Hello, Welcome, TrainAssignment, UpdateHeader, Ack)


def reason(call, *arguments, **more):
    with pytest.raises(Refused) as caught:
        call(*arguments, **more)
    assert len(str(caught.value)) < 500 and str(caught.value).isprintable()
    return caught.value.reason


NAMES = st.text(min_size=1, max_size=128).filter(lambda t: t.isprintable() and t.strip() == t)
DIGESTS = st.text("0123456789abcdef", min_size=64, max_size=64)
ROUNDS = st.integers(1, 1 << 31)
IDS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", fullmatch=True)
FINITE = st.floats(-1e300, 1e300)
MESSAGES = st.one_of(
    st.builds(
        Hello,
        st.sets(st.integers(1, 9999), min_size=1, max_size=16).map(lambda s: tuple(sorted(s))),
        NAMES,
        DIGESTS,
        st.integers(0, 1 << 50),
    ),
    st.builds(
        TrainAssignment,
        IDS,
        ROUNDS,
        DIGESTS,
        st.floats(0, 1e7),
        st.integers(1, 9),
        st.integers(0, 99),
        st.integers(1, 1 << 31),
    ),
    st.builds(
        UpdateHeader,
        IDS,
        ROUNDS,
        DIGESTS,
        st.integers(8, 1 << 50),
        st.floats(0, 1e300),
        st.dictionaries(NAMES, FINITE, max_size=5),
    ),
    st.builds(Ack, st.just(False), st.sampled_from(RefusalReason), NAMES),
)


@settings(max_examples=300, deadline=None)
@given(MESSAGES)
def test_a_message_arrives_as_it_was(said):
    back = from_json(to_json(said), *KINDS)
    assert back == said and type(back) is type(said)
    assert to_json(back) == to_json(said)


def test_a_message_is_plain_json_and_cannot_change():
    assert json.loads(to_json(UPDATE)) == {
        "kind": "update",
        "run": "digits-1",
        "round": 3,
        "digest": HASH,
        "size": 1000,
        "weight": 120.0,
        "metrics": {"loss": 0.25, "rows": 120.0},
        "attempt": 1,
    }
    with pytest.raises(FrozenInstanceError):
        TASK.round = 4
    assert from_json(to_json(TASK).replace(b"15.0", b"15"), TrainAssignment) == TASK
    assert UpdateHeader("r", 1, HASH, 8, np.float64(2)).weight == 2.0


WRONG = {
    "versions": [(), [], (2, 1), (1, 1), (0,), tuple(range(1, 30)), "1", 1, [1.0], [True], None],
    "name": ["", " a", "a ", "a\nb", "x" * 129, 3, None, ["a"], "\ud800", "a\u202eb"],
    "fingerprint": ["", HASH[1:], HASH + "0", HASH.upper(), HASH[:-1] + "\n", 1, None],
    "run": ["", "../x", "a/b", ".a", "a b", "é", "x" * 129, 1, None],
    "round": [0, -1, (1 << 31) + 1, 1.0, True, "1", None, 1 << 20_000],
    "model": ["x" * 64, None],
    "lease": [-1, 1e8, "1", None, True],
    "digest": ["", None],
    "size": [7, -1, 1 << 51, 8.0, "8", None],
    "weight": [-0.5, 1e301, 10**400, "1", None, False],
    "metrics": [
        None,
        [],
        {"a": "b"},
        {"": 1.0},
        {1: 1.0},
        {"a": None},
        {"a": {"b": 1}},
        {str(n): 1.0 for n in range(2049)},
        {"a": 10**400},
    ],
    "accepted": [None, 0, 1, "true", True],
    "reason": ["", "because", 1, [], None, {}],
    "text": ["x" * 1001, "a\0b", None, 1],
    "study": ["", "../x", ".a", "a b", "x" * 65, 1, None],
    "peers": [-1, 1.0, True, None],
    "attempt": [0, -1, 1.0, (1 << 31) + 1, None],
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_field_is_refused_when_made_and_when_read(name):
    for said in (HELLO, WELCOME, TASK, UPDATE, VERDICT):
        if not hasattr(said, name):
            continue
        for value in WRONG[name]:
            assert reason(replace, said, **{name: value}) is RefusalReason.MALFORMED
            if not isinstance(value, int) or abs(value) < 10**300:
                text = json.dumps(json.loads(to_json(said)) | {name: value}).encode()
                if name != "metrics" or value != {1: 1.0}:
                    assert reason(from_json, text, *KINDS) is RefusalReason.MALFORMED


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_are_refused(bad):
    assert reason(replace, UPDATE, weight=bad) is RefusalReason.NOT_FINITE
    assert reason(replace, UPDATE, metrics={"loss": bad}) is RefusalReason.NOT_FINITE
    for text in (str(json.dumps(bad)), "1e999"):
        sent = to_json(UPDATE).replace(b"0.25", text.encode())
        assert reason(from_json, sent, UpdateHeader) is RefusalReason.NOT_FINITE


def test_unknown_missing_doubled_and_foreign_are_refused():
    plain = json.loads(to_json(TASK))
    assert (
        reason(from_json, json.dumps(plain | {"extra": 1}).encode(), TrainAssignment)
        is RefusalReason.MALFORMED
    )
    for name in plain:
        less = {key: value for key, value in plain.items() if key != name}
        assert (
            reason(from_json, json.dumps(less).encode(), TrainAssignment) is RefusalReason.MALFORMED
        )
    twice = to_json(TASK)[:-1] + b',"round":3}'
    assert reason(from_json, twice, TrainAssignment) is RefusalReason.MALFORMED
    assert reason(from_json, to_json(TASK), UpdateHeader, Ack) is RefusalReason.MALFORMED
    for kind in ("message", "terms", [], {}, None, 1):
        text = json.dumps(plain | {"kind": kind}).encode()
        assert reason(from_json, text, *KINDS) is RefusalReason.MALFORMED


BOMBS = {
    "long": (b'"' + b"a" * (1 << 22) + b'"', "too large"),
    "deep": (b"[" * 60_000, "malformed"),
    "deep objects": (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "malformed"),
    "deep behind quotes": (b'"' * 20_001 + b"[" * 40_000, "malformed"),
    "escapes": (b'"' + b'\\"' * 30_000, "malformed"),
    "many digits": (b"9" * 60_000, "malformed"),
    "many names": (b"{" + b",".join(b'"%d":0' % n for n in range(6000)) + b"}", "malformed"),
    "empty": (b"", "malformed"),
    "BOM": ("\ufeff{}".encode(), "malformed"),
    "not UTF-8": (b'{"kind":"\xff"}', "malformed"),
    "two values": (b"{} {}", "malformed"),
}


@pytest.mark.parametrize(("sent", "why"), BOMBS.values(), ids=BOMBS)
def test_a_bomb_is_refused_in_little_memory(sent, why):
    tracemalloc.start()
    assert reason(from_json, sent, *KINDS) == why
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 << 20


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_are_refused(noise):
    reason(from_json, noise, *KINDS)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda kids: (
        st.lists(kids, max_size=3) | st.dictionaries(st.text(max_size=5), kids, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(ALL), st.data())
def test_any_json_in_any_field_is_refused_or_a_message(said, data):
    plain = json.loads(to_json(said))
    plain[data.draw(st.sampled_from([*plain]))] = data.draw(JSON)
    try:
        back = from_json(json.dumps(plain).encode(), *KINDS)
    except Refused as error:
        assert error.reason in (RefusalReason.MALFORMED, RefusalReason.NOT_FINITE)
    else:
        assert from_json(to_json(back), *KINDS) == back


def test_every_truncation_and_every_flipped_bit_is_refused_or_a_message():
    for said in ALL:
        sent = to_json(said)
        for length in range(len(sent)):
            assert reason(from_json, sent[:length], *KINDS) is RefusalReason.MALFORMED
        for place in range(len(sent) * 8):
            bad = bytearray(sent)
            bad[place // 8] ^= 1 << place % 8
            try:
                assert isinstance(from_json(bytes(bad), *KINDS), KINDS)
            except Refused as error:
                assert error.reason in (RefusalReason.MALFORMED, RefusalReason.NOT_FINITE)


def test_the_newest_common_version_is_agreed_on_or_both_are_named():
    assert agree(replace(HELLO, versions=(1, 2, 3)), replace(HELLO, versions=(2, 3, 4))) == 3
    with pytest.raises(Refused, match=r"version 1, 2 .*'lyon' speaks 3, 4") as caught:
        agree(HELLO, replace(HELLO, versions=(3, 4)))
    assert caught.value.reason is RefusalReason.WRONG_VERSION
    with pytest.raises(Refused, match=r"plan is 0123456789ab… .* ffffffffffff…"):
        agree(HELLO, replace(HELLO, fingerprint="f" * 64))
    assert agree(replace(HELLO, versions=message.VERSIONS), HELLO) == 2


TERMS = AdmissionLimits("digits-1", 3, left=1.0)
BODY = {"w": np.array([np.nan])}
UPLOADS = Uploads(FederationService(SimpleNamespace(refusals={}), None), Receiver(None, None))


def decided(state, command):
    """Raise what a coordinator in one of the states of its table refuses."""
    server = STATES[state]()
    found = decide(server.state, server.volatile, command, server.now)
    raise found if isinstance(found, Refused) else found.answer


REFUSALS = {
    RefusalReason.LATE: lambda: admit(UPDATE, replace(TERMS, left=-0.001)),
    RefusalReason.DUPLICATE: lambda: admit(UPDATE, replace(TERMS, held="f" * 64)),
    RefusalReason.STALE: lambda: admit(UPDATE, replace(TERMS, round=4)),
    RefusalReason.FOREIGN: lambda: admit(UPDATE, replace(TERMS, invited=False)),
    RefusalReason.MALFORMED: lambda: arrived(UPDATE, HASH, 999),
    RefusalReason.TOO_LARGE: lambda: admit(UPDATE, replace(TERMS, limit=999)),
    RefusalReason.NOT_FINITE: lambda: decode(b"".join(encode(BODY)), BODY, finite=True),
    RefusalReason.REVOKED: lambda: admit(UPDATE, replace(TERMS, revoked=True)),
    RefusalReason.UNKNOWN_RUN: lambda: admit(UPDATE, replace(TERMS, run="digits-2")),
    RefusalReason.WRONG_FINGERPRINT: lambda: agree(HELLO, replace(HELLO, fingerprint="f" * 64)),
    RefusalReason.WRONG_VERSION: lambda: agree(HELLO, replace(HELLO, versions=(3,))),
    RefusalReason.WRONG_DIGEST: lambda: arrived(UPDATE, digest([b"damaged"]), 1000),
    RefusalReason.NO_ROOM: lambda: admit(UPDATE, replace(TERMS, room=999)),
    RefusalReason.TOO_OFTEN: lambda: Limits(burst=0.5).check("lyon"),
    RefusalReason.CLOSED: lambda: decided("failed", BodyArrived("a", coming.UPDATE)),
    RefusalReason.LEFT_OUT: lambda: decided("left out", AskTask("a", Poll(coming.RUN, 0, 1.0))),
    RefusalReason.UNKNOWN: lambda: asyncio.run(
        UPLOADS.take("lyon", UpdateBody(3, HASH, 8), 0, None)
    ),
    RefusalReason.UNENROLLED: lambda: decided("open", AskTask("c", Poll(coming.RUN, 0, 1.0))),
}


@pytest.mark.parametrize("why", RefusalReason)
def test_every_reason_is_reached_told_and_travels(why):
    with pytest.raises(Refused) as caught:
        REFUSALS[why]()
    error = caught.value
    assert error.reason is why and isinstance(error, MusterError)
    assert str(error) == f"{why.value}: {error.text}"
    assert from_json(to_json(Ack.of(error)), Ack) == Ack(False, why, error.text)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.reason, again.text) == (Refused, why, error.text)


def test_an_update_is_wanted_once_and_a_repeat_is_no_fault():
    assert admit(UPDATE, TERMS) is True
    assert admit(UPDATE, replace(TERMS, left=0.0, limit=1000, room=1000)) is True
    assert admit(UPDATE, replace(TERMS, held=HASH, left=-9.0, limit=1, room=0)) is False
    assert reason(admit, UPDATE, replace(TERMS, round=2)) is RefusalReason.FOREIGN
    assert reason(admit, UPDATE, replace(TERMS, revoked=True, held=HASH)) is RefusalReason.REVOKED
    assert arrived(UPDATE, HASH, 1000) is None


def test_a_refusal_of_anything_can_be_told():
    told = Ack.of(Refused(RefusalReason.MALFORMED, "a\0b\ud800c\n" + "x" * 2000))
    assert told.text == "a?b?c\n" + "x" * 994 and not told.accepted
    assert parse(b'{"a": [1, 2.5, "\\u00e9"]}', 100, 2) == {"a": [1, 2.5, "é"]}
    assert reason(parse, b"[[]]", 100, 1) is RefusalReason.MALFORMED
