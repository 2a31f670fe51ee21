# SPDX-License-Identifier: Apache-2.0
"""What a curious server sees of a masked vector is uniform, whatever is masked."""

from dataclasses import replace

import numpy as np
import pytest

from muster.secagg import Aborted, Reason
from muster.secagg.answers import MISSING, graph_for
from tests.secagg.scene import Scene, named, terms

SIZE = 40_000


def seen(scene):
    """The masked vectors as the server sees them."""
    scene.run()
    ring = scene.terms.ring
    return {name: ring.unpack(m.vector, SIZE) for name, m in scene.masked.items()}


def chi_square(vector, bits):
    counts = np.bincount(vector >> np.uint32(bits - 6), minlength=64)
    return ((counts - len(vector) / 64) ** 2 / (len(vector) / 64)).sum()


@pytest.mark.parametrize("count", [3, 6])
def test_a_masked_vector_is_uniform(count):
    own = terms(count, size=SIZE, most=1)
    wide = replace(own, most=(1 << 12) - 1)
    for asked in (own, wide):
        bits = asked.ring.bits
        rows = {name: np.zeros(SIZE, "<u4") for name in named(count)}
        for masked in seen(Scene(asked, rows)).values():
            if bits >= 6:
                assert chi_square(masked, bits) < 110  # 63 degrees of freedom: p < 0.001
            for bit in range(bits):  # every bit plane is half ones, and no copy of its neighbour
                plane = masked >> np.uint32(bit) & 1
                assert abs(plane.mean() - 0.5) < 0.015
                assert abs((plane[1:] ^ plane[:-1]).mean() - 0.5) < 0.015


def test_swapping_two_inputs_changes_nothing_the_server_can_see():
    own = terms(4, size=SIZE, most=(1 << 12) - 1)
    low, high = np.zeros(SIZE, "<u4"), np.full(SIZE, own.most, "<u4")
    one = seen(Scene(own, dict(zip(named(4), (low, high, low, low), strict=True)), seed=1))
    two = seen(Scene(own, dict(zip(named(4), (high, low, low, low), strict=True)), seed=2))
    for name in named(4):
        a, b = (np.bincount(v[name] >> np.uint32(8), minlength=64) for v in (one, two))
        assert ((a - b) ** 2 / (a + b)).sum() < 110


def test_a_known_vector_says_nothing_of_another_mask():
    own = terms(4, size=SIZE, most=1)
    rows = {name: np.zeros(SIZE, "<u4") for name in named(4)}  # all known: what is seen is mask
    masks = seen(Scene(own, rows))
    for bit in range(own.ring.bits):
        planes = [masks[name] >> np.uint32(bit) & 1 for name in named(4)]
        for other in planes[1:]:
            assert abs((planes[0] ^ other).mean() - 0.5) < 0.015


def test_two_sessions_share_no_mask():
    own = terms(3, size=SIZE, most=(1 << 12) - 1)
    rows = {name: np.zeros(SIZE, "<u4") for name in named(3)}
    one, two = (seen(Scene(own, rows, seed=seed)) for seed in (1, 2))
    again = seen(Scene(replace(own, round=2), rows, seed=1))  # the same draws in another round
    for other in (two, again):
        assert (one["c0000"] == other["c0000"]).mean() < 0.002


def test_both_sides_find_the_same_graph():
    own = terms(1000, corrupt=0.1)
    graph = graph_for(own, 1000, b"s" * 32)
    assert (graph.degree, graph.threshold) == (48, 27)
    assert graph.order != graph_for(own, 1000, b"t" * 32).order


def test_the_mark_of_a_missing_share_is_no_number_of_the_field():
    assert MISSING >= 65521


def test_a_broken_set_ends_the_session():
    def down(name, message):
        changed = type(message).__name__ == "Survivors" and name == "c0001"
        return [replace(message, alive=b"\xff\xff")] if changed else [message]

    scene = Scene(terms(5), {n: np.ones(7, "<u4") for n in named(5)}, down=down)
    scene.run()
    assert scene.reason("c0001") is Reason.MALFORMED
    assert isinstance(scene.ended["c0001"], Aborted)
