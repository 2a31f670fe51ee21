# SPDX-License-Identifier: Apache-2.0
"""Each client's own noise: analytic, for updates as far apart as twice the bound."""

import math

import numpy as np
import pytest

from muster.errors import MusterError, PlanError
from muster.keys import Keys, key
from muster.pipeline import AdaptiveClip, Clip, Contract, Field, LocalNoise, Noise, Pipeline
from muster.pipeline.quantize import Quantize
from muster.privacy import Charge, spent
from muster.testing import check_stage

CONTRACT = Contract((Field("delta", 20_000, bits=64),))


def encode(stages, rows, contract=CONTRACT, clients=None):
    pipeline = Pipeline.build(stages, contract)
    draws = Keys(key(0), clients or tuple(range(len(rows))))
    sent = tuple(state.shared for state in pipeline.init())
    payload, _ = pipeline.encode({"delta": rows}, sent, None, draws, np.ones(len(rows)))
    return payload["delta"]


def test_it_keeps_the_promises_of_a_stage():
    fields = (Field("delta", 5), Field("control", 4))
    check_stage(LocalNoise(8.0, 1e-6), Contract(fields, bound=1.0), error=20.0)


def test_the_published_deviation_for_twice_the_bound():
    noise = encode((Clip(0.5), LocalNoise(1.0, 1e-5)), np.zeros((3, 20_000)))
    assert LocalNoise(1.0, 1e-5).deviation(Contract((), bound=0.5)) == pytest.approx(3.730632)
    np.testing.assert_allclose(noise.std(1), 3.730632, rtol=0.03)
    assert abs(np.corrcoef(noise)[0, 1]) < 0.03  # clients draw by themselves


def test_any_epsilon_is_calibrated_exactly():
    """At epsilon 8 the classical formula would take less noise than it needs for its claim."""
    (release,) = Pipeline.build((Clip(1.0), LocalNoise(8.0, 1e-6)), CONTRACT).releases()
    assert release.trust == "local"
    assert release.sensitivity == 2.0
    assert spent([Charge(release)], 1e-6).epsilon == pytest.approx(8.0, rel=1e-6)
    assert spent([Charge(release, rounds=10)], 1e-6).epsilon > 25  # and it adds up over rounds


def test_quantizing_afterwards_costs_nothing():
    stages = (Clip(1.0), LocalNoise(8.0, 1e-6), Quantize(16, range=20.0))
    pipeline = Pipeline.build(stages, Contract(CONTRACT.fields, cap=1.0))
    assert pipeline.contracts[2].bound is None
    assert len(pipeline.releases()) == 1


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_row_that_is_not_finite_is_refused(bad):
    rows = np.zeros((2, 4))
    rows[1, 2] = bad
    contract = Contract((Field("delta", 4, bits=64),), bound=1.0)
    with pytest.raises(MusterError, match="was given delta with NaN or Inf, which no bound holds"):
        LocalNoise(1.0, 1e-6).encode(
            {"delta": rows}, contract, None, None, Keys(key(0), ("a", "b"))
        )


@pytest.mark.parametrize(
    ("stages", "contract", "message"),
    [
        (
            (LocalNoise(1.0, 1e-6),),
            CONTRACT,
            r"^LocalNoise\(epsilon=1\.0, delta=1e-06\) needs a bounded payload to be private; put",
        ),
        ((AdaptiveClip(), LocalNoise(1.0, 1e-6)), CONTRACT, "needs a fixed bound; put Clip"),
        (
            (Clip(1.0), Quantize(8), LocalNoise(1.0, 1e-6)),
            Contract(CONTRACT.fields, cap=1.0),
            "put it before Quantize, or use DiscreteNoise after it",
        ),
        (
            (Clip(1.0), LocalNoise(1.0, 1e-6), Noise(1.0)),
            Contract(CONTRACT.fields, cap=1.0),
            "needs a bounded payload to be private",
        ),
        (
            (Clip(1.0), LocalNoise(1.0, 1e-6)),
            Contract((*CONTRACT.fields, Field("norm", 1, scalar=True))),
            "cannot hide norm",
        ),
    ],
)
def test_a_wrong_order_is_refused_with_its_remedy(stages, contract, message):
    with pytest.raises(PlanError, match=message):
        Pipeline.build(stages, contract)


@pytest.mark.parametrize(
    ("epsilon", "delta"), [(0, 1e-6), (-1, 1e-6), (1, 0), (1, 1), (math.nan, 0.1)]
)
def test_a_target_that_promises_nothing_is_refused(epsilon, delta):
    with pytest.raises(PlanError, match=r"(epsilon|delta)=.*needed"):
        LocalNoise(epsilon, delta)
