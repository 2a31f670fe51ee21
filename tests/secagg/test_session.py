# SPDX-License-Identifier: Apache-2.0
"""Terms are checked when written; every pattern of dropouts gives the exact sum or a reason."""

import pickle
from dataclasses import replace
from itertools import combinations_with_replacement, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.secagg.scene import Scene, believe, expected, named, terms, vectors

from muster.errors import PlanError
from muster.secagg.answers import graph_for
from muster.secagg.messages import PublicKeys
from muster.secagg.session import (
    Aborted,
    Liar,
    Persist,
    SessionReason,
    SessionTerms,
    bitmap,
    members,
)

TERMS = SessionTerms("study", "run", 1, bytes(32), bytes(32), size=8, most=255, cohort=10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"plan": b""}, "SHA-256"),
        ({"model": bytes(31)}, "SHA-256"),
        ({"minimum": 2}, "3 ≤ minimum"),
        ({"minimum": 11}, "minimum ≤ cohort"),
        ({"cohort": 65521}, "65520"),
        ({"colluders": 10}, "colluders < cohort"),
        ({"colluders": 0}, "1 ≤ colluders"),
        ({"losses": 10}, "losses < cohort"),
        ({"losses": -1}, "0 ≤ losses"),
        ({"attempt": 0}, "attempt ≥ 1"),
        ({"size": 0}, "size ≥ 1"),
        ({"round": -1}, "round ≥ 0"),
        ({"most": 0}, "fewer bits"),
        ({"most": 1 << 62}, "fewer bits"),
    ],
)
def test_terms_that_cannot_be_kept_are_refused(change, message):
    with pytest.raises(PlanError, match=message):
        replace(TERMS, **change)


def test_the_digest_of_the_terms_covers_every_field():
    other = {"study": "other", "run": "other", "plan": b"\1" * 32, "model": b"\1" * 32}
    other |= {"round": 2, "attempt": 2, "size": 9, "most": 254, "cohort": 11, "minimum": 4}
    other |= {"colluders": 2, "losses": 2}
    changes = [{name: value} for name, value in other.items()]
    assert {key for change in changes for key in change} == set(SessionTerms.__dataclass_fields__)
    assert len({replace(TERMS, **change).context for change in [{}, *changes]}) == 13


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_a_set_comes_back(bits):
    assert members(bitmap(np.array(bits)), len(bits)).tolist() == bits


@pytest.mark.parametrize(("data", "count"), [(b"", 1), (b"\1\0", 8), (b"\1", 9), (b"\x08", 3)])
def test_what_is_no_set_is_refused(data, count):
    with pytest.raises(Aborted) as caught:
        members(data, count)
    assert caught.value.reason is SessionReason.MALFORMED


def test_an_end_travels_between_processes():
    liars = (Liar("ann", "it opened another share"),)
    error = pickle.loads(pickle.dumps(Aborted(SessionReason.COHORT, "too few", True, liars)))
    assert (error.reason, str(error), error.remote) == (SessionReason.COHORT, "too few", True)
    assert error.liars == liars


def test_what_is_kept_does_not_print():
    assert "secret" not in repr(Persist("advertise", b"secret"))


# -- whole sessions --------------------------------------------------------------------------------

NEVER = 9


def foreseen(pattern):
    """Return what a complete graph must give: the survivors, or why there is no sum."""
    left = [sum(absent > step for absent in pattern) for step in range(6)]
    colluders = len(pattern) // 3
    threshold = (len(pattern) + colluders) // 2 + 1  # of those invited
    if threshold > left[0] or threshold - colluders < 2:
        return SessionReason.COHORT  # whoever is there hides nobody
    for step, count in enumerate(left):
        if step < 5 and count < 3:
            return SessionReason.COHORT
        if count < threshold:
            return SessionReason.THRESHOLD
    return tuple(name for name, absent in zip(named(NEVER), pattern, strict=False) if absent > 3)


def check(pattern, **more):
    own = terms(len(pattern), size=3)
    absent = dict(zip(named(len(pattern)), pattern, strict=True))
    played = Scene(own, vectors(own, len(pattern), seed=sum(pattern)), absent=absent, **more)
    wanted = foreseen(pattern)
    if isinstance(wanted, SessionReason):
        with pytest.raises(Aborted) as caught:
            played.run()
        assert caught.value.reason is wanted, pattern
    else:
        result = played.run()
        assert result.survivors == wanted and result.liars == (), pattern
        assert result.total.tolist() == expected(played, wanted), pattern
    assert not played.refused
    assert all(kept == {} for name, kept in played.kept.items() if name in played.ended)
    return played


