# SPDX-License-Identifier: Apache-2.0
"""Statements about single rows, and that nothing is claimed that is not known."""

from dataclasses import replace

import pytest

from muster.local import Local
from muster.privacy import Budget, PerExample, spent
from muster.privacy.examples import charged
from muster.privacy.mask import Mask
from muster.privacy.rows import Charged, Held, RowFacts, row_statement

RULE = PerExample(0.5, 2.0)
ONCE = charged(Local(steps=10, batch=16, examples=RULE), 100)
COST = Charged(
    Held("lyon", 100, 3),
    4,
    spent([ONCE], 1e-4),
    spent([ONCE] * 3, 1e-4),
    0.16,
    10,
)
HERE = RowFacts(RULE, "hidden", 16, "by its rows", 1e-4, False, 5, 700, COST, Budget(9.0, 1e-4))
AWAY = RowFacts(RULE, "hidden", 16, "once", 0.0, away=True)


def test_the_items_are_those_of_clients():
    made = row_statement(HERE)
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
    assert made.unit == "example"
    for part in (
        "at delta 0.0001, for the rows of 'lyon', the worst of 5 clients",
        "the budget is 9",
        "one row adds nothing to any gradient in one of them (zero-out)",
        "counts as public",
        "gaussian noise of 2 times the L2 norm 0.5 of a row's gradient",
        "counts by its rows;",
        "drift and metrics of evaluation stay with the clients",
        "poisson batches of 16 rows",
        "accounted with rate 0.16 in 10 charges a round",
        "invited to 3 of 4 rounds",
        "composed over 30 charges",
        "disjoint rows",
        "Philox of the plan's seed",
    ):
        assert part in made.text(), part
    number = float(made.items["privacy"].split()[1])
    assert COST.all.epsilon <= number <= 1.001 * COST.all.epsilon


def test_a_simulation_claims_nothing():
    made = row_statement(HERE)
    assert not made.private
    (reason,) = made.reasons
    assert "whoever holds the plan can take it off again" in reason


def test_a_server_says_what_it_cannot_know():
    made = row_statement(AWAY)
    assert not made.private
    (reason,) = made.reasons
    assert "the server cannot see whether a site does" in reason
    assert "muster privacy --site FOLDER" in reason
    assert "epsilon" not in made.items["privacy"]
    assert made.items["accountant"] == "that of each site"
    assert "as far as it keeps to the plan" in made.items["noise"]


def test_metrics_that_are_public_are_not_covered():
    made = row_statement(replace(HERE, metrics="public"))
    assert "sent as they are: PerExample(metrics='public')" in made.items["not covered"]
    assert "stay with the clients" not in made.text()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"charged": None}, "no client was invited yet"),
        ({"rows": 10_000}, "not below one over the 10000 rows"),
    ],
)
def test_other_grounds_that_are_missing(change, reason):
    made = row_statement(replace(HERE, **change))
    assert len(made.reasons) == 2
    assert reason in made.reasons[1]


def test_full_batches_without_a_budget_in_a_masked_sum():
    made = row_statement(replace(HERE, batch=None, budget=None, mask=Mask({"minimum": 3})))
    assert "full batches;" in made.items["sampling"]
    assert "no budget was set" in made.items["privacy"]
    assert made.items["secure sum"].startswith("no sum was made yet")
    assert "muster audit privacy" in made.items["audits"]
