# SPDX-License-Identifier: Apache-2.0
"""Tensors on the wire: they arrive bit for bit, and whatever else comes is refused."""

import json
import mmap
import tracemalloc
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hn
from safetensors.numpy import load, save

from muster.federation.protocol import codec_tensors
from muster.federation.protocol.codec_tensors import (
    Header,
    check_header,
    decode,
    digest,
    encode,
    head_size,
)
from muster.security.refusal import RefusalReason, Refused
from muster.vectors import leaves

DTYPES = ["f8", "f4", "f2", "c8", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?"]
SHAPES = hn.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
ARRAYS = st.sampled_from(DTYPES).flatmap(lambda dtype: hn.arrays(dtype, SHAPES))
META = {"__metadata__": {"muster": "1"}}


class Pair(NamedTuple):
    w: Any
    c: Any


TREES = st.recursive(
    st.none() | ARRAYS,
    lambda kids: (
        st.dictionaries(
            st.text(st.characters(exclude_characters="."), max_size=5), kids, max_size=3
        )
        | st.tuples(kids, kids)
        | st.builds(Pair, kids, kids)
    ),
    max_leaves=6,
)
TEMPLATE = {"a": np.zeros((2, 3), "f4"), "b": np.zeros(5, "i1"), "c": np.zeros((), "f8")}


def body(tree):
    return b"".join(encode(tree))


def packed(header, data=b""):
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    return len(head).to_bytes(8, "little") + head + data


def odd(head):
    """A header whose length is no multiple of eight."""
    head += b" " * (1 - len(head) % 8 + 8)
    return len(head).to_bytes(8, "little") + head


def same(a, b):
    found, wanted = dict(leaves(a)), dict(leaves(b))
    assert list(found) == list(wanted)
    for name, array in wanted.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()


def reason(call, *arguments, **more):
    with pytest.raises(Refused) as caught:
        call(*arguments, **more)
    assert len(str(caught.value)) < 500 and str(caught.value).isprintable()
    return caught.value.reason


@settings(max_examples=200, deadline=None)
@given(TREES)
def test_a_tree_arrives_bit_for_bit(tree):
    sent = body(tree)
    back = decode(sent, tree)
    same(back, tree)
    assert type(back) is type(tree)
    assert all(not a.size or not a.flags.writeable for _, a in leaves(back))
    assert check_header(sent, tree, size=len(sent)).size == len(sent)
    assert body(back) == sent and digest(encode(tree)) == digest([sent])


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text(max_size=5), ARRAYS, max_size=5))
def test_the_safetensors_library_agrees_in_both_directions(arrays):
    arrays = {f"{name}!": array for name, array in arrays.items()}
    read = load(body(arrays))
    assert read.keys() == arrays.keys()
    same({name: read[name] for name in arrays}, arrays)
    same(decode(save(arrays, metadata={"muster": "1"}), arrays), arrays)


def test_the_body_does_not_depend_on_the_order_of_names_or_on_the_layout_in_memory():
    x, y = np.arange(6.0).reshape(2, 3), np.ones(3, "f4")
    assert body({"x": x, "y": y}) == body({"y": y, "x": np.asfortranarray(x)})
    assert body({"x": x[:, ::-1]}) == body({"x": x[:, ::-1].copy()})
    assert body({"x": x.astype(">f8"), "n": 1.5}) == body({"x": x, "n": np.float64(1.5)})
    places = check_header(body({"y": y, "x": x}), {"x": x, "y": y}).places
    assert places["x"][1] == places["y"][0] and places["x"][0] % 8 == 0


