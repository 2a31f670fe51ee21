# SPDX-License-Identifier: Apache-2.0
"""Numbers that nobody means: refused in a sentence when they are given, never by an overflow."""

import math

import numpy as np
import pytest

from muster import Local, PerExample, Plan, aggregation, algorithms, keys, sampling, tasks
from muster.errors import MusterError, PlanError
from muster.pipeline import (
    AdaptiveClip,
    BandedNoise,
    Clip,
    DiscreteNoise,
    LocalNoise,
    Noise,
    Quantize,
)
from muster.plan.private import charges
from muster.privacy import (
    Budget,
    Charge,
    PrivacyLedger,
    Release,
    Selection,
    StatementInputs,
    gaussian_delta,
    gaussian_deviation,
    gaussian_epsilon,
    noise_multiplier,
    promise,
    rounds_for,
    spent,
    statement,
)
from muster.privacy.accounting import replacement
from muster.privacy.examples import private_gradient
from muster.privacy.ledger import usual_delta
from muster.types import Reply, Roster

TEN = Roster(tuple(range(10)), lambda: np.ones(10, int))
SMALL = (5e-324, 1e-310, 1e-300, 1e-160, 1e-12, 0.0, -0.0, -1.0)
LARGE = (1e12, 1e160, 1e300, math.inf, math.nan, 10**400)
STRANGE = ("1", None, True, 1j)
FINE = (1e-9, 1e-8, 0.3, 1.0, 7, 1e3, 1e9)


def name(number):
    """Short, for a test's id."""
    return f"{number!r:.12}"


def plan(*stages, **fields):
    values = {
        "task": tasks.numpy.LinearRegression(2),
        "algorithm": algorithms.FedAvg(),
        "local": Local(steps=1),
        "pipeline": stages,
        "weighting": "equal",
        "aggregation": aggregation.Mean("expected"),
    }
    return Plan(**(values | fields))


def used(made):
    """All that a number is used for, from its stage to the statement."""
    states, nothing = made.stages.init(), made.stages.empty_reply(made.dtype)
    with np.errstate(all="raise", under="ignore"):
        for round in range(3):
            out, states = made.stages.decode(Reply((), nothing, 10.0), states, keys.key(round))
    assert all(np.isfinite(value).all() for value in out.payload.values())
    ledger = PrivacyLedger(1e-5)
    for round in (1, 2):
        for charge in charges(made, TEN, "r"):
            ledger = ledger.enter(round, charge, 10)
    facts = StatementInputs(made.stages.releases(), Selection(), 10, ledger, "secret")
    assert statement(facts).text()
    assert math.isfinite(ledger.epsilon)


STAGES = {
    "Noise": lambda z: (Clip(1.0), Noise(z)),
    "Noise, bit": lambda z: (AdaptiveClip(), Noise(1.0, bit=z)),
    "Noise, adaptive": lambda z: (AdaptiveClip(), Noise(z)),
    "BandedNoise": lambda z: (Clip(1.0), BandedNoise(z, 3)),
    "DiscreteNoise": lambda z: (Clip(1.0), Quantize(8), DiscreteNoise(z, 5)),
    "DiscreteNoise, gaussian": lambda z: (
        Clip(1.0),
        Quantize(8),
        DiscreteNoise(z, 5, law="gaussian"),
    ),
    "LocalNoise, epsilon": lambda z: (Clip(1.0), LocalNoise(z, 1e-5)),
    "LocalNoise, delta": lambda z: (Clip(1.0), LocalNoise(1.0, z)),
    "Clip": lambda z: (Clip(z), Noise(1.0)),
    "Clip, rounded": lambda z: (Clip(z), Quantize(8), Noise(1.0)),
    "Clip, shares": lambda z: (Clip(z), Quantize(8), DiscreteNoise(1.0, 5)),
    "Clip, local": lambda z: (Clip(z), LocalNoise(1.0, 1e-5)),
    "AdaptiveClip, start": lambda z: (AdaptiveClip(start=z), Noise(1.0)),
    "AdaptiveClip, rate": lambda z: (AdaptiveClip(rate=z), Noise(1.0)),
    "PerExample": lambda z: (),
}


@pytest.mark.parametrize("number", SMALL + LARGE + STRANGE + FINE, ids=name)
@pytest.mark.parametrize("stage", STAGES)
def test_a_number_in_a_stage_is_fine_or_refused(stage, number):
    """Whatever is not refused is played, charged, and stated."""
    try:
        if stage == "PerExample":
            local = Local(steps=2, batch=2, examples=PerExample(1.0, number))
            assert math.isfinite(promise(local, 9, 3, 1e-5).epsilon)
            return
        shares = "Discrete" in stage or "shares" in stage
        used(plan(*STAGES[stage](number), minimum=5 if shares else 1))
    except MusterError as refused:
        usual = any(number is one for one in (0.3, 1.0))
        assert not usual or "delta" in stage or "takes all of the budget" in str(refused)
        assert str(refused)


@pytest.mark.parametrize("number", SMALL + LARGE + STRANGE, ids=name)
@pytest.mark.parametrize(
    "make",
    [
        lambda z: Release("gaussian", z, 1.0),
        lambda z: Release("skellam", z, 100.0, 9, 5),
        lambda z: PerExample(1.0, z),
        lambda z: Noise(z),
        lambda z: BandedNoise(z, 2),
        lambda z: DiscreteNoise(z, 3),
        lambda z: LocalNoise(z, 1e-5),
        lambda z: Budget(z, 1e-5),
        lambda z: gaussian_deviation(z, 1e-5),
        lambda z: noise_multiplier(z, 1e-5, 3),
        lambda z: rounds_for(z, 1e-5, Release("gaussian", 1.0, 1.0)),
        lambda z: private_gradient(np.zeros((2, 2)), 1.0, z, 2.0, None),
    ],
    ids=lambda make: "",
)
def test_a_multiplier_or_epsilon_beyond_floats_is_refused(make, number):
    with pytest.raises(PlanError, match=r"needed|must be finite"):
        make(number)


