# SPDX-License-Identifier: Apache-2.0
"""Shares of integer noise: exact in the sum of the fewest survivors, bounded levels, refusals."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.errors import PlanError
from muster.keys import Keys, key
from muster.pipeline import (
    AdaptiveClip,
    Clip,
    Contract,
    DiscreteNoise,
    Field,
    Pipeline,
    Quantize,
    Stage,
)
from muster.privacy import Charge, Secret, spent
from muster.privacy.distributed import rounded_norm
from muster.testing import check_stage
from muster.types import Reply

SIZE = 5000
CONTRACT = Contract((Field("delta", SIZE, bits=64),), cap=1.0)
LAWS = ["skellam", "gaussian"]


def encode(stages, rows, contract=CONTRACT, draw=0, root=key):
    pipeline = Pipeline.build(stages, contract)
    draws = Keys(root(draw), tuple(range(len(rows))))
    sent = (None,) * len(stages)
    payload, _ = pipeline.encode({"delta": rows}, sent, None, draws, np.ones(len(rows)))
    return payload["delta"], pipeline


@pytest.mark.parametrize("law", LAWS)
def test_it_keeps_the_promises_of_a_stage(law):
    fields = tuple(Field(n, 5, integer=True, bits=8) for n in ("delta", "control"))
    made = Contract(fields, bound=1.0, cap=1.0, weighted=True, step=0.01)
    stage = DiscreteNoise(1.0, clients=5, dropout=0.2, law=law)
    assert stage.accept(made) == stage.accept(made)
    draws = Keys(key(0), tuple("abc"))
    rows = {n: np.arange(15).reshape(3, 5) for n in ("delta", "control")}
    whole, memory = stage.encode(rows, made, None, None, draws)
    assert memory is None
    assert rows["delta"].tolist() == np.arange(15).reshape(3, 5).tolist()
    alone, _ = stage.encode(
        {n: v[1:2] for n, v in rows.items()}, made, None, None, Keys(key(0), ("b",))
    )
    for name in rows:
        assert whole[name].dtype == np.int64
        assert alone[name].tolist() == whole[name][1:2].tolist()
    assert (whole["delta"] - rows["delta"]).tolist() != (
        whole["control"] - rows["control"]
    ).tolist()


@dataclass(frozen=True)
class Chain(Stage):
    """Stages as one stage, since the public check hands on reals."""

    stages: tuple[Stage, ...]

    def accept(self, contract):
        return Pipeline.build(self.stages, contract).contracts[-1]

    def encode(self, payload, contract, sent, memory, key):
        pipeline, rows = Pipeline.build(self.stages, contract), len(key.clients)
        sent = (None,) * len(self.stages)
        return pipeline.encode(payload, sent, None, key, np.ones(rows))[0], memory

    def decode(self, total, contract, state, key):
        pipeline = Pipeline.build(self.stages, contract)
        return pipeline.decode(total, pipeline.init(), key)[0], state


@pytest.mark.parametrize("law", LAWS)
def test_the_public_check_takes_it_after_quantize(law):
    chain = Chain((Quantize(16), DiscreteNoise(1.0, clients=5, dropout=0.2, law=law)))
    fields = (Field("delta", 7), Field("control", 4))
    check_stage(chain, Contract(fields, bound=1.0, cap=3.0, weighted=True), error=60.0)


@pytest.mark.parametrize("law", LAWS)
def test_the_fewest_survivors_carry_the_noise(law):
    """With a fifth of ten clients gone, the sum's deviation is multiplier · norm."""
    stages = (Clip(1.0), Quantize(8), DiscreteNoise(0.5, clients=10, dropout=0.2, law=law))
    levels, pipeline = encode(stages, np.zeros((10, SIZE)))
    (release,) = pipeline.releases()
    wanted = 0.5 * rounded_norm(127.0, SIZE)
    assert release.sensitivity == pytest.approx(rounded_norm(127.0, SIZE))
    assert release.survivors == 8
    assert levels[2:].sum(0).std() == pytest.approx(wanted, rel=0.03)
    assert levels.sum(0).std() == pytest.approx(wanted * math.sqrt(10 / 8), rel=0.03)
    assert levels.dtype == np.int64


@pytest.mark.parametrize("law", LAWS)
def test_decoding_gives_the_sum_with_noise_of_the_widened_bound(law):
    stages = (Clip(1.0), Quantize(16), DiscreteNoise(1.0, clients=4, law=law))
    rows = np.random.default_rng(0).normal(size=(4, SIZE)) / 100
    levels, pipeline = encode(stages, rows)
    total, _ = pipeline.decode(Reply((), {"delta": levels.sum(0)}, 4.0), pipeline.init(), key(1))
    error = total.payload["delta"] - rows.sum(0)
    assert error.std() == pytest.approx(1.0, rel=0.05)
    assert abs(error.mean()) < 0.06


