# SPDX-License-Identifier: Apache-2.0
"""Noise over rounds: b = 1 is Noise bit for bit, running sums cancel, state carries it on."""

import numpy as np
import pytest

from muster.errors import PlanError
from muster.keys import key
from muster.pipeline import AdaptiveClip, BandedNoise, Clip, Contract, Field, Noise, Pipeline
from muster.pipeline.quantize import Quantize
from muster.privacy import Charge, spent
from muster.privacy.matrix import optimal, square_root
from muster.testing import check_stage
from muster.types import Reply
from muster.vectors import leaves, rebuild

CONTRACT = Contract((Field("delta", 3000, bits=64), Field("control", 10, bits=64)), cap=2.0)


def play(stage, rounds, states=None, first=0, contract=CONTRACT):
    """Return the releases of so many rounds of sums of zeros, and the states after."""
    pipeline = Pipeline.build((Clip(0.5), stage), contract)
    states, released = states or pipeline.init(), []
    for round in range(first, first + rounds):
        zeros = {f.name: np.zeros(f.size, f"float{f.bits}") for f in contract.fields}
        total, states = pipeline.decode(Reply((), zeros, 4.0), states, key(0).at(round))
        released.append(total.payload)
    return {name: np.array([r[name] for r in released]) for name in released[0]}, states


@pytest.mark.parametrize(
    "stage", [BandedNoise(1.0, 1), BandedNoise(0.5, 4, separation=4), BandedNoise(1.0, 3, rounds=9)]
)
def test_it_keeps_the_promises_of_a_stage(stage):
    fields = (Field("delta", 5), Field("control", 4))
    check_stage(stage, Contract(fields, bound=1.0, cap=3.0, weighted=True), error=60.0)


def test_one_band_is_noise_bit_for_bit():
    banded, _ = play(BandedNoise(0.7, bands=1), 3)
    plain, _ = play(Noise(0.7), 3)
    for field in banded:
        assert banded[field].tobytes() == plain[field].tobytes()


def test_running_sums_have_less_noise_than_independent_rounds():
    rounds = 24
    banded, _ = play(BandedNoise(1.0, bands=8, separation=8, rounds=rounds), rounds)
    plain, _ = play(BandedNoise(1.0, bands=1), rounds)
    ratio = banded["delta"].cumsum(0)[-1].var() / plain["delta"].cumsum(0)[-1].var()
    made = np.tril(np.ones((rounds, rounds)))
    c = sum(x * np.eye(rounds, k=-k) for k, x in enumerate(optimal(rounds, 8)))
    assert ratio == pytest.approx(((made @ np.linalg.inv(c))[-1] ** 2).sum() / rounds, rel=0.1)
    assert ratio < 0.6


def test_the_first_row_is_as_wide_as_the_first_coefficient_says():
    banded, _ = play(BandedNoise(1.5, bands=4), 1)
    wanted = 1.5 * 0.5 * 2.0 / square_root(4)[0]
    assert banded["delta"][0].std() == pytest.approx(wanted, rel=0.05)


def test_it_goes_on_from_its_stored_state_with_the_same_bits():
    stage = BandedNoise(1.0, bands=4)
    whole, _ = play(stage, 9)
    _, states = play(stage, 5)
    stored = {name: np.asarray(leaf).copy() for name, leaf in leaves(states)}
    again = rebuild(Pipeline.build((Clip(0.5), stage), CONTRACT).init(), stored)
    rest, _ = play(stage, 4, again, first=5)
    for field in whole:
        assert rest[field].tobytes() == whole[field][5:].tobytes()


def test_its_state_stays_on_the_server_and_has_b_minus_one_rows():
    state = BandedNoise(1.0, bands=4).init(CONTRACT)
    assert state.shared is None
    assert {name: rows.shape for name, rows in state.private.items()} == {
        "delta": (3, 3000),
        "control": (3, 10),
    }


def test_its_release_accounts_to_the_turns_of_a_client():
    stage = BandedNoise(4.0, bands=4, separation=4)
    (release,) = Pipeline.build((Clip(0.5), stage), CONTRACT).releases()
    assert (release.mechanism, release.sensitivity, release.separation) == ("matrix", 1.0, 4)
    (plain,) = Pipeline.build((Clip(0.5), Noise(2.0)), CONTRACT).releases()
    found = spent([Charge(release, rounds=16)], 1e-6).epsilon
    assert found == pytest.approx(spent([Charge(plain)], 1e-6).epsilon, rel=1e-6)


def test_after_quantize_it_covers_the_rounded_norm():
    pipeline = Pipeline.build((Clip(0.5), Quantize(8), BandedNoise(1.0, bands=1)), CONTRACT)
    levels = pipeline.contracts[2].sensitivity
    assert levels == pytest.approx(127 + 3010**0.5)
    zeros = {f.name: np.zeros(f.size, np.int64) for f in CONTRACT.fields}
    total, _ = pipeline.decode(Reply((), zeros, 4.0), pipeline.init(), key(0))
    assert total.payload["delta"].std() == pytest.approx(levels / 127, rel=0.05)


@pytest.mark.parametrize(
    ("stages", "contract", "message"),
    [
        (
            (BandedNoise(1.0, 4),),
            CONTRACT,
            r"^BandedNoise\(multiplier=1\.0, .* needs a bounded payload to be private; put Clip",
        ),
        ((AdaptiveClip(), BandedNoise(1.0, 4)), CONTRACT, "needs one bound for all rounds"),
        ((AdaptiveClip(), Clip(1.0), BandedNoise(1.0, 4)), CONTRACT, "cannot hide inside"),
        ((Clip(1.0), BandedNoise(1.0, 4)), Contract(CONTRACT.fields), "know the largest weight"),
        ((Clip(1.0), BandedNoise(1.0, 4), Quantize(8)), CONTRACT, "stands after BandedNoise"),
    ],
)
def test_a_wrong_order_is_refused_with_its_remedy(stages, contract, message):
    with pytest.raises(PlanError, match=message):
        Pipeline.build(stages, contract)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"multiplier": 0.0}, "multiplier must be finite and above 0"),
        ({"bands": 0}, "bands must be a whole number"),
        ({"bands": 2.5}, "bands must be a whole number"),
        ({"separation": 0}, "separation must be a whole number"),
        ({"rounds": -1}, "rounds must be a whole number"),
    ],
)
def test_settings_outside_their_range_are_refused(fields, message):
    with pytest.raises(PlanError, match=message):
        BandedNoise(**({"multiplier": 1.0, "bands": 4} | fields))
