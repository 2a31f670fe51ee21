# SPDX-License-Identifier: Apache-2.0
"""A statement claims what its facts carry, and says precisely why where they do not."""

import json
import re
from dataclasses import replace

import pytest

from muster.privacy import Audit, Budget, Charge, Facts, Ledger, Release, Selection, statement

GAUSSIAN = Release("gaussian", 2.0, 0.5, 1000)
SKELLAM = Release("skellam", 2.0, 1000.0, 100, 8)
MATRIX = Release("matrix", 4.0, 1.0, 10, 1, (0.8, 0.6), 5)
LOCAL = Release("local gaussian", 9.0, 2.0, 10)


def facts(*releases, rounds=3, accepted=10, **changes):
    ledger = Ledger(1e-6)
    for round in range(1, rounds + 1):
        for run, release in enumerate(releases):
            ledger = ledger.enter(round, Charge(release, run=str(run)), accepted)
    return replace(Facts(releases, Selection(), 5000, ledger, "secret"), **changes)


def test_a_sound_run_is_claimed_with_its_numbers():
    made = statement(facts(GAUSSIAN, budget=Budget(20.0, 1e-6)))
    assert made.private
    assert made.reasons == ()
    number = float(re.search(r"epsilon ([\d.]+) at delta 1e-06", made.claim)[1])
    assert facts(GAUSSIAN).ledger.epsilon <= number <= facts(GAUSSIAN).ledger.epsilon * 1.001
    assert "hides any one client's update: whether it was what it was, or zero." in made.claim


def test_it_has_the_eleven_items_in_order():
    made = statement(facts(GAUSSIAN, budget=Budget(20.0, 1e-6), audits=(Audit("canaries", 0.8),)))
    assert [*made.items] == [
        "privacy", "unit", "trust", "mechanism", "sampling", "accountant", "dropouts",
        "not covered", "noise", "audits", "secure sum",
    ]  # fmt: skip
    lines = made.text().splitlines()
    assert len(lines) == 12
    for part in (
        "over 3 releases; one round alone: epsilon 2.", "the budget is 20 at delta 1e-06",
        "zero in one of the two", "at most the L2 norm 0.5", "the server, which sees what clients send",
        "gaussian noise of 2 times the L2 norm 0.5", "all, rate 1 of 5000 clients",
        "exact", "RDP", "dp-accounting 0", "fewest replies: 10", "row counts",
        "floating point", "AES-CTR of 32 bytes", "canaries: epsilon is at least 0.8",
    ):  # fmt: skip
        assert part in made.text(), part
    value = json.loads(made.to_json())
    assert value["private"] is True
    assert value["items"] == dict(made.items)


MISSING = [
    (facts(GAUSSIAN, randomness="seed"), "this is a simulation: its noise is a function of the"),
    (facts(rounds=0), r"no stage adds noise; put Clip\(bound\) and Noise\(multiplier\)"),
    (facts(GAUSSIAN, rounds=0), "the ledger holds no release"),
    (facts(GAUSSIAN, population=10**6), r"delta 1e-06 is not below one over the 1000000 clients"),
    (facts(GAUSSIAN, denominator="replies"), r"use Mean\(denominator='expected'\)"),
    (facts(GAUSSIAN, selection=Selection("poisson", 0.1)), "nothing says who tossed them"),
    (facts(SKELLAM), r"without a secure sum the server sees each reply under one 8th"),
    (
        facts(SKELLAM, accepted=7, mask={"threshold": 6}),
        r"released with 7 replies, and the noise needs 8; set Plan\(minimum=8\)",
    ),
    (facts(MATRIX), "the noise counts on 5 rounds between two turns of a client, and 1 are"),
    (facts(GAUSSIAN, audits=(Audit("canaries", 99.0),)), "found epsilon of at least 99 .* a fault"),
]


@pytest.mark.parametrize(("given", "reason"), MISSING, ids=[reason[:30] for _, reason in MISSING])
def test_without_a_ground_nothing_is_claimed(given, reason):
    made = statement(given)
    assert not made.private
    assert made.claim == "No privacy is claimed for this run:"
    assert len(made.reasons) == 1
    assert re.search(reason, made.reasons[0])
    assert f"- {made.reasons[0]}" in made.text()
    assert json.loads(made.to_json())["private"] is False


def test_every_missing_ground_is_named():
    made = statement(facts(SKELLAM, randomness="seed", denominator="replies", population=10**7))
    assert len(made.reasons) == 4


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (facts(SKELLAM, mask={"threshold": 6, "degree": 7}),
         ["threshold 6, degree 7", "the sum: clients add", "made for 8 survivors",
          "integers", "1000 levels", "or zero", "RDP"]),
        (facts(replace(SKELLAM, known=2), mask={"threshold": 6}),
         ["the noise of 2 of 8 shares is taken to be known to others; with all shares: epsilon",
          "who takes part and whose replies are in the sum"]),
        (facts(MATRIX, selection=Selection("rotation", 0.2, separation=5)), ["2 bands, a client takes part once in 5 rounds"]),
        (facts(LOCAL), ["nobody: each client adds", "client's update is another one"]),
        (facts(GAUSSIAN, mask={"threshold": 6}), ["the sum of what clients send", "but no reply"]),
        (facts(replace(GAUSSIAN, sensitivity=None)), ["a bound that moves"]),
        (facts(GAUSSIAN, selection=Selection("poisson", 0.1), enforced="coins of the server"),
         ["accounted with rate 0.1; enforced: coins of the server"]),
        (facts(GAUSSIAN, selection=Selection("uniform", 0.1), accepted=None),
         ["uniform, rate 0.1", "accounted with rate 1;", "fewest replies: not recorded",
          "no budget was set"]),
        (facts(GAUSSIAN, uncovered=()), ["nothing is known"]),
        (facts(GAUSSIAN, LOCAL), ["over 6 releases", "of 2 runs"]),
    ],
)  # fmt: skip
def test_what_is_said_of_other_mechanisms(given, words):
    made = statement(given)
    assert made.private, made.reasons
    for word in words:
        assert word in made.text(), word


def test_no_word_is_used_that_says_nothing():
    for given, _ in MISSING:
        text = statement(given).text()
        assert "anonym" not in text
        assert not re.search(r"\bprivate\b", text)
