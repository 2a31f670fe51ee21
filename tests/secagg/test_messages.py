# SPDX-License-Identifier: Apache-2.0
"""A message comes back as it went; anything else is `Malformed`, never another error."""

from dataclasses import replace
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.secagg.agreement import framed
from muster.secagg.messages import (
    CLIENT_KINDS,
    HEAD,
    KINDS,
    Advert,
    Compared,
    Complaint,
    Complaints,
    Consent,
    Delivery,
    KeyRoster,
    Malformed,
    MaskedVector,
    Members,
    OpenedShares,
    PublicKeys,
    Quit,
    Quorum,
    Revealed,
    SessionEnded,
    Shares,
    Survivors,
    read,
)

key = st.binary(min_size=32, max_size=32)
blob = st.binary(max_size=60)
entry = st.builds(PublicKeys, st.text(min_size=1, max_size=30), key, key, key, blob)
complaint = st.builds(Complaint, st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), blob)
complaints = st.lists(complaint, max_size=4).map(tuple)
MESSAGES = st.one_of(
    st.builds(Advert, key, entry),
    st.builds(KeyRoster, key, st.lists(entry, max_size=4).map(tuple)),
    st.builds(Shares, key, blob, blob, blob, blob),
    *(
        st.builds(kind, key, blob)
        for kind in (OpenedShares, Members, MaskedVector, Survivors, Consent, Revealed)
    ),
    *(st.builds(kind, key, complaints) for kind in (Compared, Complaints)),
    st.builds(Delivery, key, blob, blob),
    st.builds(Quorum, key, blob, st.lists(blob, max_size=4).map(tuple)),
    *(st.builds(kind, st.text(min_size=1, max_size=16)) for kind in (Quit, SessionEnded)),
)


@given(MESSAGES)
def test_a_message_comes_back(message):
    data = message.to_bytes()
    assert read(data) == message == type(message).from_bytes(data)
    assert read(data).to_bytes() == data


@given(MESSAGES, st.data())
def test_a_damaged_message_is_malformed_or_another_message(message, data):
    sent = bytearray(message.to_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(sent) - 1))
        sent[at] = data.draw(st.integers(0, 255))
    try:
        again = read(bytes(sent))
    except Malformed:
        return
    assert again.to_bytes() == bytes(sent)  # one form in bytes for each message


@given(MESSAGES, st.data())
def test_a_cut_or_longer_message_is_malformed(message, data):
    sent = message.to_bytes()
    with pytest.raises(Malformed):
        read(sent[: data.draw(st.integers(0, len(sent) - 1))])
    with pytest.raises(Malformed, match="after the end"):
        read(sent + data.draw(st.binary(min_size=1, max_size=5)))


@given(st.binary(max_size=300))
def test_noise_is_malformed(data):
    for head in (b"", HEAD, *(HEAD + bytes([kind]) for kind in KINDS)):
        try:
            message = read(head + data)
        except Malformed:
            continue
        assert message.to_bytes() == head + data


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_huge_length_allocates_nothing(kind):
    with pytest.raises(Malformed):
        read(HEAD + bytes([kind]) + bytes(32) + b"\xff" * 8 + bytes(200))


@pytest.mark.parametrize(
    "message",
    [
        Shares(bytes(31), b"", b"", b"", b""),
        Compared(bytes(32), (Complaint(0, 1, bytes(257)),)),
        MaskedVector(bytes(33), b""),
        Consent(bytes(32), bytes(257)),
        Survivors(bytes(32), bytes(8191)),
        Quit(""),
        SessionEnded("x" * 65),
        Advert(bytes(32), PublicKeys("x" * 256, bytes(32), bytes(32), bytes(32), b"")),
        Advert(bytes(32), PublicKeys("x", bytes(32), bytes(31), bytes(32), b"")),
    ],
)
def test_fields_that_make_no_message_are_not_sent(message):
    with pytest.raises(Malformed):
        message.to_bytes()


def test_another_kind_is_malformed():
    with pytest.raises(Malformed, match="Shares is required"):
        Shares.from_bytes(Quit("DONE").to_bytes())
    with pytest.raises(Malformed, match="kind 99"):
        read(HEAD + b"\x63")


def test_a_statement_is_of_one_client_under_one_set_of_terms():
    one = PublicKeys("a", bytes(32), b"\1" * 32, bytes(32), b"")
    other = PublicKeys("b", bytes(32), b"\1" * 32, bytes(32), b"")
    said = {e.statement(context) for e in (one, other) for context in (bytes(32), b"\1" * 32)}
    assert len(said) == 4


def test_a_session_is_of_one_roster_in_one_round():
    one = PublicKeys("a", bytes(32), b"\1" * 32, bytes(32), b"")
    two = PublicKeys("a", bytes(32), b"\2" * 32, bytes(32), b"")
    ids = {
        KeyRoster(bytes(32), entries).session(*place)
        for entries in ((one,), (two,), (one, two), ())
        for place in (
            ("s", "r", "1", "1"),
            ("s", "r", "2", "1"),
            ("s", "q", "1", "1"),
            ("t", "r", "1", "1"),
            ("s", "r", "1", "2"),
        )
    }
    assert len(ids) == 20


def roster(*names, context=bytes(32)):
    entries = [
        PublicKeys(name, bytes([i]) * 32, bytes([99, i]) * 16, bytes([i, 99]) * 16, b"mark")
        for i, name in enumerate(names)
    ]
    return KeyRoster(context, tuple(entries))


def test_what_follows_from_a_roster_is_no_part_of_it():
    fresh, used = roster("ann", "bob"), roster("ann", "bob")
    assert used.ordered and used.distinct and used.places == {"ann": 0, "bob": 1}
    assert [name for name, *_ in used.signed] == ["ann", "bob"]
    assert used.session("run", "1") == fresh.session("run", "1") != fresh.session("run", "2")
    assert used == fresh and repr(used) == repr(fresh)
    assert used.to_bytes() == fresh.to_bytes() and read(used.to_bytes()) == fresh


def test_the_session_is_the_hash_of_run_round_and_all_keys():
    given = roster("ann", "bob")
    parts = [b"muster secagg session", b"run", b"7", *(e.keys for e in given.entries)]
    assert given.session("run", "7") == sha256(framed(*parts)).digest()


@pytest.mark.parametrize("names", [("bob", "ann"), ("ann", "ann")])
def test_an_unsorted_roster_is_known(names):
    assert not roster(*names).ordered


@pytest.mark.parametrize("field", ["mask_key", "channel_key", "commitment"])
def test_a_shared_key_is_known(field):
    good = roster("ann", "bob")
    bad = replace(good.entries[1], **{field: good.entries[0].mask_key})
    assert not KeyRoster(good.context, (good.entries[0], bad)).distinct


def test_what_is_signed_holds_the_terms():
    one, other = roster("ann"), roster("ann", context=b"x" * 32)
    assert one.signed[0][1] == one.entries[0].statement(one.context) != other.signed[0][1]


def test_who_says_what():
    said = {kind.__name__ for number, kind in KINDS.items() if number in CLIENT_KINDS}
    told = {"KeyRoster", "Delivery", "Complaints", "Members", "Survivors", "Quorum", "SessionEnded"}
    assert said.isdisjoint(told) and said | told == {kind.__name__ for kind in KINDS.values()}


def test_a_key_in_another_form_is_known():
    good = roster("ann", "bob")
    assert good.odd == ()
    twin = replace(good.entries[1], channel_key=b"\xff" * 32)
    assert KeyRoster(good.context, (good.entries[0], twin)).odd == ("bob",)
