# SPDX-License-Identifier: Apache-2.0
"""The hooks and their defaults, and what every shipped algorithm keeps of them."""

from dataclasses import FrozenInstanceError, is_dataclass
from inspect import isclass

import numpy as np
import pytest

from muster import Local, algorithms
from muster.algorithms.algorithm import Algorithm, ModelState, Update
from muster.optimizers import SGD, Adam, Momentum
from muster.types import LocalWork, State
from muster.vectors import leaves, tree_map

NAMED = [getattr(algorithms, name) for name in algorithms.__all__]
EVERY = [kind() for kind in NAMED if isclass(kind) and kind is not Algorithm]
ids = [type(algorithm).__name__ for algorithm in EVERY]
shipped = pytest.mark.parametrize("algorithm", EVERY, ids=ids)
BENDING = {"FedProx", "Scaffold", "FedDyn"}
REMEMBERING = {"Scaffold", "FedDyn"}


class Plain(Algorithm):
    server = Momentum(0.5, 0.9)


def test_the_defaults_are_plain_averaging():
    x, plain = np.array([1.0, 2.0]), Plain()
    state = plain.init(x)
    assert state.shared.x is x
    assert plain.memory(x) is None
    assert plain.accept(Local(steps=1), "examples") is None
    assert plain.correct(x, x + 1, state.shared, None) is x
    payload, memory = plain.report(x + 3, state.shared, None, LocalWork(1, 1, 1))
    assert (payload.delta.tolist(), memory) == ([3, 3], None)
    assert plain.payload is Update
    assert not plain.modifies_gradient
    assert not plain.remembers


def test_the_default_step_hands_the_mean_to_the_server_optimizer():
    state = State(ModelState(np.zeros(1)), (np.array([2.0]),))
    state = Plain().step(state, Update(np.array([1.0])), 1.0)
    assert state.private[0].tolist() == [pytest.approx(2.8)]
    assert state.shared.x.tolist() == [pytest.approx(1.4)]


@shipped
def test_properties_say_what_the_hooks_do(algorithm):
    name = type(algorithm).__name__
    assert algorithm.modifies_gradient == (name in BENDING)
    assert algorithm.remembers == (name in REMEMBERING)
    assert (algorithm.memory(np.zeros(2)) is not None) == algorithm.remembers


@shipped
def test_an_algorithm_is_a_frozen_value(algorithm):
    assert is_dataclass(algorithm)
    assert algorithm == type(algorithm)()
    assert hash(algorithm) == hash(type(algorithm)())
    assert repr(algorithm).startswith(type(algorithm).__name__ + "(")
    with pytest.raises(FrozenInstanceError):
        algorithm.server = SGD(2.0)


def one_round(algorithm, x, w, memory):
    """The hooks in the order of a round, on one client or a matrix of them."""
    state = algorithm.init(x)
    k = w.shape[:-1]
    ones = np.ones((*k, 1))
    g = algorithm.correct(w * 2, w, state.shared, memory)
    payload, kept = algorithm.report(
        w, state.shared, memory, LocalWork(3 * ones, 0.3 * ones, 3 * ones)
    )
    return state, g, payload, kept


@shipped
def test_a_matrix_of_clients_is_its_rows(algorithm):
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=5), rng.normal(size=(3, 5))
    memory = rng.normal(size=(3, 5)) if algorithm.remembers else None
    _, g, payload, kept = one_round(algorithm, x, w, memory)
    for i in range(3):
        mine = None if memory is None else memory[i]
        _, g_i, payload_i, kept_i = one_round(algorithm, x, w[i], mine)
        np.testing.assert_allclose(g[i], g_i, rtol=1e-14)
        for whole, part in zip(payload, payload_i, strict=True):
            np.testing.assert_allclose(whole[i], part, rtol=1e-14)
        if kept is not None:
            np.testing.assert_allclose(kept[i], kept_i, rtol=1e-14)


@shipped
def test_hooks_write_nothing_in_place(algorithm):
    rng = np.random.default_rng(1)
    x, w = rng.normal(size=(2, 4))
    memory = rng.normal(size=4) if algorithm.remembers else None
    before = x.copy(), w.copy(), tree_map(np.copy, memory)
    state, _, payload, _ = one_round(algorithm, x, w, memory)
    old = tree_map(np.copy, state)
    algorithm.step(state, payload, 0.5)
    for a, b in zip(leaves(((x, w, memory), state)), leaves((before, old)), strict=True):
        np.testing.assert_array_equal(a[1], b[1])


@shipped
@pytest.mark.parametrize("server", [Momentum(1.0, 0.5), Adam(0.1)], ids=["Momentum", "Adam"])
def test_every_server_optimizer_fits_every_algorithm(algorithm, server):
    mine = type(algorithm)(server=server)
    x = np.array([1.0, -1.0])
    state, _, payload, _ = one_round(mine, x, x + 1, mine.memory(x))
    after = mine.step(mine.step(state, payload, 1.0), payload, 1.0)
    assert [name for name, _ in leaves(after)] == [name for name, _ in leaves(state)]
    assert np.isfinite(after.shared.x).all()


@shipped
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_states_keep_their_dtype(algorithm, dtype):
    x = np.zeros(3, dtype)
    state, _, payload, _ = one_round(algorithm, x, x + 1, algorithm.memory(x))
    payload = tree_map(lambda a: a.astype(dtype), payload)
    after = algorithm.step(state, payload, 0.25)
    assert {leaf.dtype for _, leaf in leaves(after)} == {np.dtype(dtype)}
