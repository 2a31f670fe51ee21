# SPDX-License-Identifier: Apache-2.0
"""Faults are drawn by name from a seed: one more or less shifts no other."""

from collections import Counter

import pytest

from muster.transport.memory.faults import FaultRates, Faults

KINDS = ("drop", "lose", "double", "delay", "cut")
ALL = FaultRates(*[0.3] * 5)


def played(faults, links=("ann", "bob"), kinds=("poll", "hello"), rounds=50):
    for _ in range(rounds):
        for link in links:
            for what in kinds:
                for kind in KINDS:
                    faults.strikes(kind, link, what)
    return faults.happened


def test_the_same_seed_has_the_same_faults_and_another_has_others():
    assert played(Faults(1, ALL)) == played(Faults(1, ALL)) != played(Faults(2, ALL))


def test_messages_of_another_kind_and_other_links_shift_nothing():
    alone = played(Faults(1, ALL), ("ann",), ("poll",))
    beside = [name for name in played(Faults(1, ALL)) if ":ann:poll#" in name]
    assert alone == beside and alone


def test_those_that_are_named_happen_and_no_others():
    some = played(Faults(1, ALL))[::7]
    assert sorted(played(Faults(1, ALL, only=some))) == sorted(some)
    assert played(Faults(1, ALL, only=())) == []


def test_in_calm_none_happens():
    faults = Faults(1, FaultRates(*[1.0] * 5))
    faults.calm = True
    assert played(faults) == []


@pytest.mark.parametrize("kind", KINDS)
def test_rates_are_kept(kind):
    faults = Faults(3, FaultRates(**{kind: 0.25}))
    happened = Counter(name.partition(":")[0] for name in played(faults, rounds=500))
    assert happened.keys() == {kind} and 400 < happened[kind] < 600  # of 2000; 5 deviations


def test_delays_are_as_long_as_the_longest():
    faults = Faults(4, FaultRates(longest=8.0))
    found = [faults.seconds("ann", "poll") for _ in range(500)]
    assert 0 <= min(found) < 1 and 7 < max(found) < 8
