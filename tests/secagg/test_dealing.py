# SPDX-License-Identifier: Apache-2.0
"""Complaints of some about others, and who is named for them: never an honest client."""

from collections import Counter
from dataclasses import replace
from itertools import combinations_with_replacement, product
from types import SimpleNamespace

import pytest
from tests.secagg.scene import Scene, expected, named, vectors

from muster.errors import PlanError
from muster.pipeline import Clip, Contract, Field, Pipeline, Quantize, SecureSum
from muster.secagg import Aborted
from muster.secagg.dealing import Dealing
from muster.secagg.graph import Odds, full_threshold, graph_of
from muster.secagg.messages import Shares

LIAR = "c0001"


def terms_of(secure, count):
    """Return the terms that a plan with these settings makes of a session of so many."""
    contract = Contract((Field("delta", 7),), cap=5.0)
    pipeline = Pipeline.build((Clip(1.0), Quantize(8), secure), contract)
    about = {"study": "s", "run": "run", "round": 1, "plan": bytes(32), "model": bytes(32)}
    return secure.terms(secure.frame(pipeline.contracts[2]), count, **about)


def played(own, count, lie):
    """A session in which one member changes what it says."""
    scene = Scene(own, vectors(own, count))
    scene.up = lambda name, message: lie(message, scene) if name == LIAR else [message]
    return scene


def nonsense(message, scene):
    """It deals what nobody can unseal, to everybody."""
    if isinstance(message, Shares):
        return [replace(message, sealed=bytes(len(message.sealed)))]
    return [message]


# Settings of whom so few may collude that a fraction of these cohorts is nobody; groups with and
# without losses, where as many may as the honest that a group needs leave.
FEW = [SecureSum(corrupt=corrupt) for corrupt in (0.0, 0.01, 0.1, 1 / 3)]
GROUPS = [SecureSum(corrupt=0.01, groups=33, dropout=dropout) for dropout in (0.0, 0.1, 0.3)]


@pytest.mark.parametrize("secure", FEW + GROUPS, ids=repr)
@pytest.mark.parametrize("count", range(3, 10))
def test_who_deals_nonsense_is_named_alone_however_few_a_plan_assumes_to_lie(secure, count):
    try:
        own = terms_of(secure, count)
    except PlanError:
        assert secure.groups > 1, "only a group may be too small for what it is to bear"
        return
    scene = played(own, count, nonsense)
    try:
        found = scene.run()
    except Aborted as stop:  # without it, too few are left
        found = stop
        assert count - 1 < max(own.minimum, (count + own.colluders) // 2 + 1)
    else:
        honest = [name for name in named(count) if name != LIAR]
        assert found.survivors == tuple(honest)
        assert found.total.tolist() == expected(scene, honest)
    assert [liar.name for liar in found.liars] == [LIAR]


# -- every pattern of complaints -------------------------------------------------------------------

LARGEST = 6
ASSUMED = [
    (count, colluders)
    for count in range(3, LARGEST + 1)
    for colluders in range(1, count)
    if full_threshold(count, colluders) - colluders >= 2 <= count - colluders
]


def patterns(count, colluders):
    """All that `colluders` liars and the honest, who say the truth, can make of complaints.

    The liars are the first; honest clients that stand in the same relation to each liar are alike,
    so each of their orders is taken once. Among themselves liars complain in every way where there
    are two, about nobody or everybody where there are more. Yields (complaints by dealer and
    holder, to how many honest holders each liar dealt nonsense).
    """
    liars = range(colluders)
    pairs = [(dealer, holder) for dealer in liars for holder in liars if dealer != holder]
    among = product((0, 1), repeat=len(pairs)) if colluders < 3 else ([0] * 99, [1] * 99)
    inside = [{p for p, said in zip(pairs, one, strict=False) if said} for one in among]
    kinds = list(product((0, 1), repeat=2 * colluders))  # said by each liar, dealt by each liar
    for honest in combinations_with_replacement(kinds, count - colluders):
        wrong = set()
        for client, kind in enumerate(honest, colluders):
            wrong |= {(client, liar) for liar in liars if kind[liar]}
            wrong |= {(liar, client) for liar in liars if kind[colluders + liar]}
        dealt = [sum(kind[colluders + liar] for kind in honest) for liar in liars]
        for one in inside:
            yield wrong | one, dealt


@pytest.mark.parametrize(("count", "colluders"), ASSUMED)
def test_no_pattern_of_complaints_names_an_honest_client(count, colluders):
    graph = graph_of(count, Odds(colluders, 0), bytes(32))
    cohort = SimpleNamespace(
        terms=SimpleNamespace(colluders=colluders), entries=(None,) * count, graph=graph, pairs=1
    )
    dealing, seen = Dealing(cohort), 0
    for wrong, dealt in patterns(count, colluders):
        dealing.wrong = dict.fromkeys(wrong)
        out = dealing.overdone()
        assert set(out) <= set(range(colluders)), (wrong, out)
        assert all(liar in out for liar in range(colluders) if dealt[liar] > colluders), wrong
        left = Counter(d for d, h in wrong if d not in out and h not in out)
        assert all(number <= colluders for number in left.values()), "more than it opens shares for"
        seen += bool(out)
    assert seen, "somebody is named in some pattern"
