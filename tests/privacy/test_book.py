# SPDX-License-Identifier: Apache-2.0
"""The ledger's file: on the disk before a release, shared by runs; nothing twice, nothing lost."""

import json
import multiprocessing
import os
from dataclasses import replace

import pytest

from muster.errors import MusterError, RunError
from muster.privacy import Budget, Charge, PrivacyLedger, Release, spent
from muster.privacy.book import ChargeRequest, LedgerFile, try_charge

RELEASE = Release("gaussian", 8.0, 1.0)


def wish(round, run="a", budget=None, count=1):
    names = [run, *(f"{run}#{i}" for i in range(2, count + 1))]
    return ChargeRequest(round, tuple(Charge(RELEASE, run=name) for name in names), budget)


def test_a_round_is_granted_once():
    ledger, why = try_charge(PrivacyLedger(1e-5), wish(1))
    assert why is None
    again, why = try_charge(ledger, wish(1))
    assert (again, why) == (ledger, None)
    assert len(try_charge(ledger, wish(2))[0].entries) == 2


def test_what_the_budget_refuses_changes_nothing():
    budget = Budget(spent([Charge(RELEASE)] * 2, 1e-5).epsilon, 1e-5)
    ledger, why = try_charge(PrivacyLedger(1e-5), wish(1, budget=budget, count=2))
    assert (len(ledger.entries), why) == (2, None)
    after, why = try_charge(ledger, wish(2, budget=budget, count=2))
    assert after == ledger
    assert "past the budget of" in why
    held, why = try_charge(ledger, wish(1, budget=Budget(1e-3, 1e-5), count=2))
    assert (held, why) == (ledger, None), "a round that is in it is asked no second time"


def test_runs_over_the_same_people_compose_in_a_file(tmp_path):
    book = LedgerFile(tmp_path / "people" / "ledger.json")
    assert book.read(1e-5) == PrivacyLedger(1e-5)
    for run in "ab":
        for round in (1, 2):
            ledger, why = LedgerFile(book.path).grant(wish(round, run), PrivacyLedger(1e-5))
            assert why is None
            assert book.read(1e-5) == ledger
    places = [(e.charge.run, e.round) for e in ledger.entries]
    assert places == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]
    assert ledger.epsilon == spent([Charge(RELEASE)] * 4, 1e-5).epsilon
    assert os.stat(book.path).st_mode & 0o077 == 0


def test_what_only_a_run_knows_is_entered_with_it(tmp_path):
    known, _ = try_charge(try_charge(PrivacyLedger(1e-5), wish(1))[0], wish(2))
    book = LedgerFile(tmp_path / "ledger.json")
    ledger, _ = book.grant(wish(3), known)
    assert [e.round for e in ledger.entries] == [1, 2, 3]
    assert ledger.joined(known) == ledger
    seen = known.witnessed({("a", 2): 7})
    assert [e.accepted for e in book.grant(wish(4), seen)[0].entries] == [None, 7, None, None]


def _charge(path, run, rounds):
    for round in range(1, rounds + 1):
        LedgerFile(path).grant(wish(round, run), PrivacyLedger(1e-5))


def test_processes_that_charge_at_one_moment_lose_nothing(tmp_path):
    path = tmp_path / "ledger.json"
    context = multiprocessing.get_context("spawn")
    crew = [context.Process(target=_charge, args=(path, run, 8)) for run in "abc"]
    for one in crew:
        one.start()
    for one in crew:
        one.join()
    ledger = LedgerFile(path).read(1e-5)
    assert sorted((e.charge.run, e.round) for e in ledger.entries) == [
        (run, round) for run in "abc" for round in range(1, 9)
    ]
    values = [e.epsilon for e in ledger.entries]
    assert values == sorted(values)


def test_a_round_belongs_to_the_secret_that_it_was_begun_with(tmp_path):
    book, none = LedgerFile(tmp_path / "ledger.json"), PrivacyLedger(1e-5)
    mine = replace(wish(1, count=2), secret="mine")
    ledger, _ = book.grant(mine, none)
    assert book.grant(mine, none) == (ledger, None)
    for secret in ("other", ""):
        with pytest.raises(RunError, match="round 1 of run a was begun with another secret"):
            book.grant(replace(mine, secret=secret), none)
        with pytest.raises(RunError, match="was begun with another secret"):
            book.give_out(replace(mine, secret=secret), "m", none, ledger)
    assert book.read(1e-5) == ledger


