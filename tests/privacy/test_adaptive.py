# SPDX-License-Identifier: Apache-2.0
"""Settings that earlier outputs choose: why losses do not simply compose, and what holds instead.

The numbers are computed here by integrals of normal densities, and by no accountant.
"""

import math
from dataclasses import replace

import numpy as np
import pytest

from muster.privacy import (
    Budget,
    Charge,
    PrivacyLedger,
    Release,
    Selection,
    StatementInputs,
    spent,
    statement,
)
from muster.privacy.accounting import FILTER
from muster.privacy.book import ChargeRequest, try_charge

DELTA = 1e-5
FIRST = Charge(Release("gaussian", 2.0, 1.0), run="a")
PLAIN = Charge(Release("gaussian", 1.0, 1.0), run="b")
COINS = Charge(Release("gaussian", 0.4739, 1.0), Selection("poisson", 0.02), run="b")


def above(x):
    """P(Z > x), for an array."""
    return np.array([math.erfc(value / math.sqrt(2)) / 2 for value in np.ravel(x)])


def delta_plain(epsilon, z):
    """δ of a Gaussian of multiplier z at each ε, also below zero."""
    mu = 1 / z
    return above(epsilon / mu - mu / 2) - np.exp(epsilon) * above(epsilon / mu + mu / 2)


def delta_coins(epsilon, z, q):
    """δ of a Gaussian under coins, the client removed: P = (1 − q) N(0) + q N(1), Q = N(0)."""
    inside = np.exp(np.ravel(epsilon)) - (1 - q)
    value = 1 - np.exp(np.ravel(epsilon))  # every outcome is in the event
    some = inside > 0
    cut = z * z * np.log(np.where(some, inside, 1.0) / q) + 0.5
    p = (1 - q) * above(cut / z) + q * above((cut - 1) / z)
    return np.where(some, p - np.exp(np.ravel(epsilon)) * above(cut / z), value)


def together(epsilon, second):
    """δ after a first Gaussian of multiplier 2 and this second step: E[δ(ε − the first loss)]."""
    mu = 0.5
    loss = np.linspace(-9, 9, 40_001) * mu + mu * mu / 2
    weight = np.exp(-(((loss - mu * mu / 2) / mu) ** 2) / 2)
    weight /= weight.sum()
    return float(weight @ second(epsilon - loss)), weight, loss


def test_a_choice_by_the_first_output_takes_more_than_either_choice():
    """Each fixed pair is (4.983, 1.000e-5); whoever looks before choosing needs 1.448e-5."""
    epsilon = 4.983
    plain, weight, loss = together(epsilon, lambda x: delta_plain(x, 1.0))
    coins, *_ = together(epsilon, lambda x: delta_coins(x, 0.4739, 0.02))
    assert plain == pytest.approx(1.000e-5, rel=2e-3)
    assert coins == pytest.approx(1.000e-5, rel=2e-3)
    best = np.maximum(delta_plain(epsilon - loss, 1.0), delta_coins(epsilon - loss, 0.4739, 0.02))
    assert float(weight @ best) == pytest.approx(1.448e-5, rel=2e-3)


def test_losses_compose_where_one_run_fixed_its_settings_before():
    for second in (PLAIN, COINS):
        found = spent([FIRST, replace(second, run="a")], DELTA)
        assert found.epsilon == pytest.approx(4.983, abs=2e-3)
    assert (found.accountant, found.theorem) == ("PLD", "fixed settings")


def test_the_choice_over_two_runs_is_counted_by_a_filter():
    """ε by the filter covers the choice: the δ that it needs there is below 1e-5."""
    found = spent([FIRST, COINS], DELTA)
    assert (found.accountant, found.theorem, found.rdp) == ("RDP", "Rényi filter", found.epsilon)
    either = max(found.epsilon, spent([FIRST, PLAIN], DELTA).epsilon)
    _, weight, loss = together(either, lambda x: delta_plain(x, 1.0))
    best = np.maximum(delta_plain(either - loss, 1.0), delta_coins(either - loss, 0.4739, 0.02))
    assert float(weight @ best) < DELTA


def test_the_filter_gives_each_order_its_part_of_delta():
    """Σ RDP(α) + log(1 − 1/α) − log(αδ/9)/(α − 1), the least over nine orders fixed beforehand."""
    q, z = 0.02, 0.4739
    best = math.inf
    for a in FILTER:
        terms = (
            [
                math.comb(a, k)
                * (1 - q) ** (a - k)
                * q**k
                * math.exp(min(700, k * (k - 1) / 2 / z**2))
                for k in range(a + 1)
            ]
            if a <= 32
            else [math.inf]
        )
        rdp = a / 8 + math.log(sum(terms)) / (a - 1)
        best = min(best, rdp + math.log1p(-1 / a) - math.log(a * DELTA / len(FILTER)) / (a - 1))
    assert spent([FIRST, COINS], DELTA).epsilon == pytest.approx(best, rel=1e-6)
    alone = spent([FIRST, replace(COINS, run="a")], DELTA)
    assert alone.epsilon < alone.rdp < best


