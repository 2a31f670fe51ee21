# SPDX-License-Identifier: Apache-2.0
"""The choice of an engine, and how a cohort is cut into pieces."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import muster
from muster import algorithms, optimizers, tasks
from muster.aggregation.sums import block_size
from muster.errors import PlanError
from muster.simulation.engine import MOST, Choice, choose


def federation(sizes):
    draw = np.random.default_rng(0)
    rows = {i: (draw.standard_normal((n, 4)), np.arange(n) % 3) for i, n in enumerate(sizes)}
    return muster.Population.from_arrays(rows)


def planned(**changes):
    local = changes.pop("local", muster.Local(epochs=1, batch=5))
    algorithm = changes.pop("algorithm", algorithms.FedAvg())
    task = changes.pop("task", tasks.numpy.SoftmaxRegression(4, 3))
    return muster.Plan(task=task, algorithm=algorithm, local=local, **changes)


PRIVATE = planned(
    local=muster.Local(epochs=1, batch=5, examples=muster.PerExample(1.0, 1.1)),
    evaluate=muster.Every(clients=0),
)
EVEN, RAGGED = federation([20] * 6), federation([5, 50, 20])


def test_plain_sgd_trains_in_place():
    assert choose(planned(), EVEN, 6).engine == "fused"


@pytest.mark.parametrize("algorithm", [algorithms.FedProx(0.1), algorithms.Scaffold()])
def test_bent_gradients_need_a_buffer(algorithm):
    assert choose(planned(algorithm=algorithm), EVEN, 6).engine == "matrix"


def test_local_momentum_is_not_fused():
    local = muster.Local(epochs=1, batch=5, optimizer=optimizers.Momentum(0.1))
    assert choose(planned(local=local), EVEN, 6).engine == "matrix"


def test_full_batches_of_unequal_clients_are_not_padded():
    choice = choose(planned(local=muster.Local(epochs=1)), RAGGED, 3)
    assert choice.engine == "loop"
    assert "pad" in choice.reason


@pytest.mark.parametrize(
    ("engine", "plan", "words"),
    [
        ("warp", planned(), "use one of auto, loop, matrix, fused"),
        ("fused", planned(algorithm=algorithms.FedProx(0.1)), "leaves gradients alone"),
        ("fused", PRIVATE, r"the gradient that PerExample\(clip=1.0, .* use 'loop', 'matrix' or"),
    ],
)
def test_an_engine_that_cannot_be_is_refused(engine, plan, words):
    with pytest.raises(PlanError, match=words):
        choose(plan, EVEN, 6, engine)


def test_the_choice_does_not_depend_on_the_order_of_asking():
    assert choose(planned(), EVEN, 6) == choose(planned(), EVEN, 6)


@given(st.integers(1, 400), st.integers(1, 3000))
def test_pieces_are_whole_blocks_in_order(together, cohort):
    block = block_size(cohort)
    pieces = Choice("loop", together, True, "").pieces(cohort)
    assert [i for part in pieces for i in range(part.start, part.stop)] == list(range(cohort))
    assert all(part.start % block == 0 for part in pieces)
    assert all(part.stop - part.start <= max(block, together) for part in pieces)


def test_a_piece_does_not_grow_with_the_cohort():
    assert choose(planned(), EVEN, 100_000).together <= MOST
