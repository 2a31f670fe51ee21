# SPDX-License-Identifier: Apache-2.0
"""A plan whose noise would hide nobody is refused with a remedy; the rest is charged as it is."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from muster import (
    Every,
    Local,
    PerExample,
    Plan,
    aggregation,
    algorithms,
    pipeline,
    sampling,
    tasks,
)
from muster.errors import PlanError
from muster.pipeline import BandedNoise, Clip, DiscreteNoise, LocalNoise, Noise, Quantize
from muster.plan.private import charges, empty_reply, noises_sum, selection
from muster.plan.registry import assign, fingerprint, to_value
from muster.privacy import Budget, Charge, PrivacyLedger, Selection, StatementInputs, statement
from muster.privacy.mask import Mask
from muster.types import Cohort, Roster

EXPECTED = aggregation.Mean("expected")
TEN = Roster(tuple(range(10)), lambda: np.ones(10, int))


def plan(*stages, **fields):
    values = {
        "task": tasks.numpy.SoftmaxRegression(4, 3),
        "algorithm": algorithms.FedAvg(),
        "local": Local(steps=1),
        "pipeline": stages,
        "weighting": "equal",
        "aggregation": EXPECTED,
    }
    return Plan(**(values | fields))


def normed():
    """A model with BatchNorm."""
    torch = pytest.importorskip("torch")
    return torch.nn.Sequential(torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))


NOISY = (Clip(1.0), Noise(1.0))
SHARES = (Clip(1.0), Quantize(16), DiscreteNoise(1.0, clients=10, dropout=0.2))


@dataclass(frozen=True)
class Strange(sampling.Sampler):
    """A sampling that no accountant knows."""

    traits = sampling.SamplerTraits()

    def sample(self, roster, state, round, key, losses=None):
        return Cohort(roster.clients), state

    def share(self, roster):
        return 1.0


@dataclass(frozen=True)
class Apart(Strange):
    """One that keeps four rounds between two turns of a client."""

    traits = sampling.SamplerTraits("all", separation=4)


ROWS = Local(steps=1, examples=PerExample(1.0, 1.1))
REFUSED = [
    (
        {"local": ROWS},
        (),
        r"Every\(rounds=1, clients=100\) asks some for theirs; use "
        r"Plan\(evaluate=Every\(clients=0\)\), or PerExample\(metrics='public'\)",
    ),
    ({"budget": Budget(1.0, 1e-5)}, (), r"no stage adds noise.*put Clip\(bound\) and Noise"),
    ({"budget": 3.0}, NOISY, r"budget=3\.0.*no budget; give muster\.privacy\.Budget"),
    ({"aggregation": aggregation.Mean()}, NOISY, r"use Mean\(denominator='expected'\)"),
    ({"aggregation": aggregation.Mean(), "minimum": 8}, SHARES, r"denominator='expected'"),
    ({"sampling": sampling.Weighted(count=3)}, NOISY, r"use Uniform\(count=\.\.\.\)"),
    (
        {"sampling": sampling.Weighted(count=3), "aggregation": aggregation.Mean()},
        (Clip(1.0), LocalNoise(1.0, 1e-5)),
        r"Weighted.*no privacy accounting.*use Poisson",
    ),
    ({"sampling": Strange()}, NOISY, r"Strange\(\) has no privacy accounting"),
    ({"minimum": 7}, SHARES, r"for 8 replies.*release fewer; use Plan\(minimum=8\)"),
    ({"minimum": 0.9}, SHARES, r"use Plan\(minimum=8\)"),
    ({}, (Clip(1.0), BandedNoise(1.0, 4, separation=4)), r"keeps 1; use BandedNoise\(separation=1"),
]


@pytest.mark.parametrize(("fields", "stages", "said"), REFUSED, ids=[s for *_, s in REFUSED])
def test_what_would_hide_nobody_is_refused(fields, stages, said):
    with pytest.raises(PlanError, match=said):
        plan(*stages, **fields)


def test_shared_buffers_are_refused_with_the_remedy():
    task = tasks.torch.Classifier(normed)
    for stages in (NOISY, (Clip(1.0), LocalNoise(1.0, 1e-5))):
        with pytest.raises(PlanError, match=r"averaged buffers.*GroupNorm"):
            plan(*stages, task=task)


def test_what_hides_its_clients_is_accepted():
    for stages, fields in (
        (NOISY, {"sampling": sampling.Poisson(0.1), "budget": Budget(2.0, 1e-6)}),
        (SHARES, {"minimum": 8, "sampling": sampling.Uniform(count=9)}),
        ((Clip(1.0), LocalNoise(1.0, 1e-5)), {"aggregation": aggregation.Mean()}),
        ((Clip(1.0), BandedNoise(1.0, 4, separation=4)), {"sampling": Apart()}),
        ((pipeline.AdaptiveClip(), Noise(1.0)), {}),
    ):
        made = plan(*stages, **fields)
        (charge,) = charges(made, TEN, "a")
        assert charge == Charge(made.stages.releases()[0], selection(made, TEN), run="a")


def test_a_budget_of_rows_needs_no_noise_for_clients():
    made = plan(local=ROWS, evaluate=Every(clients=0), budget=Budget(2.0, 1e-6))
    assert charges(made, TEN, "a") == ()
    told = replace(ROWS, examples=PerExample(1.0, 1.1, metrics="public"))
    assert plan(local=told).evaluate == Every()


def test_the_selection_is_that_of_the_sampling():
    found = [
        selection(plan(*NOISY, sampling=one), TEN)
        for one in (sampling.All(), sampling.Uniform(count=2), sampling.Poisson(0.3))
    ]
    assert found == [Selection(), Selection("uniform", 0.2), Selection("poisson", 0.3)]


def test_masks_show_who_is_drawn_and_turns_are_kept_apart():
    masked = (Clip(1.0), Quantize(8), Noise(1.0), pipeline.SecureSum())
    for stages, draw, wanted in (
        (masked, sampling.Poisson(0.3), Selection("poisson", 0.3, seen=True)),
        (masked, sampling.All(), Selection(seen=True)),
        (NOISY, sampling.Rotation(slots=4), Selection("rotation", 0.25, separation=4)),
        (NOISY, Apart(), Selection(separation=4)),
    ):
        made = plan(*stages, sampling=draw, evaluate=Every(clients=0))
        assert selection(made, TEN) == wanted
        assert charges(made, TEN, "a")[0].relation == "zero-out"


@pytest.mark.parametrize(
    ("mask", "known"),
    [
        ((), 1),
        ((pipeline.SecureSum(minimum=36, dropout=0.075),), 12),
        ((pipeline.SecureSum(36, corrupt=0.0),), 1),
    ],
)
def test_noise_in_shares_is_charged_without_those_that_others_know(mask, known):
    """Of 36 survivors a third work together, or one looks on: ε 6.25 becomes 8.12."""
    shares = (Clip(1.0), Quantize(16), DiscreteNoise(4.0, clients=40, dropout=0.1), *mask)
    forty = Roster(tuple(range(100)), lambda: np.ones(100, int))
    made = plan(*shares, minimum=36, sampling=sampling.Uniform(count=40), evaluate=Every(clients=0))
    (charge,) = charges(made, forty, "a")
    assert (charge.release.survivors, charge.release.known) == (36, known)
    ledger = PrivacyLedger(1e-3)
    for round in range(1, 41):
        ledger = ledger.enter(round, charge, 40)
    assert ledger.epsilon == pytest.approx(8.124 if known == 12 else 6.358, abs=2e-3)
    facts = StatementInputs(
        made.stages.releases(), charge.selection, 100, ledger, "secret", mask=Mask({"minimum": 3})
    )
    said = statement(facts).items["privacy"]
    assert f"the noise of {known} of 36 shares is taken to be known to others" in said
    assert "with all shares: epsilon 6.25" in said


def test_a_share_that_is_the_only_one_hides_nothing():
    with pytest.raises(PlanError, match="noise in shares of 1, of which others know 1"):
        plan(Clip(1.0), Quantize(16), DiscreteNoise(4.0, clients=1), minimum=1)


def test_each_stage_with_noise_is_charged():
    both = plan(Clip(1.0), LocalNoise(1.0, 1e-5), Clip(2.0), Noise(1.0))
    assert [c.run for c in charges(both, TEN, "a")] == ["a", "a#2"]
    assert [c.release.mechanism for c in charges(both, TEN, "a")] == ["local gaussian", "gaussian"]
    assert charges(plan(), TEN, "a") == ()


def test_a_sum_of_nobody_is_a_release_under_noise_on_the_sum_alone():
    assert noises_sum(plan(*NOISY))
    assert noises_sum(plan(Clip(1.0), Quantize(8), Noise(1.0)))
    assert not noises_sum(plan(*SHARES, minimum=8))
    total = empty_reply(plan(pipeline.AdaptiveClip(), Noise(1.0)))
    assert (total.clients, total.weight, total.buffers.size) == ((), 0.0, 0)
    assert {k: (v.dtype.str, v.shape) for k, v in total.payload.items()} == {
        "delta": ("<f4", (15,)),
        "inside": ("<f4", (1,)),
    }
    whole = empty_reply(plan(Clip(1.0), Quantize(8), Noise(1.0)))
    assert whole.payload["delta"].dtype == np.int64


def test_a_budget_may_change_on_resume_and_is_set_from_a_shell():
    before = plan(*NOISY)
    after = assign(before, "budget=Budget(2.0, 1e-6)")
    assert after.budget == Budget(2.0, 1e-6)
    assert assign(after, "budget.epsilon=3.0").budget == Budget(3.0, 1e-6)
    assert fingerprint(after) == fingerprint(before)
    assert to_value(after)["budget"] == {"class": "Budget", "epsilon": 2.0, "delta": 1e-6}
    assert replace(after, budget=None) == before