def test_arrays_are_sent_from_and_read_where_they_lie(tmp_path):
    big = {"w": np.arange(3 << 18, dtype="f8")}
    tracemalloc.start()
    pieces = list(encode(big))
    path = tmp_path / "body"
    with path.open("wb") as file:
        file.writelines(pieces)
    with path.open("rb") as file:
        held = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    back = decode(held, big, finite=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 << 20 < big["w"].nbytes
    assert max(map(len, pieces)) <= 1 << 20
    assert np.shares_memory(np.frombuffer(pieces[1], np.uint8), big["w"])
    same(back, big)
    assert not decode(bytearray(body(big)), big)["w"].flags.writeable
    del back
    held.close()


def test_a_template_needs_no_memory():
    template = {"w": np.broadcast_to(np.float32(0), (1 << 40,))}
    head = {"w": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}
    sent = packed(META | head)
    found = check_header(sent, template)
    assert found == Header(len(sent) + (1 << 42), {"w": (len(sent), len(sent) + (1 << 42))})
    assert reason(decode, sent, template) is RefusalReason.MALFORMED


UNSENDABLE = [
    {"a": np.array(["text"])},
    {"a": np.array([None])},
    {"a": np.zeros(1, "c16")},
    {"a": np.zeros(1, "M8[s]")},
    {"a": np.zeros(1, [("x", "f4")])},
    {"__metadata__": 1.0},
    {"a": {"b": 1.0}, "a.b": 2.0},
    {1: 1.0, "1": 2.0},
    {"a": 1 << 70},
    {"a": np.longdouble(1)},
]


@pytest.mark.parametrize("tree", UNSENDABLE)
def test_what_cannot_travel_is_refused_before_the_first_byte(tree):
    assert reason(encode, tree) is RefusalReason.MALFORMED
    assert reason(check_header, packed(META), tree) is RefusalReason.MALFORMED


def test_every_truncation_and_every_longer_body_is_refused():
    sent = body(TEMPLATE)
    need = head_size(sent[:8])
    for length in range(len(sent)):
        assert reason(decode, sent[:length], TEMPLATE) is RefusalReason.MALFORMED
        if length >= need:
            assert check_header(sent[:length], TEMPLATE).size == len(sent)
        else:
            assert reason(check_header, sent[:length], TEMPLATE) is RefusalReason.MALFORMED
    assert reason(decode, sent + b"\0", TEMPLATE) is RefusalReason.MALFORMED


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=300), st.booleans())
def test_random_bytes_are_refused(noise, framed):
    reason(decode, packed(noise) if framed else noise, TEMPLATE)


def test_every_flipped_bit_of_a_header_is_refused_or_changes_nothing():
    tree = TEMPLATE | {"flag": np.array([True, False])}
    sent = body(tree)
    start = head_size(sent)
    for place in range(len(sent)):
        for bit in range(8):
            bad = bytearray(sent)
            bad[place] ^= 1 << bit
            try:
                back = decode(bytes(bad), tree)
            except Refused as error:
                assert error.reason in (
                    RefusalReason.MALFORMED,
                    RefusalReason.TOO_LARGE,
                    RefusalReason.WRONG_VERSION,
                )
                continue
            assert place >= start or body(back) == sent  # a changed number is the digest's to find
            assert digest([bad]) != digest([sent])


def entry(**changes):
    return {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]} | changes


def head(**entries):
    return META | {"c": entry(dtype="F64", shape=[], data_offsets=[0, 8])} | entries


