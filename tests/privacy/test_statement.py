# SPDX-License-Identifier: Apache-2.0
"""A statement claims what its facts carry, and says precisely why where they do not."""

import json
import re
from dataclasses import replace

import pytest

from muster.privacy import (
    AuditFinding,
    Budget,
    Charge,
    PrivacyLedger,
    Release,
    Selection,
    StatementInputs,
    spent,
    statement,
)
from muster.privacy.mask import Mask, Sums

GAUSSIAN = Release("gaussian", 2.0, 0.5, 1000)
SKELLAM = Release("skellam", 2.0, 1000.0, 100, 8)
MATRIX = Release("matrix", 4.0, 1.0, 10, 1, (0.8, 0.6), 5)
LOCAL = Release("local gaussian", 9.0, 2.0, 10)
MASK = Mask({"minimum": 3, "metrics": "hidden", "groups": 1}, Sums(8, 6, 3, 2, 2))


def facts(*releases, rounds=3, accepted=10, **changes):
    ledger = PrivacyLedger(1e-6)
    for round in range(1, rounds + 1):
        for run, release in enumerate(releases):
            ledger = ledger.enter(round, Charge(release, run=str(run)), accepted)
    return replace(StatementInputs(releases, Selection(), 5000, ledger, "secret"), **changes)


def test_a_sound_run_is_claimed_with_its_numbers():
    made = statement(facts(GAUSSIAN, budget=Budget(20.0, 1e-6)))
    assert made.private
    assert made.reasons == ()
    number = float(re.search(r"epsilon ([\d.]+) at delta 1e-06", made.claim)[1])
    assert facts(GAUSSIAN).ledger.epsilon <= number <= facts(GAUSSIAN).ledger.epsilon * 1.001
    assert "hides any one client's update: whether it was what it was, or zero." in made.claim


def test_it_has_the_eleven_items_in_order():
    made = statement(
        facts(GAUSSIAN, budget=Budget(20.0, 1e-6), audits=(AuditFinding("canaries", 0.8),))
    )
    assert [*made.items] == [
        "privacy",
        "unit",
        "trust",
        "mechanism",
        "sampling",
        "accountant",
        "dropouts",
        "not covered",
        "noise",
        "audits",
        "secure sum",
    ]
    lines = made.text().splitlines()
    assert len(lines) == 12
    for part in (
        "over 3 releases; one round alone: epsilon 2.",
        "the budget is 20 at delta 1e-06",
        "zero in one of the two",
        "at most the L2 norm 0.5",
        "the server, which sees what",
        "gaussian noise of 2 times the L2 norm 0.5",
        "all, rate 1 of 5000 clients",
        "exact",
        "RDP",
        "dp-accounting 0",
        "fewest replies: 10",
        "row counts",
        "floating point",
        "AES-CTR of 32 bytes",
        "canaries: epsilon is at least 0.8",
    ):
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
        facts(replace(SKELLAM, known=2), mask=MASK, honest=5),
        r"sure to hold 5 honest shares of noise.* and epsilon is for 6; .* begin another run",
    ),
    (
        facts(SKELLAM, accepted=7, mask=MASK),
        r"released with 7 replies, and the noise needs 8; set Plan\(minimum=8\)",
    ),
    (facts(MATRIX), "the noise counts on 5 rounds between two turns of a client, and 1 are"),
    (
        facts(GAUSSIAN, audits=(AuditFinding("canaries", 99.0),)),
        "found epsilon of at least 99 .* a fault",
    ),
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
        (
            facts(SKELLAM, mask=MASK),
            [
                "6 of them open what one of them dealt",
                "the sum: clients add",
                "made for 8 survivors",
                "integers",
                "1000 levels",
                "or zero",
                "RDP",
            ],
        ),
        (
            facts(replace(SKELLAM, known=2), mask=MASK, honest=6),
            [
                "fewest replies: 10; in any sum 6 are surely honest",
                "the noise of 2 of 8 shares is taken to be known to others; with all shares: ",
                "who takes part and whose replies are in the sum",
            ],
        ),
        (
            facts(MATRIX, selection=Selection("rotation", 0.2, separation=5)),
            ["2 bands, a client takes part once in 5 rounds"],
        ),
        (facts(LOCAL), ["nobody: each client adds", "client's update is another one"]),
        (facts(GAUSSIAN, mask=MASK), ["the sum of what clients send", "but no reply"]),
        (facts(replace(GAUSSIAN, sensitivity=None)), ["a bound that moves"]),
        (
            facts(GAUSSIAN, selection=Selection("poisson", 0.1), enforced="coins of the server"),
            ["accounted with rate 0.1; enforced: coins of the server"],
        ),
        (
            facts(GAUSSIAN, selection=Selection("uniform", 0.1), accepted=None),
            [
                "uniform, rate 0.1",
                "accounted with rate 1;",
                "fewest replies: not recorded",
                "no budget was set",
            ],
        ),
        (facts(GAUSSIAN, uncovered=()), ["nothing is known"]),
        (facts(GAUSSIAN, LOCAL), ["over 6 releases", "of 2 runs"]),
    ],
)
def test_what_is_said_of_other_mechanisms(given, words):
    made = statement(given)
    assert made.private, made.reasons
    for word in words:
        assert word in made.text(), word


