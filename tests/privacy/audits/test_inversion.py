# SPDX-License-Identifier: Apache-2.0
"""A plain update shows its row; noise and company hide it. The attacks have power."""

import numpy as np
import pytest

from muster.errors import MusterError
from muster.keys import Keys, key
from muster.pipeline import Clip, Contract, DiscreteNoise, Field, Noise, Pipeline, Quantize
from muster.privacy.audits import best_match, label, linear_input, matched, psnr
from muster.types import Reply

FEATURES, CLASSES, HIDDEN = 20, 4, 12


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def linear_gradient(x, y, w):
    """Cross-entropy of one linear layer: its weight and bias gradients, summed over rows."""
    error = softmax(x @ w.T) - np.eye(CLASSES)[y]
    return error.T @ x, error.sum(0)


def rows(count, seed=0):
    rng = np.random.default_rng(seed)
    return (
        rng.random((count, FEATURES)),
        rng.integers(0, CLASSES, count),
        rng.normal(size=(CLASSES, FEATURES)) * 0.3,
    )


def flat(weight, bias):
    return np.concatenate([weight.ravel(), bias])[None]


def unflat(vector):
    vector = vector.reshape(-1)
    return vector[: CLASSES * FEATURES].reshape(CLASSES, FEATURES), vector[CLASSES * FEATURES :]


def test_a_plain_update_of_one_row_is_that_row():
    for seed in range(20):
        x, y, w = rows(1, seed)
        weight, bias = linear_gradient(x, y, w)
        assert psnr(linear_input(weight, bias), x[0]) > 60
        assert label(bias) == y[0]


def test_clipping_alone_hides_nothing():
    x, y, w = rows(1)
    contract = Contract((Field("delta", CLASSES * (FEATURES + 1), bits=64),), cap=1.0)
    pipeline = Pipeline.build((Clip(0.01),), contract)
    payload, _ = pipeline.encode(
        {"delta": flat(*linear_gradient(x, y, w))}, (None,), None, Keys(key(0), ("a",)), np.ones(1)
    )
    assert psnr(linear_input(*unflat(payload["delta"])), x[0]) > 60


def test_company_blurs_the_row_and_is_not_safe_by_itself():
    found = []
    for count in (1, 2, 8, 64):
        x, y, w = rows(count, 3)
        found.append(best_match(linear_input(*linear_gradient(x, y, w)), x))
    assert found[0] > 60
    assert found[1] < 40
    assert found[3] < found[0] / 2


def test_noise_hides_the_row_the_more_the_wider():
    """Median PSNR over fifty rows falls with the multiplier, to where guessing is as good."""
    medians = []
    for z in (1e-6, 1e-2, 0.1, 1.0):
        values = []
        for seed in range(50):
            x, y, w = rows(1, seed)
            contract = Contract((Field("delta", CLASSES * (FEATURES + 1), bits=64),), cap=1.0)
            pipeline = Pipeline.build((Clip(1.0), Noise(z)), contract)
            reply = Reply((), {"delta": flat(*linear_gradient(x, y, w))[0]}, 1.0)
            noisy = pipeline.decode(reply, pipeline.init(), key(seed))[0].payload["delta"]
            values.append(psnr(linear_input(*unflat(noisy)), x[0]))
        medians.append(np.median(values))
    assert medians == sorted(medians, reverse=True)
    guess = np.median([psnr(np.full(FEATURES, 0.5), rows(1, seed)[0][0]) for seed in range(50)])
    assert medians[0] > 60
    assert medians[-1] < guess + 3


def test_integer_noise_of_one_client_hides_the_row_too():
    x, y, w = rows(1)
    contract = Contract((Field("delta", CLASSES * (FEATURES + 1), bits=64),), cap=1.0)
    stages = (Clip(1.0), Quantize(16), DiscreteNoise(1.0, clients=1))
    pipeline = Pipeline.build(stages, contract)
    payload, _ = pipeline.encode(
        {"delta": flat(*linear_gradient(x, y, w))},
        (None,) * 3,
        None,
        Keys(key(0), ("a",)),
        np.ones(1),
    )
    reply = Reply((), {"delta": payload["delta"][0]}, 1.0)
    total = pipeline.decode(reply, pipeline.init(), key(0))[0].payload["delta"]
    assert psnr(linear_input(*unflat(total)), x[0]) < 15


def net(seed):
    """The gradient of a net without biases, rows `(k, features)` to `(k, parameters)`."""
    rng = np.random.default_rng(seed)
    first, last = rng.normal(size=(HIDDEN, 6)) * 0.5, rng.normal(size=(CLASSES, HIDDEN)) * 0.5
    y = int(rng.integers(CLASSES))

    def gradient(x):
        h = np.tanh(x @ first.T)
        error = softmax(h @ last.T) - np.eye(CLASSES)[y]
        inner = (error @ last) * (1 - h**2)
        return np.concatenate(
            [
                (inner[:, :, None] * x[:, None]).reshape(len(x), -1),
                (error[:, :, None] * h[:, None]).reshape(len(x), -1),
            ],
            1,
        )

    return gradient, rng.random(6), rng.random(6)


def test_matching_the_gradient_of_a_net_finds_its_row():
    found = []
    for seed in range(10):
        gradient, x, start = net(seed)
        found.append(psnr(matched(gradient, gradient(x[None])[0], start), x))
    assert np.median(found) > 60
    assert sum(value > 60 for value in found) >= 8


def test_matching_a_noisy_gradient_does_not():
    values, guesses = [], []
    for seed in range(10):
        gradient, x, start = net(seed)
        noisy = gradient(x[None])[0]
        noisy = noisy + np.random.default_rng(seed).normal(size=noisy.shape)
        values.append(psnr(matched(gradient, noisy, start, 30), x))
        guesses.append(psnr(np.full(6, 0.5), x))
    assert np.median(values) < np.median(guesses) + 3


def test_edges():
    with pytest.raises(MusterError, match="every bias gradient is 0"):
        linear_input(np.ones((2, 3)), np.zeros(2))
    assert psnr(np.ones(3), np.ones(3)) == np.inf
    still = matched(lambda x: np.ones((len(x), 1)), np.zeros(1), np.array([0.3]))
    assert still.tolist() == [0.3]  # where nothing moves the gradient, the start is kept