@pytest.mark.parametrize("number", [5e-324, 1e-300, 0.0, 1.0, 2.0, math.nan, "x", None, True])
@pytest.mark.parametrize(
    "make",
    [
        lambda d: Budget(1.0, d),
        lambda d: PrivacyLedger(d),
        lambda d: spent([], d),
        lambda d: gaussian_epsilon(d, 1.0),
        lambda d: LocalNoise(1.0, d),
    ],
    ids=["Budget", "PrivacyLedger", "spent", "gaussian_epsilon", "LocalNoise"],
)
def test_a_delta_beyond_floats_is_refused(make, number):
    with pytest.raises(PlanError, match="delta="):
        make(number)


@pytest.mark.parametrize("rounds", [0, -1, 10**16, 10**400, 2.0, math.inf, math.nan, "3", True])
def test_rounds_beyond_counting_are_refused(rounds):
    with pytest.raises(PlanError, match="whole number above 0"):
        Charge(Release("gaussian", 1.0, 1.0), rounds=rounds)


@pytest.mark.parametrize(
    "field", ["sensitivity", "coefficients", "dimension", "survivors", "separation"]
)
@pytest.mark.parametrize("number", [1e300, math.inf, math.nan, -1.0, "x"])
def test_a_release_of_numbers_beyond_floats_is_refused(field, number):
    value = (number,) if field == "coefficients" else number
    given = {"sensitivity": 1.0, "coefficients": (1.0,)} | {field: value}
    if field == "coefficients" and number == -1.0:
        charge = Charge(Release("matrix", 1.0, **given))  # its own test says why
        with pytest.raises(PlanError, match="they must fall from the first"):
            spent([charge], 1e-5)
        return
    with pytest.raises(PlanError, match="need"):
        Release("matrix", 1.0, **given)


THIN = [
    Charge(Release("gaussian", 1e-9, 1.0), rounds=5_000_000),
    Charge(Release("gaussian", 1e-9, 1.0), Selection("poisson", 0.5), 5_000_000),
    Charge(Release("local gaussian", 1e-9, 1.0), rounds=10**9),
    Charge(Release("skellam", 1e-9, 100.0, 9, 5), rounds=5_000_000),
    Charge(Release("matrix", 1e-9, 1.0, coefficients=(0.8, 0.6)), rounds=5_000_000),
]


@pytest.mark.parametrize("charge", THIN, ids=lambda c: c.release.mechanism)
def test_noise_too_thin_for_so_many_rounds_is_refused(charge):
    with pytest.raises(
        PlanError, match=r"hides nothing that an epsilon could say; give more noise"
    ):
        spent([charge], 1e-5)
    with pytest.raises(PlanError, match="hides nothing"):
        PrivacyLedger(1e-5).enter(1, charge)
    assert Budget(1.0, 1e-5).rounds(charge.release, charge.selection) == 0
    assert replacement([charge], 1e-5) == math.inf


@pytest.mark.parametrize("mechanism", ["gaussian", "skellam", "discrete gaussian", "matrix"])
@pytest.mark.parametrize("z", [1e-9, 1e-3, 1e3, 1e9])
def test_the_ends_of_what_is_allowed_are_numbers(mechanism, z):
    more = {"coefficients": (0.8, 0.6)} if mechanism == "matrix" else {}
    release = Release(mechanism, z, 100.0, 9, 5, **more)
    for how in (Selection(), Selection("poisson", 0.3), Selection("rotation", 0.1, separation=10)):
        for rounds in (1, 1000):
            found = spent([Charge(release, how, rounds)], 1e-5)
            assert 0 <= found.epsilon <= found.rdp < math.inf or found.accountant == "exact"
            assert math.isfinite(found.epsilon) and math.isfinite(found.rdp)


@pytest.mark.parametrize(
    "arguments",
    [(1e300, 1.0), (1.0, 1e-300), (1.0, 1e300), (math.nan, 1.0), (-1.0, 1.0), ("1", 1.0)],
)
def test_the_closed_form_refuses_what_it_cannot_reach(arguments):
    with pytest.raises(PlanError, match="needed"):
        gaussian_delta(*arguments)


def test_a_cap_beyond_floats_is_refused():
    with pytest.raises(PlanError, match=r"Plan\(cap="):
        plan(Clip(1.0), Noise(1.0), weighting="examples", cap=10**400)


def test_the_bound_that_moves_never_leaves_the_floats():
    """Ten thousand rounds in which everybody is within it, and then nobody."""
    made = plan(AdaptiveClip(rate=5.0), Noise(1.0))
    states = made.stages.init()
    for inside in (-0.5, 0.5):
        payload = made.stages.empty_reply(made.dtype)
        payload["inside"] = payload["inside"] + np.float32(inside * 1000)
        with np.errstate(all="raise", under="ignore"):
            for round in range(200):
                out, states = made.stages.decode(
                    Reply((), payload, 1000.0), states, keys.key(round)
                )
        assert np.isfinite(out.payload["delta"]).all()
        assert 1e-20 <= states[0].shared[0] <= 1e20


def test_the_usual_delta_is_one_for_any_number_of_clients():
    assert 0 < usual_delta(10**12) < 1e-12
    assert sampling.Rotation(slots=3).share(TEN) == 1 / 3
