# SPDX-License-Identifier: Apache-2.0
"""The ledger never falls, survives as text, composes runs; the budget stops before, not after."""

import json
import math
from dataclasses import replace

import pytest

from muster.errors import MusterError, PlanError
from muster.privacy import Budget, Charge, LedgerEntry, PrivacyLedger, Release, Selection, spent

POISSON = Charge(Release("gaussian", 1.2, 1.0), Selection("poisson", 0.02), run="a")
WHOLE = Charge(Release("gaussian", 9.0, None), run="b")
MATRIX = Charge(
    Release("matrix", 5.0, 1.0, 7, 1, (0.8, 0.6), 2), Selection("uniform", 0.5), run="c"
)


def entered(charge, rounds, ledger=None, accepted=8):
    ledger = ledger or PrivacyLedger(1e-6)
    for round in range(1, rounds + 1):
        ledger = ledger.enter(round, charge, accepted)
    return ledger


def test_epsilon_so_far_is_that_of_all_rounds_so_far():
    ledger = entered(POISSON, 5)
    for count, entry in enumerate(ledger.entries, 1):
        wanted = spent([POISSON] * count, 1e-6)
        assert (entry.epsilon, entry.rdp) == (wanted.epsilon, wanted.rdp)
    assert (ledger.epsilon, ledger.rdp) == (wanted.epsilon, wanted.rdp)
    assert (PrivacyLedger(1e-6).epsilon, PrivacyLedger(1e-6).rdp) == (0, 0)


def test_it_only_rises():
    ledger = entered(MATRIX, 6, entered(WHOLE, 3, entered(POISSON, 3)))
    values = [entry.epsilon for entry in ledger.entries]
    assert values == sorted(values)
    assert values[-1] > values[0] > 0


def test_runs_over_the_same_people_compose():
    one, two = entered(POISSON, 4), entered(WHOLE, 4, entered(POISSON, 4))
    together = spent([POISSON] * 4 + [replace(WHOLE, run="a")] * 4, 1e-6)
    assert one.epsilon < together.rdp < two.epsilon < 2 * together.epsilon
    assert [entry.round for entry in two.entries] == [1, 2, 3, 4, 1, 2, 3, 4]


def test_a_round_is_released_once():
    with pytest.raises(MusterError, match="round 2 of run 'a' is in the ledger already"):
        entered(POISSON, 2).enter(2, POISSON)


def test_an_entry_keeps_its_secret_its_model_and_the_terms_of_its_run():
    ledger = PrivacyLedger(1e-6).enter(1, POISSON, secret="s", terms=(12, 3.0))
    ledger = ledger.given_out({("a", 1)}, "m").given_out({("a", 2), ("b", 1)}, "other")
    (entry,) = PrivacyLedger.from_json(ledger.to_json()).entries
    assert (entry.secret, entry.model, entry.terms) == ("s", "m", (12, 3.0))
    assert PrivacyLedger(1e-6).joined(ledger) == ledger == ledger.joined(ledger)


@pytest.mark.parametrize("terms", ["[1]", "7", '["x", 1]', "[1e999, 1]", "[1, 1e999]"])
def test_terms_that_are_none_are_no_ledger(terms):
    text = PrivacyLedger(1e-6).enter(1, POISSON).to_json()
    with pytest.raises(MusterError, match="no privacy ledger"):
        PrivacyLedger.from_json(text.replace('"terms": [null, null]', f'"terms": {terms}'))


@pytest.mark.parametrize("second", [(12, 9.0), (20, 3.0), (12, None)])
def test_terms_that_became_others_were_not_fixed_before(second):
    first = entered(POISSON, 2).entries
    ledger = PrivacyLedger(1e-6)
    for round, terms in enumerate([(12, 3.0), (12, 3.0), second], 1):
        assert ledger.theorem in ("fixed settings", "Gaussian filter"), "of none so far"
        assert not ledger.rebudgeted
        ledger = ledger.enter(round, POISSON, terms=terms)
    assert ledger.theorem == "one setting"
    assert ledger.rebudgeted is (second[1] != 3.0)
    assert [e.epsilon for e in ledger.entries[:2]] == [e.epsilon for e in first]


