# SPDX-License-Identifier: Apache-2.0
"""The statement of a run is made of what it recorded, with or without its plan."""

from dataclasses import replace

import pytest

from muster import (
    Every,
    Local,
    Plan,
    aggregation,
    algorithms,
    optimizers,
    pipeline,
    sampling,
    tasks,
)
from muster.privacy import AuditFinding, Budget, PrivacyLedger
from muster.runs import Run
from muster.runs.privacy.facts import ledger_of, stated

PLAN = Plan(
    task=tasks.numpy.MLP([4, 5, 3]),
    algorithm=algorithms.FedAvg(),
    local=Local(epochs=1, batch=4, optimizer=optimizers.SGD(0.2)),
    rounds=3,
    sampling=sampling.Poisson(0.5),
    pipeline=(pipeline.Clip(0.5), pipeline.Noise(4.0)),
    weighting="equal",
    aggregation=aggregation.Mean("expected"),
    budget=Budget(40.0, 1e-3),
)


@pytest.fixture
def made(train):
    """A run of the plan, from secrets or from the seed."""

    def trained(entropy=None, **changed):
        plan = replace(PLAN, **changed)
        fields = {name: getattr(plan, name) for name in plan.__dataclass_fields__}
        run = train("secret" if entropy else "seed", options={"entropy": entropy}, **fields)
        return Run(run.path)  # without its plan

    return trained


def test_noise_from_secrets_is_a_claim(made):
    found = stated(made(entropy=lambda n: bytes(n)))
    assert (found.private, found.reasons) == (True, ())
    assert found.claim.startswith("With epsilon ")
    assert "the budget is 40 at delta 0.001" in found.items["privacy"]
    assert "poisson, rate 0.5 of 10 clients, accounted with rate 0.5" in found.items["sampling"]
    assert "the server, from a secret of each round" in found.items["sampling"]


def test_noise_from_the_seed_is_none(made):
    found = stated(made())
    assert not found.private
    assert "this is a simulation" in found.reasons[0]


def test_the_ledger_has_the_replies_of_each_round(made):
    run = made()
    ledger = ledger_of(run)
    assert ledger == PrivacyLedger.from_json(run.facts["ledger"]).witnessed(
        {(run.facts["privacy"]["run"], r["round"]): len(r["accepted"]) for r in run.trained}
    )
    assert None not in [entry.accepted for entry in ledger.entries]


def test_a_run_without_noise_claims_nothing(train):
    run = train("plain", rounds=1)
    assert ledger_of(run) is None
    found = stated(run)
    assert found.reasons == (
        "no stage adds noise; put Clip(bound) and Noise(multiplier) into the pipeline",
    )


def test_an_audit_that_finds_more_takes_the_claim_away(made):
    run = made(entropy=lambda n: bytes(n))
    found = stated(run, (AuditFinding("canaries", 99.0),))
    assert not found.private
    assert "this is a fault to report" in found.reasons[0]
    assert "canaries: epsilon is at least 99" in found.items["audits"]


def test_masked_sums_are_stated_without_noise_too(train):
    stages = (pipeline.Clip(1.0), pipeline.Quantize(12), pipeline.SecureSum())
    run = train("masked", pipeline=stages, weighting="equal", evaluate=Every(clients=0), rounds=1)
    (note,) = run.trained[0]["secure"]
    said = stated(Run(run.path)).items["secure sum"]
    assert f"at least {note['honest']} honest clients in each sum" in said
    assert f"and {note['losses']} be lost" in said


def test_the_chance_that_groups_expose_somebody_is_stated(train):
    secure = pipeline.SecureSum(groups=2, corrupt=0.1, dropout=0.0, exposure=0.5)
    stages = (pipeline.Clip(1.0), pipeline.Quantize(12), secure)
    hidden = {"weighting": "equal", "evaluate": Every(clients=0), "sampling": sampling.All()}
    run = train("groups", pipeline=stages, rounds=2, **hidden)
    count = sum(note["members"] for note in run.trained[0]["secure"])
    said = stated(run).items["secure sum"]
    assert f"with a chance of {secure.chance(count, 2):.2g}" in said


SHARES = {
    "pipeline": (
        pipeline.Clip(0.5),
        pipeline.Quantize(12),
        pipeline.DiscreteNoise(40.0, 8),
        pipeline.SecureSum(dropout=0.0),
    ),
    "sampling": sampling.All(),
    "minimum": 8,
    "evaluate": Every(clients=0),
}


def test_a_sum_that_was_opened_with_fewer_honest_shares_than_are_charged_for_is_no_claim(made):
    """Ten were invited, three of whom may work together; eight replied, in a run of long ago."""
    run = made(entropy=lambda n: bytes(n), **SHARES)
    assert stated(run).private
    assert "in any sum 7 are surely honest" in stated(run).items["dropouts"]
    run.history[1]["accepted"].pop()
    assert stated(run).private
    run.history[1]["accepted"].pop()
    (reason,) = stated(run).reasons
    assert "sure to hold 5 honest shares" in reason and "epsilon is for 6" in reason


def test_a_part_of_a_ring_that_may_have_been_opened_counts(made):
    run = made(entropy=lambda n: bytes(n), **SHARES)
    run.trained[0]["secure"][0] |= {"degree": 6, "honest": 4}
    (reason,) = stated(run).reasons
    assert "sure to hold 4 honest shares" in reason