@pytest.mark.parametrize(("mu", "exact", "renyi"), [(1.0, 4.377, 4.728), (0.5, 1.993, 2.166)])
def test_gaussians_are_a_filter_whoever_chose_the_parts(mu, exact, renyi):
    """Parts whose squares add up to μ², of runs that may have looked at each other."""
    parts = [0.6, 0.64, math.sqrt(1 - 0.36 - 0.4096)]
    runs = [
        Charge(Release("gaussian", 1 / (mu * p), 1.0), run=r)
        for p, r in zip(parts, "abc", strict=True)
    ]
    found = spent(runs, DELTA)
    assert found.epsilon == pytest.approx(exact, abs=5e-4)
    assert found.rdp == pytest.approx(renyi, abs=1e-3)
    assert (found.accountant, found.theorem) == ("exact", "Gaussian filter")


def test_rounds_of_one_run_are_one_run_whatever_tells_its_entries_apart():
    entries = [replace(COINS, run=f"site/1/m{i}") for i in range(3)]
    stages = [replace(COINS, run=run) for run in ("one", "one#2")]
    for charges in (entries, stages):
        assert spent(charges, DELTA).theorem == "fixed settings"
    assert spent([COINS, replace(COINS, run="c#2")], DELTA).theorem == "Rényi filter"


def test_integer_noise_of_several_runs_is_counted_by_the_filter():
    shares = Charge(Release("skellam", 4.0, 1000.0, 100, 9), run="a")
    one, two = (spent([shares, replace(shares, run=run)], DELTA) for run in "ab")
    assert (one.theorem, two.theorem) == ("fixed settings", "Rényi filter")
    assert two.epsilon > one.epsilon


def test_a_budget_and_a_claim_use_the_filter():
    ledger, why = try_charge(PrivacyLedger(DELTA), ChargeRequest(1, (replace(COINS, run="a"),)))
    ledger, why = try_charge(ledger, ChargeRequest(1, (COINS,), Budget(30.0, DELTA)))
    assert why is None
    assert ledger.epsilon == spent([replace(COINS, run="a"), COINS], DELTA).epsilon
    assert ledger.theorem == "Rényi filter"
    fixed = spent([replace(COINS, run="a")] * 2, DELTA).epsilon
    _, why = try_charge(PrivacyLedger(DELTA), ChargeRequest(1, (replace(COINS, run="a"),)))
    refused = Budget((fixed + ledger.epsilon) / 2, DELTA)
    one, _ = try_charge(PrivacyLedger(DELTA), ChargeRequest(1, (replace(COINS, run="a"),), refused))
    assert "past the budget" in try_charge(one, ChargeRequest(1, (COINS,), refused))[1]
    facts = StatementInputs(
        (COINS.release,), COINS.selection, 1000, ledger, "secret", enforced="coins"
    )
    assert "several runs are counted by a Rényi filter" in statement(facts).items["accountant"]
    assert f"RDP {ledger.epsilon:.3f}"[:8] in statement(facts).items["accountant"]


def test_whether_there_is_another_round_of_one_setting_costs_no_more_than_the_round():
    """One who looks and then lets the second round be has in no outcome more than who plays it."""
    epsilon = 4.983
    whole, weight, loss = together(epsilon, lambda x: delta_coins(x, 0.4739, 0.02))
    nothing = np.maximum(0.0, 1 - np.exp(epsilon - loss))
    best = np.maximum(nothing, delta_coins(epsilon - loss, 0.4739, 0.02))
    assert float(weight @ best) == pytest.approx(whole, rel=1e-12)


def test_a_run_that_went_back_chose_the_number_of_its_rounds_after_a_look():
    """Its name in a ledger is "a" and then "a/2": of a site "a/1/..." and then "a/2/..."."""
    coins = replace(COINS, run="a")
    straight = spent([coins] * 5, DELTA)
    assert straight.theorem == "fixed settings"
    for first, second in (("a", "a/2"), ("a/1/m/s", "a/2/n/t"), ("a#2", "a/2#2")):
        names = [first] * 3 + [second] * 2
        back = spent([replace(COINS, run=name) for name in names], DELTA)
        assert (back.theorem, back.epsilon) == ("one setting", straight.epsilon)
    site = [replace(COINS, run=f"a/1/m{round}/s{round}") for round in range(5)]
    assert spent(site, DELTA).theorem == "fixed settings"


def test_other_settings_after_a_return_are_counted_by_the_filter():
    """One who looked may have chosen them: the run is no longer one whose settings were fixed."""
    back = spent([replace(FIRST, run="a"), replace(COINS, run="a/2")], DELTA)
    assert back == spent([FIRST, COINS], DELTA) and back.theorem == "Rényi filter"
    integers = Release("discrete gaussian", 2.0, 100.0, 10, 9)
    both = [Charge(integers, run="a"), Charge(replace(integers, multiplier=1.0), run="a/2")]
    assert spent(both, DELTA).theorem == "Rényi filter"
    assert spent([both[0], replace(both[0], run="a/2")], DELTA).theorem == "one setting"
    plain = [replace(FIRST, run="a"), replace(PLAIN, run="a/2")]
    assert spent(plain, DELTA).theorem == "Gaussian filter"


def test_a_statement_says_what_a_return_leaves_open():
    ledger = PrivacyLedger(DELTA)
    for round, name in ((1, "a"), (2, "a"), (2, "a/2")):
        ledger = ledger.enter(round, replace(COINS, run=name))
    facts = StatementInputs((COINS.release,), COINS.selection, 100, ledger, "secret", enforced="x")
    said = statement(facts).items["accountant"]
    assert "the run went back" in said and "a budget that was set before" in said
