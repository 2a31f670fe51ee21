# SPDX-License-Identifier: Apache-2.0
"""How stages compose: contracts in order, the weight once, decoding in reverse, or a refusal."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from muster import algorithms
from muster.errors import PlanError
from muster.keys import Keys, key
from muster.pipeline import AdaptiveClip, Clip, Contract, Field, Noise, Pipeline, Quantize, Stage
from muster.pipeline.stage import contract_of
from muster.types import Reply, State

REAL = Contract((Field("delta", 3),), cap=1.0)
KEYS = Keys(key(0).at("encode", 1), ("a", "b"))


@dataclass(frozen=True)
class Shift(Stage):
    """Adds a number before the sum, and takes as many off it as clients came; counts rounds."""

    by: float
    needs_sum = False

    def accept(self, contract):
        return contract

    def init(self, contract):
        return State(shared=np.array([self.by]), private=0)

    def memory(self, contract):
        return np.zeros(1)

    def encode(self, payload, contract, sent, memory, key):
        return {"delta": payload["delta"] + sent[0]}, memory + key.uniform(1)

    def decode(self, total, contract, state, key):
        moved = total.payload["delta"] - total.weight * state.shared[0]
        return replace(total, payload={"delta": moved}), State(state.shared * 2, state.private + 1)


def test_an_empty_pipeline_only_weights():
    pipeline = Pipeline.build((), REAL)
    rows = np.arange(6.0).reshape(2, 3)
    payload, kept = pipeline.encode({"delta": rows}, (), None, KEYS, np.array([2.0, 3.0]))
    assert payload["delta"].tolist() == [[0, 2, 4], [9, 12, 15]]
    assert kept == ()
    assert pipeline.decode("total", (), key(0)) == ("total", ())


def test_weights_keep_the_dtype_and_reach_scalars():
    contract = contract_of(algorithms.FedNova.payload, 3, 32, None)
    rows = {"delta": np.ones((2, 3), np.float32), "norm": np.ones((2, 1), np.float32)}
    payload, _ = Pipeline.build((), contract).encode(rows, (), None, KEYS, np.array([2.0, 3.0]))
    assert payload["norm"].tolist() == [[2], [3]]
    assert {value.dtype for value in payload.values()} == {np.dtype("float32")}
    assert rows["norm"].tolist() == [[1], [1]]


@pytest.mark.parametrize(
    ("stages", "weigh"),
    [
        ((), 0),
        ((Clip(1.0),), 1),
        ((Clip(1.0), Quantize(8)), 1),
        ((Clip(1.0), AdaptiveClip(), Clip(2.0), Quantize(8)), 3),
        ((Shift(1.0), Quantize(8, range=1.0)), 1),
    ],
)
def test_the_weight_comes_after_the_last_clip_and_before_the_first_sum(stages, weigh):
    assert Pipeline.build(stages, REAL).weigh == weigh


def test_decoding_undoes_encoding_in_reverse_order_and_moves_the_states():
    pipeline = Pipeline.build((Shift(1.0), Shift(10.0)), REAL)
    states, memory = pipeline.init(), tuple(np.zeros((2, 1)) for _ in range(2))
    rows, weights = np.array([[1.0, 2, 3], [4, 5, 6]]), np.array([2.0, 3.0])
    sent = tuple(state.shared for state in states)
    payload, kept = pipeline.encode({"delta": rows}, sent, memory, KEYS, weights)
    np.testing.assert_allclose(payload["delta"], (rows + 11) * weights[:, None])
    assert len({*kept[0].ravel().tolist(), *kept[1].ravel().tolist()}) == 4  # a key a stage, client
    total = Reply(("a", "b"), {"delta": payload["delta"].sum(0)}, 5.0)
    total, states = pipeline.decode(total, states, key(0))
    np.testing.assert_allclose(total.payload["delta"], weights @ rows)
    assert [state.shared[0] for state in states] == [2, 20]
    assert [state.private for state in states] == [1, 1]


def test_each_stage_sees_the_contract_of_what_reaches_it():
    contracts = Pipeline.build((Clip(2.0), Quantize(8)), REAL).contracts
    rounded = 2.0 + 2 / 127 * 3**0.5  # three coordinates, each up to one step longer
    assert [c.bound for c in contracts] == [None, 2.0, pytest.approx(rounded)]
    assert [c.step for c in contracts] == [None, None, 2 / 127]
    assert [c.weighted for c in contracts] == [False, True, True]
    assert [c.integer for c in contracts] == [False, False, True]
    assert [c.bits for c in contracts] == [96, 96, 24]


@pytest.mark.parametrize(
    ("algorithm", "fields"),
    [
        (algorithms.FedAvg, [("delta", 7, False)]),
        (algorithms.Scaffold, [("delta", 7, False), ("control", 7, False)]),
        (algorithms.FedNova, [("delta", 7, False), ("norm", 1, True)]),
    ],
)
def test_a_contract_knows_vectors_from_scalars(algorithm, fields):
    contract = contract_of(algorithm.payload, 7, 64, 5.0)
    assert [(f.name, f.size, f.scalar) for f in contract.fields] == fields
    assert contract.bits == 64 * sum(size for _, size, _ in fields)
    assert contract.cap == 5.0
    payload = dict.fromkeys((name for name, *_ in fields), 0)
    assert [*contract.vectors(payload)] == [name for name, _, scalar in fields if not scalar]


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ((Quantize(8),), r"Quantize\(bits=8.*put Clip\(bound\) before it, or give Quantize\(range"),
        ((AdaptiveClip(), Quantize(8)), r"needs a fixed range .* put Clip\(bound\) before it"),
        ((Clip(1.0), Quantize(8), Clip(1.0)), r"Clip.* put it before Quantize"),
        ((Clip(1.0), Quantize(8), AdaptiveClip()), r"AdaptiveClip.* put it before Quantize"),
        ((Quantize(8, range=1.0), Quantize(4)), "after another Quantize; one is enough"),
        ((AdaptiveClip(), AdaptiveClip()), "one AdaptiveClip is enough; remove the other"),
        ((AdaptiveClip(), Clip(1.0), AdaptiveClip()), "one AdaptiveClip is enough"),
        ((Clip,), r"pipeline\[0\] is .*; give stages such as Clip\(1\.0\)"),
        ((Clip(1.0), 8), r"pipeline\[1\] is 8; give stages such as Clip\(1\.0\)"),
    ],
)
def test_illegal_orders_are_refused_with_the_remedy(stages, message):
    with pytest.raises(PlanError, match=message):
        Pipeline.build(stages, REAL)


def test_integers_need_the_largest_weight():
    for cap in (1.0, 50.0):
        Pipeline.build((Clip(1.0), Quantize(8)), replace(REAL, cap=cap))
    with pytest.raises(PlanError, match=r"give Plan\(cap=rows\).*or use weighting='equal'"):
        Pipeline.build((Clip(1.0), Quantize(8)), replace(REAL, cap=None))


@pytest.mark.parametrize(
    "stages",
    [
        (Clip(1.0), Clip(2.0)),
        (Clip(1.0), AdaptiveClip()),
        (AdaptiveClip(), Clip(1.0), Quantize(8)),
        (AdaptiveClip(), Quantize(8, range=1.0)),
        (Quantize(8, range=1.0),),
    ],
)
def test_legal_orders_are_accepted(stages):
    pipeline = Pipeline.build(stages, REAL)
    assert len(pipeline.init()) == len(pipeline.memory()) == len(stages)
    assert pipeline.contracts[-1].weighted


def test_a_stage_must_say_what_it_accepts():
    with pytest.raises(NotImplementedError):
        Pipeline.build((Stage(),), REAL)


def test_a_stage_leaves_alone_what_it_says_nothing_of():
    payload = {"delta": np.ones((2, 3))}
    assert Stage().encode(payload, REAL, None, "memory", KEYS) == (payload, "memory")
    assert Stage().decode("total", REAL, "state", key(0)) == ("total", "state")
    assert Stage().release(REAL) is None
    assert (Stage().init(REAL), Stage().memory(REAL)) == (State(), None)


def test_nothing_but_a_mask_may_follow_noise():
    @dataclass(frozen=True)
    class Mask(Stage):
        keeps_sum = True

        def accept(self, contract):
            return contract

    pipeline = Pipeline.build((Clip(1.0), Noise(1.0), Mask()), REAL)
    assert [c.noise for c in pipeline.contracts] == [None, None, *["Noise(multiplier=1.0)"] * 2]
    with pytest.raises(PlanError, match=r"stands after Noise\(multiplier=1\.0\), whose noise is"):
        Pipeline.build((Clip(1.0), Noise(1.0), Shift(1.0)), REAL)


def test_a_moving_bound_has_its_value_of_the_round():
    stages = (Clip(5.0), AdaptiveClip(), Shift(1.0), Noise(1.0))
    pipeline = Pipeline.build(stages, REAL)
    for sent, bound in ((2.0, 2.0), (9.0, 5.0)):
        now = pipeline.now((None, np.array([sent]), None, None))
        assert [c.bound for c in now] == [None, 5.0, bound, bound, bound]
    fixed = Pipeline.build((AdaptiveClip(), Clip(1.0)), REAL)
    assert [c.bound for c in fixed.now((np.array([0.2]), None))] == [None, 0.2, 1.0]


def test_sensitivity_is_bound_times_the_largest_weight_in_the_fields_own_unit():
    assert Contract((), bound=2.0, cap=3.0).sensitivity == 6.0
    assert Contract((), bound=2.0, cap=3.0, step=0.5).sensitivity == 12.0
    assert Contract((), bound=2.0).sensitivity is None
    assert Contract((), cap=3.0).sensitivity is None
