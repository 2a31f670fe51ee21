# SPDX-License-Identifier: Apache-2.0
"""No two quorums fit, a ring is as sparse as that allows, and it is nobody's choice."""

from math import comb

import numpy as np
import pytest

from muster.errors import PlanError
from muster.secagg.graph import FULL, Graph, Odds, apart, find_ring, full_threshold, graph_of

# -- the complete graph ----------------------------------------------------------------------------

FRACTIONS = (0.0, 0.1, 0.2, 1 / 3, 0.45)
# t, losses borne, honest in any sum, for each fraction that may collude
COMPLETE = {
    3: [(2, 1, 2), (2, 1, 2), (2, 1, 2), (3, 0, 2), (3, 0, 2)],
    4: [(3, 1, 3), (3, 1, 3), (3, 1, 3), (3, 1, 2), (3, 1, 2)],
    5: [(3, 2, 3), (3, 2, 3), (4, 1, 3), (4, 1, 3), (4, 1, 2)],
    6: [(4, 2, 4), (4, 2, 4), (4, 2, 3), (5, 1, 3), (5, 1, 3)],
    7: [(4, 3, 4), (4, 3, 4), (5, 2, 4), (5, 2, 3), (6, 1, 3)],
    8: [(5, 3, 5), (5, 3, 5), (5, 3, 4), (6, 2, 4), (6, 2, 3)],
    9: [(5, 4, 5), (5, 4, 5), (6, 3, 5), (7, 2, 4), (7, 2, 3)],
    10: [(6, 4, 6), (6, 4, 5), (7, 3, 5), (7, 3, 4), (8, 2, 4)],
    12: [(7, 5, 7), (7, 5, 6), (8, 4, 6), (9, 3, 5), (9, 3, 4)],
    15: [(8, 7, 8), (9, 6, 8), (10, 5, 7), (11, 4, 6), (11, 4, 5)],
    20: [(11, 9, 11), (12, 8, 10), (13, 7, 9), (14, 6, 8), (15, 5, 6)],
    30: [(16, 14, 16), (17, 13, 14), (19, 11, 13), (21, 9, 11), (22, 8, 9)],
    36: [(19, 17, 19), (20, 16, 17), (22, 14, 15), (25, 11, 13), (27, 9, 11)],
    40: [(21, 19, 21), (23, 17, 19), (25, 15, 17), (27, 13, 14), (30, 10, 12)],
}


@pytest.mark.parametrize("count", COMPLETE)
def test_the_least_safe_threshold_of_the_complete_graph(count):
    found = []
    for fraction in FRACTIONS:
        colluders = int(fraction * count)
        graph = graph_of(count, Odds(colluders, 0), bytes(32))
        assert graph.table.tolist() == [list(range(count))] * count
        found.append((graph.threshold, count - graph.threshold, graph.honest))
    assert found == COMPLETE[count]


def both(honest, colluders, threshold):
    """Return whether some split of the honest gives both kinds of share to a quorum each."""
    return any(
        colluders + alive >= threshold and colluders + honest - alive >= threshold
        for alive in range(honest + 1)
    )


@pytest.mark.parametrize("count", range(3, 26))
def test_no_split_of_the_honest_makes_two_quorums_and_one_less_would(count):
    for colluders in range(count):
        threshold = full_threshold(count, colluders)
        assert not both(count - colluders, colluders, threshold)
        assert both(count - colluders, colluders, threshold - 1)


@pytest.mark.parametrize(("count", "colluders"), [(3, 2), (3, 3), (10, 9), (40, 39)])
def test_where_nobody_is_hidden_there_is_no_graph(count, colluders):
    with pytest.raises(PlanError, match="invite more clients"):
        graph_of(count, Odds(colluders, 0), bytes(32))


# -- the ring --------------------------------------------------------------------------------------

COLUMNS = [(0.05, 0.05), (0.1, 0.1), (0.2, 0.1), (1 / 3, 0.05), (1 / 3, 0.1)]
# degree and threshold for the fractions of colluders and losses above
ONE_SESSION = {
    20: [(4, 3), (8, 6), (10, 8), (10, 9), (12, 10)],
    40: [(8, 6), (14, 10), (18, 14), (18, 16), (22, 18)],
    100: [(16, 11), (32, 22), (42, 32), (42, 37), (54, 44)],
    300: [(42, 29), (76, 52), (102, 75), (92, 77), (138, 108)],
    1000: [(62, 43), (114, 78), (162, 118), (152, 124), (248, 192)],
    10_000: [(74, 51), (144, 98), (216, 157), (204, 165), (364, 281)],
}
TEN_THOUSAND_SESSIONS = ONE_SESSION | {
    100: [(16, 11), (32, 22), (42, 32), (44, 39), (54, 44)],
    300: [(46, 31), (88, 60), (114, 84), (98, 83), (144, 114)],
    1000: [(76, 52), (142, 96), (198, 144), (188, 153), (296, 229)],
    10_000: [(98, 67), (186, 126), (278, 201), (264, 213), (470, 362)],
}
HONEST = {100: [7, 13, 13, 7, 12], 1000: [22, 39, 46, 30, 58]}  # in one session


