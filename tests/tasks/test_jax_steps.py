# SPDX-License-Identifier: Apache-2.0
"""Vectors as tensors: every operation is the operation on the flat vector."""

import numpy as np
import pytest

pytest.importorskip("jax")

from muster import vectors
from muster.tasks import jax_steps
from muster.tasks.jax_steps import jax, jnp


def test_traced_values_belong_to_jax_numpy():
    seen = []
    jax.vmap(jax.jit(lambda a: seen.append(vectors.of(a)) or a))(jnp.zeros((2, 2)))
    jax.grad(lambda a: seen.append(vectors.of(a)) or a)(1.0)
    assert seen == [jnp, jnp]


@pytest.mark.parametrize("operation", ["sqrt", "sign", "absolute", "zeros", "norm"])
def test_vectors_work_on_parts(operation):
    flat = np.array([4.0, 9.0, 16.0, 25.0], np.float32)
    parts = jax_steps.Parts((jnp.array([[4.0, 9.0]]), jnp.array([16.0, 25.0])))
    function = getattr(vectors, operation)
    found = function(parts)
    found = found.flat if isinstance(found, jax_steps.Parts) else found
    np.testing.assert_allclose(found, function(flat), rtol=1e-6)


def test_parts_mix_with_vectors_numbers_and_slices():
    flat = np.array([1.0, -2.0, 3.0, 4.0], np.float32)
    parts = jax_steps.Parts((jnp.array([[1.0, -2.0]]), jnp.array([3.0, 4.0])))
    rate = jnp.float32(0.5)
    for found in (rate * parts, parts * rate, parts * jnp.ones(1) / 2):
        np.testing.assert_allclose(found.flat, flat / 2)
    np.testing.assert_allclose((jnp.asarray(flat) - parts).flat, 0)
    np.testing.assert_allclose((-(parts**2) + flat).flat, flat - flat**2)
    np.testing.assert_allclose(parts[..., 1:3], flat[1:3])
    chosen = vectors.where(parts > 0, parts, parts * 0)
    np.testing.assert_allclose(jax_steps.join(chosen), flat.clip(0))
    assert parts.shape == (4,) and parts.sum(-1) == 6
    with pytest.raises(TypeError):
        np.add.reduce(parts)
