# SPDX-License-Identifier: Apache-2.0
"""The finder gives every published pair; the graph is regular, symmetric, and nobody's choice."""

import numpy as np
import pytest

from muster.errors import PlanError
from muster.secagg.graph import Graph, Odds, find, graph_of

SM = True
PUBLISHED = [
    (100, 0.45, 0.45, False, 92, 46),
    (1000, 0.45, 0.45, False, 822, 417),
    (100, 0.33, 0.33, False, 68, 34),
    (1000, 0.33, 0.33, False, 286, 150),
    (10_000, 0.33, 0.33, False, 422, 221),
    (1000, 0.05, 0.33, False, 72, 24),
    (1000, 0.05, 0.33, SM, 398, 223),
    (100, 0.05, 0.33, SM, 72, 39),
    (10, 0.33, 0.05, False, 4, 4),
    (100, 0.33, 0.05, False, 34, 29),
    (1000, 0.33, 0.05, False, 78, 60),
]
CORRUPT = [(0.05, False), (0.1, False), (0.2, False), (1 / 3, False), (0.1, SM)]
TENTH = {
    100: [(16, 6), (22, 11), (32, 21), (42, 32), (32, 22)],
    1000: [(36, 19), (48, 27), (68, 44), (102, 72), (96, 67)],
    10_000: [(42, 22), (54, 31), (80, 51), (126, 88), (122, 85)],
    100_000: [(46, 23), (58, 33), (88, 55), (138, 96), (134, 93)],
}
PUBLISHED += [
    (count, corrupt, 0.1, malicious, *found)
    for count, row in TENTH.items()
    for (corrupt, malicious), found in zip(CORRUPT, row, strict=True)
]


@pytest.mark.parametrize(("n", "corrupt", "dropout", "malicious", "k", "t"), PUBLISHED)
def test_every_published_pair(n, corrupt, dropout, malicious, k, t):
    assert find(n, Odds(corrupt, dropout, malicious)) == (k, t)


@pytest.mark.parametrize(
    ("n", "odds"),
    [
        (1000, Odds(0.5, 0.45)),
        (1000, Odds(0.1, 0.45, malicious=True)),
        (100, Odds(0.33, 0.33, True)),
        (4, Odds(0.3, 0.3)),
        (3, Odds(0.45, 0.45)),
    ],
)
def test_no_sparse_solution(n, odds):
    assert find(n, odds) is None
    graph = graph_of(n, odds, bytes(32))
    assert (graph.degree, graph.order) == (n - 1, ())


def test_one_client_is_no_cohort():
    with pytest.raises(PlanError, match="invite at least 2"):
        find(1, Odds(0.1, 0.1))


def test_more_security_never_makes_the_graph_sparser():
    degrees = [find(1000, Odds(0.1, 0.1, security=bits))[0] for bits in (20, 40, 60, 80)]
    assert degrees == sorted(degrees) and degrees[0] < degrees[-1]


@pytest.mark.parametrize("n", range(2, 30))
def test_small_cohorts_are_complete_with_a_safe_threshold(n):
    curious = graph_of(n, Odds(1 / 3, 0.1), bytes(32))
    active = graph_of(n, Odds(1 / 3, 0.1, malicious=True), bytes(32))
    for graph in (curious, active):
        assert graph.table.tolist() == [list(range(n))] * n
        assert n // 3 < graph.threshold <= n
    assert 2 * curious.threshold > n
    assert active.threshold == min(2 * n // 3 + 1, n)
    assert active.threshold == n or 2 * active.threshold > n + n // 3


@pytest.mark.parametrize("n", [30, 31, 100, 1000])
def test_the_sparse_graph_is_regular_and_symmetric(n):
    graph = graph_of(n, Odds(0.05, 0.05), b"seed")
    assert graph.order and sorted(graph.order) == list(range(n))
    joined = np.zeros((n, n), bool)
    for i in range(n):
        near = graph.neighbours(i)
        assert len(set(near.tolist())) == graph.degree and (np.diff(near) > 0).all()
        assert np.array_equal(near, graph.holders(i)) and np.array_equal(near, graph.table[i])
        joined[i, near] = True
    assert np.array_equal(joined, joined.T) and not joined.diagonal().any()


def test_the_ring_is_a_function_of_the_seed():
    odds = Odds(0.1, 0.1)
    one, again, other = (graph_of(100, odds, seed) for seed in (b"a", b"a", b"b"))
    assert one == again and one.order != other.order


def test_every_place_on_the_ring_is_as_likely():
    firsts = [
        graph_of(30, Odds(0.05, 0.05), bytes([i, j])).order[0] for i in range(30) for j in range(30)
    ]
    counts = np.bincount(firsts, minlength=30)
    assert ((counts - 30) ** 2 / 30).sum() < 60  # chi-square, 29 degrees of freedom: p < 0.001


def test_neighbours_by_hand():
    graph = Graph(6, 2, 2, order=(4, 2, 0, 5, 1, 3))
    assert graph.neighbours(4).tolist() == [2, 3]
    assert graph.neighbours(0).tolist() == [2, 5]