def test_json_and_back():
    for ledger in (PrivacyLedger(1e-5), entered(MATRIX, 3, entered(WHOLE, 2, entered(POISSON, 2)))):
        again = PrivacyLedger.from_json(ledger.to_json())
        assert again == ledger
        assert again.to_json() == ledger.to_json()
    assert again.enter(4, MATRIX).epsilon == ledger.enter(4, MATRIX).epsilon
    assert (
        PrivacyLedger.from_json(PrivacyLedger(1e-6).enter(1, POISSON).to_json()).entries[0].accepted
        is None
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"delta": 1e-6}',
        '{"delta": NaN, "entries": []}',
        '{"delta": 2, "entries": []}',
        '{"delta": 1e-6, "entries": [{}]}',
    ],
)
def test_what_is_no_ledger_is_refused(text):
    with pytest.raises(MusterError, match=r"no privacy ledger|delta="):
        PrivacyLedger.from_json(text)


@pytest.mark.parametrize(
    "change",
    [{"epsilon": 0.0}, {"epsilon": "high"}, {"round": 1}, {"charge": None}],
)
def test_an_altered_ledger_is_refused(change):
    value = json.loads(entered(POISSON, 2).to_json())
    value["entries"][1] |= change
    with pytest.raises(MusterError, match=r"privacy ledger|privacy is never given back|already"):
        PrivacyLedger.from_json(json.dumps(value))


def test_an_epsilon_that_is_no_number_is_refused():
    with pytest.raises(MusterError, match="restore the ledger from a copy"):
        PrivacyLedger(1e-6, (LedgerEntry(1, WHOLE, None, math.inf, 1.0),))
    with pytest.raises(MusterError, match=r"falls from epsilon 0\.0 to nan"):
        PrivacyLedger(1e-6, (LedgerEntry(1, WHOLE, None, math.nan, 1.0),))


@pytest.mark.parametrize("charge", [POISSON, WHOLE, MATRIX])
def test_the_budget_stops_before_the_release_that_would_pass_it(charge):
    budget, ledger = Budget(entered(charge, 4).epsilon, 1e-6), PrivacyLedger(1e-6)
    for round in range(1, 5):
        assert budget.refusal(ledger, charge) is None
        ledger = budget.spend(ledger, round, charge, 10)
    refusal = budget.refusal(ledger, charge)
    if charge is MATRIX and refusal is None:  # two rounds of two bands are one turn
        ledger = budget.spend(ledger, 5, charge)
        refusal = budget.refusal(ledger, charge)
    assert "past the budget of" in refusal
    assert "stop here, plan with more noise, or allow more" in refusal
    with pytest.raises(MusterError, match=r"round 9 is not released: the next release would bring"):
        budget.spend(ledger, 9, charge)
    assert ledger.epsilon <= budget.epsilon


def test_a_budget_knows_its_rounds():
    budget = Budget(2.0, 1e-6)
    rounds = budget.rounds(WHOLE.release)
    assert entered(WHOLE, rounds).epsilon <= 2.0
    assert budget.refusal(entered(WHOLE, rounds), WHOLE)


def test_a_budget_at_another_delta_is_refused():
    message = Budget(2.0, 1e-5).refusal(PrivacyLedger(1e-6), WHOLE)
    assert message.startswith("the ledger counts at delta 1e-06 and the budget at 1e-05")


@pytest.mark.parametrize(("epsilon", "delta"), [(0, 1e-6), (math.inf, 1e-6), (1, 0), (1, 1)])
def test_a_budget_that_promises_nothing_is_refused(epsilon, delta):
    with pytest.raises(PlanError, match=r"(epsilon|delta)=.*needed"):
        Budget(epsilon, delta)