@pytest.mark.parametrize(
    ("sessions", "count", "row"),
    [(1, n, row) for n, row in ONE_SESSION.items()]
    + [(10_000, n, row) for n, row in TEN_THOUSAND_SESSIONS.items()],
)
def test_the_finder_takes_the_sparsest_safe_ring(sessions, count, row):
    odds = [Odds(int(g * count), int(d * count), sessions) for g, d in COLUMNS]
    found = [find_ring(count, one) for one in odds]
    assert [(ring.degree, ring.threshold) for ring in found] == row
    if sessions == 1 and count in HONEST:
        assert [ring.honest for ring in found] == HONEST[count]


@pytest.mark.parametrize("count", [20, 40, 100])
def test_in_a_ring_no_two_quorums_fit_around_anybody(count):
    """Exact: with more colluders among its holders than x only once in 2^41 over all clients."""
    for fraction, losses in COLUMNS:
        colluders = int(fraction * count)
        ring = find_ring(count, Odds(colluders, int(losses * count), 1))
        ways = sum(
            comb(colluders, x) * comb(count - 1 - colluders, ring.degree - x)
            for x in range(ring.degree + 1)
            if 2 * ring.threshold <= ring.degree + x
        )
        assert (count - colluders) * ways / comb(count - 1, ring.degree) <= 2.0**-41


@pytest.mark.parametrize(
    ("count", "degree", "gone", "chance"), [(40, 6, 16, 0.47363), (100, 8, 30, 0.07267)]
)
def test_the_chance_that_a_ring_falls_apart(count, degree, gone, chance):
    assert apart(count, degree, gone) == pytest.approx(chance, abs=5e-6)
    draws = np.random.default_rng(0)
    parted = 0
    for _ in range(4000):
        left = np.sort(draws.choice(count, count - gone, replace=False))
        gaps = np.diff(np.append(left, left[0] + count)) - 1
        parted += (gaps >= degree // 2).sum() >= 2
    spread = (chance * (1 - chance) / 4000) ** 0.5
    assert abs(parted / 4000 - chance) < 5 * spread


@pytest.mark.parametrize(
    ("odds", "found"), [(Odds(500, 450), False), (Odds(100, 450), False), (Odds(330, 330), True)]
)
def test_where_no_ring_is_safe_or_sparse_the_graph_is_complete(odds, found):
    assert (find_ring(1000, odds) is not None) is found
    assert graph_of(1000, odds, bytes(32)).order == ()


def test_more_sessions_never_make_a_ring_sparser():
    degrees = [find_ring(1000, Odds(100, 100, n)).degree for n in (1, 100, 10**4, 10**6)]
    assert degrees == sorted(degrees) and degrees[0] < degrees[-1]


def test_a_ring_is_for_many_clients():
    odds = Odds(10, 10)
    assert not graph_of(FULL, odds, bytes(32)).order
    assert graph_of(FULL + 1, odds, bytes(32)).order


@pytest.mark.parametrize("n", [31, 100, 1000])
def test_the_ring_is_regular_and_symmetric(n, rings):
    graph = graph_of(n, Odds(n // 20, n // 20), b"seed")
    assert graph.order and sorted(graph.order) == list(range(n))
    joined = np.zeros((n, n), bool)
    for i in range(n):
        near = graph.neighbours(i)
        assert len(set(near.tolist())) == graph.degree and (np.diff(near) > 0).all()
        assert np.array_equal(near, graph.holders(i)) and np.array_equal(near, graph.table[i])
        joined[i, near] = True
    assert np.array_equal(joined, joined.T) and not joined.diagonal().any()


def test_the_ring_is_a_function_of_the_seed(rings):
    odds = Odds(10, 10)
    one, again, other = (graph_of(100, odds, seed) for seed in (b"a", b"a", b"b"))
    assert one == again and one.order != other.order


def test_every_place_on_the_ring_is_as_likely(rings):
    odds = Odds(1, 1)
    firsts = [graph_of(30, odds, bytes([i, j])).order[0] for i in range(30) for j in range(30)]
    counts = np.bincount(firsts, minlength=30)
    assert ((counts - 30) ** 2 / 30).sum() < 60  # chi-square, 29 degrees of freedom: p < 0.001


def test_neighbours_by_hand():
    graph = Graph(6, 2, 2, order=(4, 2, 0, 5, 1, 3))
    assert graph.neighbours(4).tolist() == [2, 3]
    assert graph.neighbours(0).tolist() == [2, 5]
