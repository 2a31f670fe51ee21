# SPDX-License-Identifier: Apache-2.0
"""SecureSum: what may stand before it, what a payload becomes, and what a session is about."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from muster.errors import PlanError
from muster.keys import Keys, key
from muster.pipeline import (
    AdaptiveClip,
    Clip,
    Contract,
    DiscreteNoise,
    Field,
    Noise,
    Pipeline,
    Quantize,
    SecureSum,
)
from muster.secagg import IntegerRing, Span
from muster.secagg.answers import graph_for
from muster.testing.claim import check_value

PLAIN = Contract((Field("delta", 7), Field("control", 4)), cap=5.0)
SCALAR = replace(PLAIN, fields=(*PLAIN.fields, Field("norm", 1, scalar=True)))
INTEGERS = [Clip(1.0), Quantize(8)]
DIGEST = bytes(32)


def built(stages, contract=PLAIN):
    return Pipeline.build(tuple(stages), contract)


def terms(secure=None, cohort=10, **more):
    secure = secure or SecureSum()
    frame = secure.frame(built([*INTEGERS, secure]).contracts[2])
    about = {"study": "s", "run": "run", "round": 2, "plan": DIGEST, "model": DIGEST}
    return secure.terms(frame, cohort, **about, **more)


REFUSED = [
    ([SecureSum()], PLAIN, r"not delta, control as they are; put Quantize\(bits\) before it"),
    ([Clip(1.0), SecureSum()], SCALAR, r"put Quantize\(bits\) before it"),
    ([*INTEGERS, SecureSum()], SCALAR, r"cannot mask norm, one number .* such as FedAvg"),
    ([*INTEGERS, SecureSum(), SecureSum()], PLAIN, r"after SecureSum, .*only the sum is seen"),
    ([*INTEGERS, SecureSum(), Clip(1.0)], PLAIN, r"put Clip\(bound=1.0\) before it"),
    ([*INTEGERS, SecureSum(), Noise(1.0)], PLAIN, r"put Noise.* before it"),
]


@pytest.mark.parametrize(("stages", "contract", "message"), REFUSED)
def test_it_refuses(stages, contract, message):
    with pytest.raises(PlanError, match=message):
        built(stages, contract)


def test_it_refuses_a_weight_without_a_cap():
    integers = tuple(field._replace(integer=True) for field in PLAIN.fields)
    with pytest.raises(PlanError, match=r"largest weight; give Plan\(cap=rows\)"):
        SecureSum().accept(Contract(integers))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"minimum": 2}, "of two, each would know the other's update"),
        ({"minimum": 3.5}, "a whole number"),
        ({"corrupt": 1.0}, "two fractions"),
        ({"corrupt": -0.1}, "two fractions"),
        ({"dropout": 0.34}, r"no threshold is safe.* corrupt \+ 2·dropout < 1"),
        ({"exposure": 0.0}, "a chance such as 1e-3"),
        ({"metrics": "some"}, "use 'hidden' or 'public'"),
    ],
)
def test_it_refuses_values(fields, message):
    with pytest.raises(PlanError, match=message):
        SecureSum(**fields)


@pytest.mark.parametrize("stage", [SecureSum(), SecureSum(4, 0.1, 0.2, "public")])
def test_it_is_a_value(stage):
    check_value(stage)


def test_it_leaves_values_as_they_are():
    with_it, without = built([*INTEGERS, SecureSum()]), built(INTEGERS)
    rows = {"delta": np.ones((2, 7)), "control": np.ones((2, 4))}
    draws = Keys(key(0), ("a", "b"))
    sent = (None,) * 3
    found, _ = with_it.encode(rows, sent, None, draws, np.array([1.0, 2.0]))
    wanted, _ = without.encode(rows, sent[:2], None, draws, np.array([1.0, 2.0]))
    assert all((found[name] == wanted[name]).all() for name in rows)
    assert with_it.weigh == without.weigh == 1
    assert with_it.contracts[-1] == replace(without.contracts[-1], visible=False)


def test_it_may_stand_after_noise_that_is_made_for_the_sum():
    noise = DiscreteNoise(1.0, clients=10)
    pipeline = built([*INTEGERS, noise, SecureSum()])
    assert pipeline.contracts[-1].noise == repr(noise)
    narrow, wide = (built([*INTEGERS, SecureSum()]), 2), (pipeline, 3)
    highs = [SecureSum().frame(p.contracts[at]).spans[0].high for p, at in (narrow, wide)]
    assert highs[1] > highs[0] == 127


def test_the_frame_follows_the_contract():
    frame = SecureSum().frame(built([*INTEGERS, SecureSum()]).contracts[2])
    assert frame.spans == (Span("delta", 7, -127, 127), Span("control", 4, -127, 127))
    assert frame.cap == 5
    equal = SecureSum().frame(built([*INTEGERS, SecureSum()], replace(PLAIN, cap=1.0)).contracts[2])
    assert (equal.cap, equal.digits) == (1, 1)


def test_a_bounded_scalar_is_masked_like_the_rest():
    stages = [AdaptiveClip(), Quantize(8, range=1.0), SecureSum()]
    frame = SecureSum().frame(built(stages).contracts[2])
    assert frame.spans[-1] == Span("inside", 1, -127, 127)


def test_terms():
    found = terms(SecureSum(4, 0.2, 0.1))
    assert (found.size, found.most, found.cohort, found.minimum) == (12, 254, 10, 4)
    assert (found.colluders, found.losses) == (2, 1)
    assert [terms(cohort=n).colluders for n in (3, 6, 9, 33)] == [1, 2, 3, 11]
    few = [terms(SecureSum(corrupt=0.1), cohort=n).colluders for n in (3, 9, 10, 19, 20)]
    assert few == [1, 1, 1, 1, 2] and terms(SecureSum(corrupt=0.0), cohort=40).colluders == 1
    assert terms(needed=7).minimum == 7
    assert terms(needed=2).minimum == 3


@pytest.mark.parametrize(
    ("cohort", "more", "message"),
    [
        (2, {}, "2 clients were invited and at least 3 are required"),
        (5, {"needed": 6}, "5 clients were invited and at least 6 are required"),
        (4, {"secure": SecureSum(4, dropout=0.25)}, "at least 5 are required"),
        (3, {"secure": SecureSum(corrupt=0.9, dropout=0.0)}, "at least 11 are required"),
        (
            4,
            {"secure": SecureSum(groups=2, dropout=0.3)},
            "4 clients are in one of 2 groups.*least 6",
        ),
        (5, {"secure": SecureSum(groups=2, dropout=0.3)}, "5 clients .* of whom 1 may work"),
        (70_000, {}, "cohort ≤ 65520"),
    ],
)
def test_a_cohort_that_cannot_be(cohort, more, message):
    with pytest.raises(PlanError, match=message):
        terms(cohort=cohort, **more)


def test_what_a_record_notes():
    found = SecureSum().facts(terms(), advertised=8, survivors="abcdefg")
    assert found == {
        "clients": list("abcdefg"),
        "survivors": 7,
        "members": 8,
        "threshold": 7,  # of the ten that were invited
        "degree": 7,
        "colluders": 3,
        "losses": 1,
        "honest": 4,
        "bits": 12,
    }


SIZES = [
    # size, dropout; colluders, threshold, losses
    (3, 0.0, 1, 3, 0),
    (5, 0.0, 3, 5, 0),
    (5, 0.1, 2, 4, 1),
    (10, 0.1, 7, 9, 1),
    (10, 0.2, 5, 8, 2),
    (4, 0.1, 1, 3, 1),
]


@pytest.mark.parametrize(("size", "dropout", "colluders", "threshold", "losses"), SIZES)
def test_a_group_bears_all_but_the_honest_it_needs(size, dropout, colluders, threshold, losses):
    found = terms(SecureSum(groups=7, dropout=dropout), cohort=size)
    assert (found.colluders, found.losses) == (colluders, losses)
    graph = graph_for(found, size, bytes(32))
    assert graph.threshold == threshold == size - losses and graph.honest >= 2


EXPOSED = [
    # cohort, corrupt, dropout, rounds, exposure: the most groups, of the table of chances
    (100, 0.1, 0.0, 100, 1e-3, 17),
    (100, 0.1, 0.1, 100, 1e-3, 13),
    (100, 0.33, 0.0, 100, 1e-3, 9),
    (30, 1 / 3, 0.0, 100, 1e-3, 3),
    (300, 1 / 3, 0.0, 1000, 1e-6, 15),
    (60, 1 / 3, 0.0, 10_000, 2.0**-40, 2),
]


@pytest.mark.parametrize(("cohort", "corrupt", "dropout", "rounds", "exposure", "most"), EXPOSED)
def test_as_many_groups_as_a_chance_allows(cohort, corrupt, dropout, rounds, exposure, most):
    frame = SecureSum().frame(built([*INTEGERS, SecureSum()]).contracts[2])

    def check(groups):
        made = SecureSum(corrupt=corrupt, dropout=dropout, groups=groups, exposure=exposure)
        made.check(frame, cohort, rounds)

    check(most)
    with pytest.raises(PlanError, match=rf"use SecureSum\(groups={most}\), or fewer"):
        check(most + 1)


def test_the_larger_of_two_groups_must_bear_its_losses_too():
    """Six of whom two may be lost leave room for a liar, seven of whom three may be do not."""
    frame = SecureSum().frame(built([*INTEGERS, SecureSum()]).contracts[2])
    secure = SecureSum(groups=2, corrupt=0.1, dropout=0.3)
    secure.check(frame, 12, 1)
    with pytest.raises(PlanError, match="7 clients are in one of 2 groups"):
        secure.check(frame, 13, 1)


def test_the_audited_groups_are_refused():
    """Groups of three of a hundred, a third colluding: 11 % of the honest exposed a round."""
    frame = SecureSum().frame(built([*INTEGERS, SecureSum()]).contracts[2])
    secure = SecureSum(groups=33, dropout=0.0)
    assert secure.chance(100, 1) == pytest.approx(0.106, abs=5e-4)
    assert secure.chance(100, 20) == pytest.approx(0.894, abs=2e-3)
    with pytest.raises(PlanError, match="small groups for a rule and large groups for secrecy"):
        secure.check(frame, 100, 20)


def test_bytes_are_those_of_the_ring():
    frame = SecureSum().frame(built([*INTEGERS, SecureSum()]).contracts[2])
    assert SecureSum().nbytes(frame, 10) == IntegerRing(12).nbytes(12)


LIGHT = """
import sys
import muster.pipeline, muster.plan, muster.simulation
from muster import Local, Plan, algorithms, tasks
Plan(tasks.numpy.SoftmaxRegression(2, 2), algorithms.FedAvg(), Local(steps=1))
print(*[name for name in sys.modules if name.startswith(("cryptography", "muster.secagg"))])
"""


def test_nothing_of_cryptography_is_loaded_without_it():
    command = [sys.executable, "-c", LIGHT]
    out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert out.stdout.split() == []