@pytest.mark.parametrize(("came", "sum_of"), [(13, None), (55, None), (56, 56), (60, 56)])
def test_any_sum_holds_the_honest_of_the_whole_cohort(came, sum_of):
    """Of 100 invited ten may collude, and be among those who came: below 56 nothing is opened."""
    own = terms(100, size=2, colluders=10)
    names = named(100)
    absent = dict.fromkeys(names[came:], 0) | dict.fromkeys(names[sum_of or came : came], 3)
    played = Scene(own, vectors(own, 100), absent=absent)
    if sum_of is None:
        with pytest.raises(Aborted, match=f"{came} clients of 100 that were invited"):
            played.run()
    else:
        assert len(played.run().survivors) == sum_of


@pytest.mark.parametrize("count", [3, 4])
def test_every_pattern_of_dropouts(count):
    for pattern in product((0, 1, 2, 3, 4, 5, NEVER), repeat=count):
        check(pattern)


@pytest.mark.parametrize("turn", range(5))
def test_every_choice_of_dropouts_of_five(turn):
    """Clients are silent from some step on, in each of five rotations over the clients."""
    for steps in combinations_with_replacement((0, 1, 2, 3, 4, 5, NEVER), 5):
        check(steps[turn:] + steps[:turn])


@pytest.mark.parametrize("seed", range(40))
def test_patterns_of_six_in_any_order_of_arrival(seed):
    generator = np.random.default_rng(seed)
    pattern = generator.choice([0, 1, 2, 3, 4, 5, NEVER, NEVER, NEVER], 6).tolist()
    check(tuple(pattern), shuffle=generator, in_bytes=seed % 2 == 0)


def dropping(own, count, share, seed):
    generator = np.random.default_rng(seed)
    gone = generator.permutation(named(count))[: int(share * count)].tolist()
    return Scene(
        own,
        vectors(own, count, seed),
        absent={name: int(generator.integers(0, 6)) for name in gone},
        shuffle=generator,
    )


def test_a_hundred_clients_on_a_ring(rings):
    own = terms(100, size=50, most=65535, colluders=10)
    played = dropping(own, 100, 0.1, seed=1)
    result = played.run()
    assert result.survivors == tuple(n for n in named(100) if played.absent.get(n, NEVER) > 3)
    assert result.total.tolist() == expected(played, result.survivors)


def test_a_hundred_clients_bear_more_in_the_complete_graph():
    own = terms(100, size=50, most=65535, colluders=10)
    played = dropping(own, 100, 0.44, seed=2)
    result = played.run()
    assert result.survivors == tuple(n for n in named(100) if played.absent.get(n, NEVER) > 3)
    assert result.total.tolist() == expected(played, result.survivors)


def test_a_thousand_clients(monkeypatch):
    """Signatures are left out: a thousand clients would each check a thousand."""
    monkeypatch.setattr(PublicKeys, "statement", lambda entry, context: b"")
    own = terms(1000, size=20, most=65535, colluders=50)
    played = dropping(own, 1000, 0.1, seed=3)
    played.verify = played.server_verify = believe
    result = played.run()
    assert result.survivors == tuple(n for n in named(1000) if played.absent.get(n, NEVER) > 3)
    assert result.total.tolist() == expected(played, result.survivors)


def test_the_ring_gives_the_sum_of_the_complete_graph(rings):
    sparse = terms(60, colluders=3, losses=3)
    full = replace(sparse, colluders=20, losses=20)
    absent = {"c0007": 3, "c0031": 4, "c0050": 1}
    assert graph_for(sparse, 60, bytes(32)).order and not graph_for(full, 60, bytes(32)).order
    one, other = (Scene(own, vectors(own, 60), absent=absent).run() for own in (sparse, full))
    assert np.array_equal(one.total, other.total) and one.survivors == other.survivors


def test_a_wide_ring():
    own = terms(4, size=9, most=(1 << 45) - 3)
    played = Scene(own, vectors(own, 4), absent={"c0002": 3})
    result = played.run()
    assert result.total.dtype == np.uint64 and own.ring.bits == 47
    assert result.total.tolist() == expected(played, result.survivors)


def test_the_largest_values_do_not_overflow():
    own = terms(5, most=65535)
    played = Scene(own, {name: np.full(7, 65535, "<u4") for name in named(5)})
    assert played.run().total.tolist() == [5 * 65535] * 7
