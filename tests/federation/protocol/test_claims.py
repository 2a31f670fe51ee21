# SPDX-License-Identifier: Apache-2.0
"""Claims of members: honest words pass, whatever else is refused in a sentence."""

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import muster
from muster import algorithms, keys, optimizers, pipeline, tasks
from muster.federation.protocol.claims import (
    Claims,
    agreed,
    check_hello,
    check_measured,
    check_training,
    check_weight,
    claims_of,
    odd_member,
    possible_rows,
    sound,
)
from muster.federation.protocol.limits import ANSWERS, LARGEST, ROWS
from muster.federation.protocol.message import VERSIONS, Hello
from muster.security.refusal import RefusalReason, Refused
from muster.store.records import Assignment, Member

TRAINED = {"rows": 12.0, "loss": 13.0, "steps": 2.0, "drift": 0.0}
LEARNS = Claims({"loss": (0.0, math.inf), "accuracy": (0.0, 1.0)}, (0.0, math.inf), lambda n: 2)


def plan(**more):
    given = {"task": tasks.numpy.MLP([4, 5, 3]), "algorithm": algorithms.FedAvg()} | more
    local = muster.Local(epochs=2, batch=5, optimizer=optimizers.SGD(0.1))
    return muster.Plan(rounds=1, local=local, **given)


def weigh(rows, times):
    return float(rows * times)


def refused(check, *given):
    with pytest.raises(Refused) as caught:
        check(*given)
    return caught.value.reason


def test_a_plan_says_what_its_members_may_say():
    found = claims_of(plan())
    share = (0.0, 1.0)
    assert found.measures == {
        "loss": (0.0, math.inf),
        "accuracy/hits": share,
        "accuracy/rows": share,
        "held out": share,
    }
    assert (found.steps(12), found.told, found.masked) == (6, True, False)
    secure = plan(
        pipeline=[pipeline.Clip(1.0), pipeline.Quantize(12), pipeline.SecureSum()],
        cap=9,
        evaluate=muster.Every(1, clients=0),
    )
    found = claims_of(secure)
    assert (found.told, found.masked) == (False, True)
    assert refused(check_training, TRAINED, (), found) is RefusalReason.MALFORMED


def test_what_an_honest_member_measures_passes():
    task = tasks.numpy.MLP([4, 5, 3])
    draw = np.random.default_rng(1)
    x, y = draw.normal(size=(9, 4)).astype("float32"), draw.integers(0, 3, 9)
    made = plan()
    sums = task.evaluate(*task.init(keys.key(1)), x, y, made.measured)
    check_measured(sums | {"held out": 9.0}, 9, claims_of(made))


@pytest.mark.parametrize("rows", [1, ROWS])
def test_rows_at_their_bounds(rows):
    check_hello("a", Hello(VERSIONS, "a", "0" * 64, rows))
    check_training(TRAINED | {"rows": float(rows)}, {rows}, LEARNS)
    assert odd_member(Member("a", "a", rows)) == "" and possible_rows(rows) == rows


@pytest.mark.parametrize("rows", [0, ROWS + 1, 1 << 50])
def test_rows_beyond_their_bounds(rows):
    assert (
        refused(check_hello, "a", Hello(VERSIONS, "a", "0" * 64, rows)) is RefusalReason.MALFORMED
    )
    said = TRAINED | {"rows": float(rows)}
    assert refused(check_training, said, {rows}, LEARNS) is RefusalReason.MALFORMED
    assert odd_member(Member("a", "a", rows)) and possible_rows(rows) in (1, ROWS)


def test_measured_rows_are_bounded_by_the_rows_enrolled():
    names = {"loss": 0.0, "accuracy": 0.0}
    check_measured({"rows": 3.0 * ANSWERS, **names}, 3, LEARNS)
    assert refused(check_measured, {"rows": 3.0 * ANSWERS + 1, **names}, 3, LEARNS)


def test_sums_at_their_bound():
    claims = Claims()
    check_measured({"rows": 1.0, "score": -LARGEST}, 1, claims)
    beyond = {"rows": 1.0, "score": math.nextafter(LARGEST, math.inf)}
    assert refused(check_measured, beyond, 1, claims) is RefusalReason.MALFORMED
    assert math.isfinite(1_000_000 * LARGEST)


def test_a_weight_is_the_plans():
    check_weight(24.0, 12, 2, weigh)
    assert refused(check_weight, 24.5, 12, 2, weigh) is RefusalReason.MALFORMED


def test_the_names_that_most_have_are_kept():
    honest = {"rows": 3.0, "f1": 1.0}
    each = [("a", honest), ("b", {"rows": 3.0, "liar": 1.0}), ("c", honest)]
    assert agreed(each) == {"a", "c"} and agreed([]) == frozenset()


ANY = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.binary()
NAMES = st.sampled_from(["rows", "loss", "steps", "drift", "accuracy", "wit"])
JSON = st.recursive(ANY, lambda one: st.lists(one) | st.dictionaries(NAMES | st.text(), one))


@given(
    st.tuples(
        st.sampled_from(["arrived", "invited", "failed"]) | ANY,
        ANY | st.just(""),
        ANY | st.just(""),
        ANY | st.just("0" * 64),
        ANY | st.just(100),
        ANY | st.just(12.0),
        JSON | st.dictionaries(NAMES, st.floats()),
    ),
    st.sampled_from(["train", "evaluate"]),
)
@example(("arrived", "", "", "0" * 64, 100, 12.0, TRAINED), "train")
def test_whatever_is_stored_is_sound_or_out_for_a_reason(fields, kind):
    found = Assignment("a", *fields)
    seat = sound(found, "a", kind, 1, LEARNS, weigh)
    if seat is not found:
        assert (seat.client, seat.standing, seat.reason) == ("a", "failed", "record") and seat.text
    elif seat.standing == "arrived":
        assert seat.metrics == {} or seat.metrics["rows"] >= 1


def test_a_client_without_a_seat_is_out():
    assert sound(None, "a", "train", 1, LEARNS, weigh).standing == "failed"


@given(st.dictionaries(NAMES | st.text(max_size=4), st.floats(allow_nan=False)))
def test_a_check_refuses_or_passes_and_nothing_else(metrics):
    for check in (check_measured, check_training):
        given_ = (metrics, 12, LEARNS) if check is check_measured else (metrics, {12}, LEARNS)
        try:
            check(*given_)
        except Refused as error:
            assert error.text and len(error.text) < 500
        else:
            assert all(math.isfinite(value) for value in metrics.values())