def test_it_covers_what_is_summed_under_few_bits():
    """At four bits rounding takes a unit vector to ten times its length, and the noise with it."""
    _, fine = encode((Clip(1.0), Quantize(16), DiscreteNoise(1.0, 4)), np.zeros((1, SIZE)))
    _, coarse = encode((Clip(1.0), Quantize(4), DiscreteNoise(1.0, 4)), np.zeros((1, SIZE)))
    reach = [p.releases()[0].sensitivity * p.contracts[2].step for p in (fine, coarse)]
    assert reach[0] == pytest.approx(1.0, rel=1e-3)
    assert reach[1] > 5


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 12), st.integers(1, 40), st.floats(0.01, 100.0), st.integers(0, 10**6))
def test_no_client_adds_more_than_the_norm(bits, size, length, seed):
    """The noise is the same whatever the rows are, so their difference is what was cut."""
    made = Contract((Field("delta", size, bits=64),), cap=1.0)
    stages = (Clip(1.0), Quantize(bits), DiscreteNoise(1.0, 3))
    rows = np.random.default_rng(seed).normal(size=(3, size)) * length
    noisy, pipeline = encode(stages, rows, made, seed)
    silent = DiscreteNoise(1.0, 3).encode(
        {"delta": np.zeros((3, size), np.int64)},
        pipeline.contracts[2],
        None,
        None,
        Keys(key(seed), (0, 1, 2)).at(2),
    )[0]["delta"]
    norms = np.linalg.norm((noisy - silent).astype(float), axis=1)
    assert norms.max() <= pipeline.releases()[0].sensitivity * (1 + 1e-12)


def test_what_came_of_nan_stays_within_the_norm():
    contract = Pipeline.build((Clip(1.0), Quantize(8), DiscreteNoise(1.0, 2)), CONTRACT).contracts[
        2
    ]
    rows = np.full((1, SIZE), np.iinfo(np.int64).min)
    noisy = DiscreteNoise(1.0, 2).encode(
        {"delta": rows}, contract, None, None, Keys(key(0), ("a",))
    )[0]["delta"]
    assert np.abs(noisy).max() < 10_000


def test_the_wire_is_wide_enough_for_the_noise():
    made = Contract(CONTRACT.fields, cap=1.0)
    levels, pipeline = encode(
        (Clip(1.0), Quantize(8), DiscreteNoise(4.0, 2)), np.zeros((9, SIZE)), made
    )
    bits = pipeline.contracts[-1].fields[0].bits
    assert 8 < bits < 16
    assert np.abs(levels).max() < 2 ** (bits - 1)


def test_it_is_drawn_from_a_secret_in_production():
    levels, _ = encode(
        (Clip(1.0), Quantize(8), DiscreteNoise(1.0, 1)),
        np.zeros((1, SIZE)),
        root=lambda _: Secret(bytes(32)),
    )
    assert levels.std() == pytest.approx(rounded_norm(127.0, SIZE), rel=0.05)


@pytest.mark.parametrize("law", LAWS)
def test_it_costs_hardly_more_than_the_gaussian(law):
    _, pipeline = encode(
        (Clip(1.0), Quantize(16), DiscreteNoise(2.0, 50, law=law)), np.zeros((1, SIZE))
    )
    found = spent([Charge(release, rounds=5) for release in pipeline.releases()], 1e-6)
    assert found.epsilon == pytest.approx(
        spent([Charge(pipeline.releases()[0], rounds=5)], 1e-6).rdp
    )
    assert 5 < found.epsilon < 9


@pytest.mark.parametrize(
    ("stages", "contract", "message"),
    [
        (
            (Clip(1.0), DiscreteNoise(1.0, 5)),
            CONTRACT,
            r"adds integers to integers; put Quantize\(bits\) before it",
        ),
        (
            (Quantize(8, range=1.0), DiscreteNoise(1.0, 5)),
            CONTRACT,
            r"needs a bounded payload to be private; put Clip\(bound\) before Quantize",
        ),
        (
            (Clip(1.0), Quantize(8, feedback=True), DiscreteNoise(1.0, 5)),
            CONTRACT,
            "leave its feedback off, which adds what nothing bounds",
        ),
        (
            (Clip(1.0), Quantize(8), DiscreteNoise(1.0, 5), Quantize(8)),
            CONTRACT,
            r"Quantize\(.* stands after DiscreteNoise\(multiplier=1\.0, clients=5, .*put Quantize",
        ),
        (
            (AdaptiveClip(), Clip(1.0), Quantize(8), DiscreteNoise(1.0, 5)),
            CONTRACT,
            "cannot hide inside, one number a client sent",
        ),
    ],
)
def test_a_wrong_order_is_refused_with_its_remedy(stages, contract, message):
    with pytest.raises(PlanError, match=message):
        Pipeline.build(stages, contract)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"multiplier": 0}, "multiplier must be finite and above 0"),
        ({"multiplier": -1.0}, "multiplier must be finite and above 0"),
        ({"clients": 0}, "a whole number of clients above 0"),
        ({"dropout": 1.0}, r"a fraction in \[0, 1\)"),
        ({"clients": 2, "dropout": 0.9}, "leaves nobody to add noise"),
        ({"law": "laplace"}, "law must be 'skellam' or 'gaussian'"),
    ],
)
def test_settings_outside_their_range_are_refused(fields, message):
    with pytest.raises(PlanError, match=message):
        DiscreteNoise(**({"multiplier": 1.0, "clients": 10} | fields))