def test_a_model_is_written_down_and_another_one_charged_once(tmp_path):
    book, none = LedgerFile(tmp_path / "ledger.json"), PrivacyLedger(1e-5)
    one = wish(1, run="a/2", count=2)
    ledger, _ = book.grant(one, none)
    for _ in range(2):
        first, other = book.give_out(one, "m" * 64, ledger, ledger)
        assert ([e.model for e in first.entries], other) == (["m" * 64] * 2, False)
    for _ in range(2):
        second, other = book.give_out(one, "n" * 64, ledger, ledger)
        assert other and second == book.read(1e-5)
        places = [(e.charge.run, e.charge.part, e.model[:1]) for e in second.entries]
        assert places == [
            ("a/2", "2", "m"),
            ("a/2#2", "2", "m"),
            (f"a/2~{'n' * 16}", f"2~{'n' * 16}", "n"),
            (f"a/2~{'n' * 16}#2", f"2~{'n' * 16}", "n"),
        ]
    assert second.epsilon == spent([Charge(RELEASE)] * 4, 1e-5).epsilon
    counted = second.witnessed({("a/2", 1): 3})
    book.witness(counted)
    with pytest.raises(RunError, match=r"another model came of round 1 .* that one was given out"):
        book.give_out(one, "o" * 64, ledger, ledger)
    assert book.read(1e-5) == counted


@pytest.mark.parametrize("deed", ["grant", "give_out", "witness", "read"])
def test_what_has_stood_in_it_stands_in_it_or_nothing_is_done(tmp_path, deed):
    book, none = LedgerFile(tmp_path / "ledger.json"), PrivacyLedger(1e-5)
    stood, _ = book.grant(wish(1, "b"), none)
    stood, _ = book.grant(wish(1, "a"), none)
    deeds = {
        "grant": lambda: book.grant(wish(2), none, stood),
        "give_out": lambda: book.give_out(wish(1), "m", stood, stood),
        "witness": lambda: book.witness(stood.witnessed({("a", 1): 3}), stood),
        "read": lambda: book.read(1e-5, stood),
    }
    for text, sentence in ((None, r"is gone: of 2 .* 2 are"), ("", r"put back .* 2 .* 1 are not")):
        book.path.unlink()
        if text is not None:
            book.grant(wish(1, "b"), none)
        before = book.path.read_text() if text is not None else None
        with pytest.raises(RunError, match=sentence):
            deeds[deed]()
        assert (book.path.read_text() if book.path.exists() else None) == before
        book.path.write_text(stood.to_json())
    deeds[deed]()


def test_what_only_a_run_knows_is_written_where_it_is_witnessed(tmp_path):
    book = LedgerFile(tmp_path / "ledger.json")
    known, _ = try_charge(PrivacyLedger(1e-5), wish(1))
    assert book.witness(known) == known == book.read(1e-5)


def test_what_is_torn_or_no_ledger_is_refused(tmp_path):
    book = LedgerFile(tmp_path / "ledger.json")
    book.path.write_text('{"delta": 1e-5, "entr')
    with pytest.raises(MusterError, match="no privacy ledger"):
        book.grant(wish(1), PrivacyLedger(1e-5))
    assert book.path.read_text() == '{"delta": 1e-5, "entr'
    folder = LedgerFile(tmp_path)
    with pytest.raises(RunError, match=r"cannot be used .*nothing is released without it"):
        folder.read(1e-5)
    with pytest.raises(RunError, match="cannot be used"):
        LedgerFile(tmp_path / "ledger.json" / "below").grant(wish(1), PrivacyLedger(1e-5))


def test_a_write_that_fails_leaves_the_ledger_as_it_was(tmp_path, monkeypatch):
    book = LedgerFile(tmp_path / "ledger.json")
    before, _ = book.grant(wish(1), PrivacyLedger(1e-5))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("muster.privacy.book.os.fsync", full)
    with pytest.raises(RunError, match=r"No space left on device.*make|repair the disk"):
        book.grant(wish(2), before)
    monkeypatch.undo()
    assert book.read(1e-5) == before
    assert json.loads(book.path.read_text())["delta"] == 1e-5