A, B = entry(data_offsets=[8, 32]), entry(dtype="I8", shape=[5], data_offsets=[32, 37])
GOOD = head(a=A, b=B)
EARLY = B | {"data_offsets": [24, 29]}
FAR, AFTER_B = 1 << 70, A | {"data_offsets": [13, 37]}
HOSTILE = {
    "huge length": (b"\xff" * 8, "too large"),
    "length over the limit": (packed(b" " * (2 << 20)), "too large"),
    "header over what the plan needs": (packed(b"[" * 2000), "too large"),
    "unpadded": ((1).to_bytes(8, "little") + b"{", "malformed"),
    "unpadded JSON": (odd(json.dumps(GOOD).encode()), "malformed"),
    "a list": (packed([]), "malformed"),
    "null": (packed(b"null"), "malformed"),
    "not UTF-8": (packed(b'{"\xff": 1}'), "malformed"),
    "UTF-16": (packed(json.dumps(GOOD).encode("utf-16")), "malformed"),
    "deep": (packed(b"[" * 200), "malformed"),
    "deep behind a quote": (packed(b'{"\\"":' + b"[" * 200), "malformed"),
    "many digits": (packed(b"9" * 600), "malformed"),
    "NaN": (packed(b'{"a": NaN}'), "not finite"),
    "no metadata": (packed({"a": A}), "wrong version"),
    "other version": (packed(GOOD | {"__metadata__": {"muster": "2"}}), "wrong version"),
    "unknown name": (packed(GOOD | {"d" * 100: A}), "malformed"),
    "surrogate": (packed(GOOD | {"\ud800": A}), "malformed"),
    "missing name": (packed(head(a=A)), "malformed"),
    "duplicate": (packed(json.dumps(GOOD).encode()[:-1] + b', "a": 1}'), "malformed"),
    "no entry": (packed(head(a=3, b=B)), "malformed"),
    "entry with more": (packed(head(a=A | {"x": 1}, b=B)), "malformed"),
    "other dtype": (packed(head(a=A | {"dtype": "I32"}, b=B)), "malformed"),
    "dtype a list": (packed(head(a=A | {"dtype": ["F32"]}, b=B)), "malformed"),
    "other shape": (packed(head(a=A | {"shape": [3, 2]}, b=B)), "malformed"),
    "flat shape": (packed(head(a=A | {"shape": [6]}, b=B)), "malformed"),
    "shape of fractions": (packed(head(a=A | {"shape": [2.0, 3]}, b=B)), "malformed"),
    "shape a number": (packed(head(a=A | {"shape": 6}, b=B)), "malformed"),
    "negative": (packed(head(a=A | {"data_offsets": [-24, 0]}, b=B)), "malformed"),
    "backwards": (packed(head(a=A | {"data_offsets": [32, 8]}, b=B)), "malformed"),
    "overlap": (packed(head(a=A | {"data_offsets": [0, 24]}, b=B)), "malformed"),
    "overlap without a hole": (packed(head(a=A | {"data_offsets": [0, 24]}, b=EARLY)), "malformed"),
    "lie at the end": (packed(head(a=A, b=B | {"data_offsets": [32, 40]})), "malformed"),
    "hole": (packed(head(a=A | {"data_offsets": [16, 40]}, b=B)), "malformed"),
    "lie": (packed(head(a=A | {"data_offsets": [8, 36]}, b=B)), "malformed"),
    "huge offsets": (packed(head(a=A | {"data_offsets": [FAR, FAR + 24]}, b=B)), "malformed"),
    "misaligned": (packed(head(b=B | {"data_offsets": [8, 13]}, a=AFTER_B)), "malformed"),
    "three offsets": (packed(head(a=A | {"data_offsets": [8, 32, 0]}, b=B)), "malformed"),
    "no offsets": (packed(head(a=A | {"data_offsets": []}, b=B)), "malformed"),
    "offsets a number": (packed(head(a=A | {"data_offsets": 8}, b=B)), "malformed"),
    "infinite offset": (packed(json.dumps(GOOD).encode().replace(b"32]", b"1e999]")), "malformed"),
    "true offset": (packed(json.dumps(GOOD).encode().replace(b"[0,", b"[false,")), "malformed"),
}


@pytest.mark.parametrize(("sent", "why"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_header_costs_nothing(sent, why):
    assert decode(packed(GOOD, bytes(37)), TEMPLATE)["c"] == 0
    tracemalloc.start()
    assert reason(check_header, sent, TEMPLATE) == why
    assert reason(decode, sent + bytes(37), TEMPLATE) == why
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 300_000 + 2 * codec_tensors.LIMIT * (len(sent) > codec_tensors.LIMIT)


def test_sizes_that_lie_are_refused():
    sent = body(TEMPLATE)
    for size in (0, len(sent) - 1, len(sent) + 1, 1 << 60):
        assert reason(check_header, sent, TEMPLATE, size=size) is RefusalReason.MALFORMED
    assert reason(check_header, sent, TEMPLATE, limit=64) is RefusalReason.TOO_LARGE
    assert reason(decode, sent, TEMPLATE, limit=64) is RefusalReason.TOO_LARGE


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "c8"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused_on_request(dtype, bad):
    tree = {"w": np.zeros((2, codec_tensors.CHUNK), dtype), "n": np.zeros(3, "i4")}
    assert decode(body(tree), tree, finite=True)["w"].shape == tree["w"].shape
    tree["w"][1, -1] = bad
    assert reason(decode, body(tree), tree, finite=True) is RefusalReason.NOT_FINITE
    same(decode(body(tree), tree), tree)


def test_a_byte_that_is_no_truth_value_is_refused():
    tree = {"m": np.array([True, False])}
    sent = bytearray(body(tree))
    sent[-1] = 2
    assert reason(decode, sent, tree) is RefusalReason.MALFORMED


def test_the_first_array_begins_where_kernels_like_it():
    for count in range(1, 40):
        tree = {"a" * count: np.ones(3, "float32"), "b": np.ones(count, "float32")}
        sent = body(tree)
        assert codec_tensors.check_header(sent, tree).places["a" * count][0] % 64 == 0
        assert np.array_equal(decode(sent, tree)["b"], tree["b"])