COINS = Selection("poisson", 0.1)
SEEN = Selection("poisson", 0.1, seen=True)
CLAIMS = [
    (GAUSSIAN, Selection(), "whether it was what it was, or zero.", "(zero-out)"),
    (GAUSSIAN, Selection("uniform", 0.1), "whether it was what it was, or zero.", "(zero-out)"),
    (GAUSSIAN, SEEN, "whether it was what it was, or zero.", "(zero-out)"),
    (MATRIX, Selection("rotation", 0.2, separation=5), "or zero.", "(zero-out)"),
    (SKELLAM, COINS, "whether it was what it was, or zero.", "(zero-out)"),
    (LOCAL, COINS, "whether it was what it was, or any other.", "another one, whatever it is"),
    (
        GAUSSIAN,
        COINS,
        "hide whether any one client took part at all. This is a claim against "
        "readers of the released models alone: the server sees who takes part, and is trusted.",
        "(add-or-remove); the sum is divided by the same number in both",
    ),
]


def made_of(*pairs, **changes):
    """Facts of one release and sampling, or of a ledger of several runs of such."""
    ledger = PrivacyLedger(1e-6)
    for run, (release, how) in enumerate(pairs):
        for round in (1, 2):
            ledger = ledger.enter(round, Charge(release, how, run=str(run)), 10)
    given = {"enforced": "the server's secret", "mask": MASK} | changes
    return replace(StatementInputs((pairs[0][0],), pairs[0][1], 5000, ledger, "secret"), **given)


@pytest.mark.parametrize(("release", "how", "hidden", "unit"), CLAIMS)
def test_the_claim_says_what_is_hidden_under_which_relation(release, how, hidden, unit):
    made = statement(made_of((release, how)))
    assert made.private, made.reasons
    assert made.claim.endswith(hidden)
    assert unit in made.items["unit"]
    coins = "readers of the released models alone" in made.items["trust"]
    assert coins == ("took part at all" in hidden)
    assert "the part of any one client" not in made.text()


def test_a_ledger_of_several_relations_claims_the_one_for_which_all_hold():
    """Zero is a case of another update, and of a client that is not there."""
    both = statement(made_of((GAUSSIAN, COINS), (LOCAL, Selection())))
    assert "or zero. This is a claim against readers" in both.claim
    assert "(zero-out)" in both.items["unit"]
    assert "several runs are counted by a Rényi filter" in both.items["accountant"]


def test_another_update_in_its_place_is_stated_beside():
    found = re.search(
        r"stood in its place, which is twice as far: epsilon ([\d.]+)",
        statement(made_of((GAUSSIAN, Selection()))).items["unit"],
    )
    wanted = spent([Charge(replace(GAUSSIAN, multiplier=1.0), rounds=2)], 1e-6).epsilon
    assert wanted <= float(found[1]) <= wanted * 1.001
    local = statement(made_of((LOCAL, Selection()))).items["unit"]
    assert "stood in its place" not in local


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        (((GAUSSIAN, Selection()),), "Gaussians alone are a Gaussian filter"),
        (((GAUSSIAN, Selection()), (LOCAL, Selection())), "Gaussians alone are a Gaussian filter"),
        (((GAUSSIAN, COINS),), "were fixed before the first"),
        (((SKELLAM, Selection()),), "were fixed before the first"),
        (((GAUSSIAN, COINS), (GAUSSIAN, COINS)), "several runs are counted by a Rényi filter"),
        (((SKELLAM, Selection()), (GAUSSIAN, COINS)), "several runs are counted by a Rényi filter"),
    ],
)
def test_it_names_the_theorem_that_the_total_rests_on(pairs, said):
    assert said in statement(made_of(*pairs)).items["accountant"]


def test_the_rows_of_correlated_noise_are_erased_or_not():
    how = Selection("rotation", 0.2, separation=5)
    for erased, said in ((False, "in the server's store until the run ends"), (True, "are erased")):
        assert said in statement(made_of((MATRIX, how), erased=erased)).items["noise"]
    assert "rows" not in statement(made_of((GAUSSIAN, how))).items["noise"]
    assert "a client once in 5 rounds" in statement(made_of((MATRIX, how))).items["sampling"]
    assert "as the coins are seen" in statement(made_of((SKELLAM, COINS))).items["sampling"]


def test_no_word_is_used_that_says_nothing():
    for given, _ in MISSING:
        text = statement(given).text()
        assert "anonym" not in text
        assert not re.search(r"\bprivate\b", text)
