# SPDX-License-Identifier: Apache-2.0
"""Liars that draw what they say: they have themselves named and nobody else, whatever they draw.

What must hold of every session: nobody honest is named, or leaves of its own; a sum that opens is
right; and one that does not open names a liar, unless somebody was silent (or said what is refused,
which is no more).
"""

import numpy as np
import pytest
from tests.secagg.lies import Liars
from tests.secagg.scene import Scene, expected, named, terms, vectors
from tests.secagg.test_dealing import terms_of

from muster.errors import PlanError
from muster.pipeline import SecureSum
from muster.secagg import Aborted, SessionReason, SessionStep


def played(monkeypatch, own, count, seed):
    """One session with at most as many liars as may collude; how it ended, and who was honest."""
    draws = np.random.default_rng([seed, count])
    most = int(draws.integers(1, own.colluders + 1))
    liars = Liars(set(draws.permutation(named(count))[:most].tolist()), draws)
    honest = [name for name in named(count) if name not in liars.names]
    lost = draws.permutation(honest)[: int(draws.integers(0, own.losses + 1))].tolist()
    absent = {name: int(draws.integers(0, 6)) for name in lost if liars.one_in(3)}
    steps = list(SessionStep)
    again = {(str(draws.choice(honest)), steps[draws.integers(len(steps))]) for _ in range(2)}
    scene = Scene(
        own,
        vectors(own, count, seed),
        absent=absent,
        up=liars.up,
        restarts=again,
        shuffle=draws if liars.one_in(2) else None,
        in_bytes=liars.one_in(2),
    )
    with monkeypatch.context() as patch:
        liars.patch(patch)
        try:
            found = scene.run()
        except Aborted as stop:
            found = stop
    return scene, liars, honest, found


def judge(scene, liars, honest, found):
    """Judge that all holds that must, whatever was said."""
    caught = {liar.name for liar in found.liars}
    assert caught <= liars.names, caught - liars.names
    for name in honest:
        end = scene.ended.get(name)
        assert end is None or end.remote, (name, end)
    if not isinstance(found, Aborted):
        assert set(honest) - set(scene.absent) <= set(found.survivors)
        assert found.total.tolist() == expected(scene, found.survivors)
        return
    refused = {name for name, reason in scene.refused if reason is not SessionReason.DUPLICATE}
    # A dealer that answers no complaint, or leaves when it cannot, is silent.
    left = {name for name in liars.names if scene.reason(name) not in (None, found.reason)}
    assert caught or liars.silent | refused | set(scene.absent) | left, found
    if found.reason is SessionReason.SHARES:
        assert caught, "no session ends for shares without a name"


SESSIONS = 20
SETTINGS = [
    SecureSum(),
    SecureSum(corrupt=0.1),
    SecureSum(corrupt=0.45, dropout=0.0),
    SecureSum(groups=9, dropout=0.0),
    SecureSum(groups=9, dropout=0.1),
]


@pytest.mark.parametrize("secure", SETTINGS, ids=range(len(SETTINGS)))
@pytest.mark.parametrize("count", range(3, 10))
def test_liars_have_nobody_honest_named_and_end_no_sum_without_a_name(secure, count, monkeypatch):
    try:
        own = terms_of(secure, count)
    except PlanError:
        assert secure.dropout and count == 3, "one of three is no loss that a group bears"
        return
    caught = opened = 0
    for seed in range(SESSIONS):
        found = played(monkeypatch, own, count, seed)
        judge(*found)
        caught += bool(found[-1].liars)
        opened += not isinstance(found[-1], Aborted)
    assert caught and opened, "both ends are seen"


@pytest.mark.parametrize("corrupt", [0.1, 1 / 3])
def test_many_liars_of_forty(corrupt, monkeypatch):
    for seed in range(3):
        judge(*played(monkeypatch, terms_of(SecureSum(corrupt=corrupt), 40), 40, seed))


def test_liars_on_a_ring(rings, monkeypatch):
    own = terms(60, colluders=3, losses=6)
    for seed in range(3):
        judge(*played(monkeypatch, own, 60, seed))
