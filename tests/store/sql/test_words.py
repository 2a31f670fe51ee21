# SPDX-License-Identifier: Apache-2.0
"""Words in a secure sum keep their one order, and are gone with their round."""

import pytest
from tests.store.scene import opening

pytest.importorskip("sqlalchemy")

from muster.store.records import SecAggEvent

ADVERT = SecAggEvent("site-a", "1", b"keys", digest="0" * 64, metrics={"loss": 0.5})


def test_words_are_numbered_and_the_first_of_a_kind_stands(place):
    ledger = place()
    assert ledger.hear(1, ADVERT).result() is None  # nothing is open
    ledger.open(opening())
    first = ledger.hear(1, ADVERT).result()
    assert first.number == 1 and ledger.hear(1, ADVERT).result() == first
    other = SecAggEvent("site-a", "1", b"other keys", digest="1" * 64)
    assert ledger.hear(1, other).result() == first
    closed = ledger.hear(1, SecAggEvent("", "advertise")).result()
    large = ledger.hear(1, SecAggEvent("site-a", "5", blob="masked-x", digest="2" * 64)).result()
    assert [closed.number, large.number] == [2, 3]
    assert ledger.heard(1) == [first, closed, large] and ledger.heard(1, 2) == [large]
    assert ledger.heard(2) == []
    ledger.close()
    assert place().heard(1) == [first, closed, large]


def test_many_words_are_read_in_turns(place):
    ledger = place()
    ledger.open(opening())
    jobs = [ledger.hear(1, SecAggEvent(f"site-{i}", "1", bytes([i]))) for i in range(100)]
    assert sorted(job.result().number for job in jobs) == list(range(1, 101))
    found, after = [], 0
    while page := ledger.heard(1, after):
        found, after = found + page, page[-1].number
    assert [word.number for word in found] == list(range(1, 101))


def test_a_commit_erases_them(place):
    ledger = place()
    ledger.open(opening())
    ledger.hear(1, ADVERT).result()
    ledger.commit(1, {}, {"round": 1, "accepted": []}, ())
    assert ledger.heard(1) == [] and ledger.hear(1, ADVERT).result() is None
