# SPDX-License-Identifier: Apache-2.0
"""The ring cannot overflow, packs without loss, and fields come back from a sum exactly."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.errors import PlanError
from muster.keys import key
from muster.pipeline.quantize import Quantize
from muster.pipeline.stage import Contract, Field
from muster.secagg.ring import Frame, IntegerRing, Span


@pytest.mark.parametrize("bits", range(1, 65))
@pytest.mark.parametrize("size", [1, 31, 32, 33, 64, 1000])
def test_packing_loses_nothing(bits, size):
    ring = IntegerRing(bits)
    vector = np.random.default_rng(bits).integers(0, 1 << 64, size, np.uint64).astype(ring.dtype)
    ring.reduce(vector)
    assert int(vector.max()) < 1 << bits
    data = ring.pack(vector)
    assert len(data) == ring.nbytes(size) <= bits * (size + 63) // 8 + 1
    assert np.array_equal(ring.unpack(data, size), vector)
    room = ring.buffer(size)
    room[:] = 77
    assert np.array_equal(ring.unpack(data, size, room), vector)


@given(st.integers(1, 10**6), st.integers(1, 1 << 40))
def test_the_narrowest_ring_that_cannot_overflow(count, most):
    bits = IntegerRing.of(count, most).bits
    assert count * most < 1 << bits and (bits == 1 or count * most >= 1 << bits - 1)


@pytest.mark.parametrize(("count", "most"), [(1000, 65535)])
def test_the_reference_width(count, most):
    assert IntegerRing.of(count, most).bits == 26


@pytest.mark.parametrize(("count", "most"), [(0, 1), (1, 0), (2, 1 << 63), (1000, 1 << 60)])
def test_a_ring_that_would_overflow_is_refused(count, most):
    with pytest.raises(PlanError, match="fewer bits in Quantize"):
        IntegerRing.of(count, most)


@given(st.integers(2, 20), st.integers(1, 1 << 30), st.integers(1, 9), st.integers(0, 2**32))
def test_fields_and_weight_come_back_from_a_sum(bits, cap, clients, seed):
    most = (1 << bits - 1) - 1
    frame = Frame((Span("delta", 5, -most - 1, most), Span("hits", 1, 0, 1)), cap)
    generator = np.random.default_rng(seed)
    rows = [
        {"delta": generator.integers(-most - 1, most + 1, (1, 5)), "hits": np.array([1])}
        for _ in range(clients)
    ]
    heavy = generator.integers(0, cap + 1, clients).tolist()
    flat = [frame.flatten(row, weight) for row, weight in zip(rows, heavy, strict=True)]
    assert all(len(v) == frame.size and int(v.max()) <= frame.most for v in flat)
    total = np.sum(flat, 0, dtype=np.uint64)
    fields, weight = frame.restore(total, clients)
    assert fields["delta"].tolist() == sum(row["delta"] for row in rows).reshape(-1).tolist()
    assert (fields["hits"].tolist(), weight) == ([clients], sum(heavy))


def test_the_weight_never_widens_the_ring():
    narrow = Frame((Span("delta", 3, -127, 127),), cap=1)
    heavy = Frame((Span("delta", 3, -127, 127),), cap=10**9)
    assert narrow.most == heavy.most == 254 and heavy.digits == 5


def test_what_quantize_makes_fits():
    stage, most = Quantize(bits=8, range=1.0), 127
    contract = Contract((Field("delta", 6),), cap=1)
    rows = {"delta": np.linspace(-2, 2, 6, dtype=np.float32)[None]}
    levels, _ = stage.encode(rows, contract, None, None, key(0))
    vector = Frame((Span("delta", 6, -most, most),)).flatten(levels)
    assert vector[0] == 0 and vector[5] == 2 * most


@pytest.mark.parametrize(
    ("fields", "weight"),
    [
        ({"delta": np.zeros(3)}, 1),
        ({"delta": np.zeros(2, int)}, 1),
        ({"delta": np.array([0, 0, 8])}, 1),
        ({"delta": np.array([0, -8, 0])}, 1),
        ({"delta": np.full(3, np.nan)}, 1),
        ({}, 1),
        ({"delta": np.zeros(3, int), "more": np.zeros(1, int)}, 1),
        ({"delta": np.zeros(3, int)}, 101),
        ({"delta": np.zeros(3, int)}, -1),
    ],
)
def test_what_does_not_fit_is_refused(fields, weight):
    with pytest.raises(PlanError, match="required"):
        Frame((Span("delta", 3, -7, 7),), cap=100).flatten(fields, weight)


@pytest.mark.parametrize(
    ("spans", "cap"),
    [
        ((), 1),
        ((Span("a", 1, 0, 1), Span("a", 1, 0, 1)), 1),
        ((Span("a", 1, 0, 1),), 0),
        ((Span("a", 0, 0, 1),), 1),
        ((Span("a", 1, 1, 1),), 1),
        ((Span("a", 1, 0, 1 << 63),), 1),
    ],
)
def test_a_frame_that_holds_nothing_is_refused(spans, cap):
    with pytest.raises(PlanError, match="give"):
        Frame(spans, cap)
