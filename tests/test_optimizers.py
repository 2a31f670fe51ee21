# SPDX-License-Identifier: Apache-2.0
"""Optimizers against their papers' formulas, written out number by number."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.errors import PlanError
from muster.optimizers import SGD, Adagrad, Adam, Momentum, Optimizer, Yogi

EVERY = [SGD(0.3), Momentum(0.3, 0.8), Adagrad(0.3, 0.05), Adam(0.3, 0.8, 0.95, 0.05)]
EVERY += [Yogi(0.3, 0.8, 0.95, 0.05)]
ids = lambda value: type(value).__name__  # noqa: E731


def formula(kind, x, directions):
    """One coordinate through Reddi et al. 2021, Algorithm 2, in plain numbers."""
    rate, beta1, beta2, tau = 0.3, 0.8, 0.95, 0.05
    m, v = 0.0, tau**2
    for d in directions:
        if kind == "SGD":
            x += rate * d
            continue
        if kind == "Momentum":
            m = beta1 * m + d
            x += rate * m
            continue
        if kind == "Adagrad":
            m, v = d, v + d * d
        elif kind == "Adam":
            m, v = beta1 * m + (1 - beta1) * d, beta2 * v + (1 - beta2) * d * d
        else:
            m = beta1 * m + (1 - beta1) * d
            v -= (1 - beta2) * d * d * math.copysign(1, v - d * d) * (v != d * d)
        x += rate * m / (math.sqrt(v) + tau)
    return x


@pytest.mark.parametrize("optimizer", EVERY, ids=ids)
@settings(deadline=None)
@given(st.lists(st.floats(-3, 3).filter(lambda d: abs(d) > 1e-9 or d == 0), max_size=8))
def test_steps_follow_the_paper(optimizer, directions):
    x = np.array([0.5, -2.0])
    state = optimizer.init(x)
    for d in directions:
        x, state = optimizer.step(x, np.array([d, -d / 2]), state)
    expected = [
        formula(type(optimizer).__name__, start, [scale * d for d in directions])
        for start, scale in ((0.5, 1.0), (-2.0, -0.5))
    ]
    np.testing.assert_allclose(x, expected, rtol=1e-12, atol=1e-12)


def test_there_is_no_bias_correction():
    """A textbook Adam would move by rate in its first step; this one moves by far less."""
    x, (m, v) = Adam(0.1, 0.9, 0.99, tau=1e-3).step(0.0, 1.0, (0.0, 1e-6))
    assert m == pytest.approx(0.1)
    assert v == pytest.approx(0.99e-6 + 0.01)
    assert x == pytest.approx(0.1 * 0.1 / (math.sqrt(0.01000099) + 1e-3))


@pytest.mark.parametrize("optimizer", [Adagrad(tau=0.5), Adam(tau=0.5), Yogi(tau=0.5)], ids=ids)
def test_v_starts_at_tau_squared(optimizer):
    assert optimizer.init(np.zeros(2))[-1].tolist() == [0.25, 0.25]


def test_yogi_moves_v_additively_where_adam_forgets():
    d, state = np.array([0.1]), (np.zeros(1), np.array([4.0]))
    assert Yogi().step(0, d, state)[1][1] == pytest.approx(4.0 - 0.01 * 0.01)
    assert Adam().step(0, d, state)[1][1] == pytest.approx(4.0 * 0.99 + 0.01 * 0.01)


def test_adagrad_may_run_with_momentum():
    """m = 0.8 m + 0.2 d; v += d²; x += 0.3 m / (sqrt(v) + tau), for d = 2 and then d = −1."""
    optimizer, x = Adagrad(0.3, 0.05, beta1=0.8), np.zeros(1)
    state = optimizer.init(x)
    x, state = optimizer.step(x, np.array([2.0]), state)
    x, (m, v) = optimizer.step(x, np.array([-1.0]), state)
    assert (m[0], v[0]) == pytest.approx((0.8 * 0.4 - 0.2, 0.0025 + 5))
    first = 0.3 * 0.4 / (math.sqrt(4.0025) + 0.05)
    assert x[0] == pytest.approx(first + 0.3 * 0.12 / (math.sqrt(5.0025) + 0.05), rel=1e-12)
    with pytest.raises(PlanError, match="beta1 must lie in"):
        Adagrad(beta1=1.0)


def test_momentum_is_not_damped():
    x, v = np.zeros(1), (np.zeros(1),)
    for _ in range(300):
        x, v = Momentum(1.0, 0.9).step(x, np.ones(1), v)
    assert v[0][0] == pytest.approx(10.0)


@pytest.mark.parametrize("optimizer", EVERY, ids=ids)
def test_a_step_writes_nothing_in_place(optimizer):
    x, d = np.array([1.0, 2.0]), np.array([0.5, -1.0])
    state = optimizer.init(x)
    before = [part.copy() for part in state]
    optimizer.step(x, d, state)
    assert (x.tolist(), d.tolist()) == ([1.0, 2.0], [0.5, -1.0])
    np.testing.assert_array_equal(state, before)


@pytest.mark.parametrize("optimizer", EVERY, ids=ids)
def test_a_schedule_may_replace_the_rate(optimizer):
    x, d = np.zeros(2), np.array([1.0, -2.0])
    moved = optimizer.step(x, d, optimizer.init(x), rate=0.6)[0]
    np.testing.assert_allclose(moved, 2 * optimizer.step(x, d, optimizer.init(x))[0])
    assert optimizer.step(x, d, optimizer.init(x), rate=0.0)[0].tolist() == [0, 0]


@pytest.mark.parametrize("optimizer", EVERY, ids=ids)
def test_a_matrix_of_clients_is_its_rows(optimizer):
    rng = np.random.default_rng(0)
    x, d = rng.normal(size=(2, 4, 3)).astype(np.float32)
    rows, state = optimizer.step(x, d, optimizer.init(x))
    assert rows.dtype == np.float32
    assert all(part.dtype == np.float32 for part in state)
    for i in range(4):
        alone = optimizer.step(x[i], d[i], optimizer.init(x[i]))[0]
        np.testing.assert_allclose(rows[i], alone, rtol=1e-6)


@pytest.mark.parametrize("framework", ["torch", "jax.numpy"])
@pytest.mark.parametrize("optimizer", EVERY, ids=ids)
def test_frameworks_agree(optimizer, framework):
    module = pytest.importorskip(framework)
    array = module.tensor if framework == "torch" else module.asarray
    x, d = [0.5, -2.0, 0.0], [1.5, -0.25, 0.0]
    theirs = optimizer.step(array(x), array(d), optimizer.init(array(x)))[0]
    ours = optimizer.step(np.array(x), np.array(d), optimizer.init(np.array(x)))[0]
    np.testing.assert_allclose(np.asarray(theirs), ours, rtol=1e-6)


@settings(deadline=None)
@given(st.integers(1, 40), st.floats(0, 0.99))
def test_step_weights_are_what_each_gradient_moves_in_the_end(steps, beta):
    """a_k by brute force: the sum over gradients of how far one unit of it moves w."""
    total = sum(beta**j for first in range(steps) for j in range(steps - first))
    assert Momentum(1.0, beta).weights(steps) == pytest.approx(total, rel=1e-9)
    assert SGD().weights(steps) == steps


@settings(deadline=None)
@given(st.integers(1, 12), st.floats(0, 0.95))
def test_step_weights_are_the_distance_under_a_constant_gradient(steps, beta):
    optimizer = Momentum(0.25, beta)
    w, state = np.zeros(1), optimizer.init(np.zeros(1))
    for _ in range(steps):
        w, state = optimizer.step(w, np.ones(1), state)
    assert w[0] == pytest.approx(0.25 * optimizer.weights(steps), rel=1e-9)


@pytest.mark.parametrize("optimizer", [Adagrad(), Adam(), Yogi(), Optimizer()], ids=ids)
def test_adaptive_methods_have_no_step_weights(optimizer):
    assert optimizer.weights(3) is None


def test_momentum_without_memory_is_sgd_bitwise():
    x, d = np.random.default_rng(1).normal(size=(2, 50)).astype(np.float32)
    np.testing.assert_array_equal(
        Momentum(0.3, beta=0.0).step(x, d, (np.ones_like(x),))[0], SGD(0.3).step(x, d, ())[0]
    )


@pytest.mark.parametrize("bad", [0, -0.1, math.nan, math.inf])
@pytest.mark.parametrize(
    ("kind", "name"),
    [(SGD, "rate"), (Momentum, "rate"), (Adagrad, "tau"), (Adam, "tau"), (Yogi, "rate")],
)
def test_rates_and_tau_must_be_finite_and_positive(kind, name, bad):
    with pytest.raises(PlanError, match=f"{kind.__name__}.{name}=.*finite and above 0, such as"):
        kind(**{name: bad})


@pytest.mark.parametrize("bad", [1, 1.5, -0.1, math.nan])
@pytest.mark.parametrize(
    ("kind", "name"), [(Momentum, "beta"), (Adam, "beta1"), (Adam, "beta2"), (Yogi, "beta2")]
)
def test_betas_must_be_fractions(kind, name, bad):
    with pytest.raises(PlanError, match=rf"{kind.__name__}.{name}=.*\[0, 1\), such as 0.9"):
        kind(**{name: bad})


LARGE = (1 << 20) + 3  # numbers: more than one part of a vector that is moved where it lies


@pytest.mark.parametrize(
    "optimizer",
    [SGD(0.1), Momentum(0.1), Adagrad(0.1), Adagrad(0.1, beta1=0.9), Adam(0.1), Yogi(0.1)],
    ids=repr,
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_large_vector_is_moved_where_it_lies_with_the_bits_of_a_step(optimizer, dtype):
    draw = np.random.default_rng(0)
    x, d = (draw.standard_normal(LARGE).astype(dtype) for _ in range(2))
    state = optimizer.step(x, d, optimizer.init(x))[1]
    wanted, kept = optimizer.step(x, -d, state, rate=-0.3)
    mine = x.copy(), tuple(np.array(vector) for vector in state)
    moved, after = optimizer.move(mine[0], -d, mine[1], rate=-0.3)
    assert moved is mine[0] and moved.tobytes() == wanted.tobytes()
    assert [vector.tobytes() for vector in after] == [vector.tobytes() for vector in kept]


class Normed(SGD):
    """A step that looks at all coordinates: a part of them is not enough."""

    def step(self, x, direction, state, rate=None):
        return super().step(x, direction / np.linalg.norm(direction), state, rate)


def test_an_optimizer_of_a_user_is_never_given_a_part():
    x, d = np.zeros(LARGE, "float32"), np.ones(LARGE, "float32")
    moved, _ = Normed(1.0).move(x, d, ())
    assert moved is not x and moved.tobytes() == Normed(1.0).step(x, d, ())[0].tobytes()


def test_what_a_step_would_make_wider_is_not_squeezed_where_it_lay():
    x, d = np.zeros(LARGE, "float32"), np.ones(LARGE, "float32")
    moved, _ = SGD(1.0).move(x, d, (), rate=np.float64(0.5))
    assert moved.dtype == np.float64 and not x.any()
