# SPDX-License-Identifier: Apache-2.0
"""Optimizers: on the server with every algorithm, and locally on every client.

An optimizer moves `x` along a direction (an update, or minus a gradient): server steps add.
`init(x)` gives its state, `step(x, direction, state, rate)` the new `(x, state)`; `rate`
replaces the field of the same name where a schedule moves it. One text serves NumPy, torch and
JAX, one vector or a matrix of them.

The adaptive ones follow Reddi et al. 2021 (arXiv 2003.00295, Algorithm 2): no bias correction,
and v starts at tau². A textbook Adam (bias-corrected, v = 0) is another algorithm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from muster.errors import PlanError
from muster.mapped import PART, parts
from muster.spelling import Spelled, absent
from muster.vectors import along, sign, sqrt, zeros

__all__ = ["Adagrad", "Adam", "Momentum", "Optimizer", "SGD", "Yogi"]


class Optimizer(Spelled):
    """The seam: frozen hyper-parameters, state in and out."""

    rate: float

    def init(self, x: Any) -> Any:
        """Return the state for a vector like `x`: a tuple of vectors."""
        raise NotImplementedError

    def step(
        self, x: Any, direction: Any, state: Any, rate: float | None = None
    ) -> tuple[Any, Any]:
        """Move `x` along `direction`; returns the new `(x, state)`."""
        raise NotImplementedError

    def move(
        self, x: Any, direction: Any, state: Any, rate: float | None = None
    ) -> tuple[Any, Any]:
        """Take the same step for whoever owns `x` and the state, and needs neither any more.

        A large NumPy vector is moved where it lies, part by part, with the same bits.
        """
        if type(self) not in BY_COORDINATE or not self._movable(x, direction, state, rate):
            return self.step(x, direction, state, rate)
        for cut in parts(x):
            old = x[cut], tuple(vector[cut] for vector in state)
            new = self.step(old[0], direction[cut], old[1], rate)
            for mine, fresh in zip((old[0], *old[1]), (new[0], *new[1]), strict=True):
                mine[...] = fresh
        return x, state

    def _movable(self, x: Any, direction: Any, state: Any, rate: float | None) -> bool:
        """Return whether these are large vectors whose steps fit where they lie."""
        vectors = (x, direction, *state)
        if any(not isinstance(v, np.ndarray) or v.shape != x.shape for v in vectors):
            return False
        if x.ndim != 1 or x.nbytes <= PART or not all(v.flags.writeable for v in (x, *state)):
            return False
        first, rest = self.step(x[:1], direction[:1], tuple(v[:1] for v in state), rate)
        return [v.dtype for v in (first, *rest)] == [v.dtype for v in (x, *state)]

    def weights(self, steps: Any) -> Any:
        """Return the L1 norm of the weights of so many steps, in units of the rate (FedNova's a_k).

        None where it is not defined.
        """
        return None


@dataclass(frozen=True)
class SGD(Optimizer):
    """x += rate · direction.

    >>> SGD(0.5).step(1.0, 2.0, ())
    (2.0, ())
    """

    rate: float = 1.0

    def __post_init__(self) -> None:
        _positive(self, "rate")

    def init(self, x: Any) -> tuple[()]:
        """Return no state."""
        return ()

    def step(
        self, x: Any, direction: Any, state: Any, rate: float | None = None
    ) -> tuple[Any, Any]:
        """Take one plain step."""
        return along(x, direction, self.rate if rate is None else rate), state

    def weights(self, steps: Any) -> Any:
        """Return the number of steps: every step counts once."""
        return steps


@dataclass(frozen=True)
class Momentum(Optimizer):
    """v = beta v + direction; x += rate v (not the damped form): on the server this is FedAvgM.

    Source: Hsu, Qi and Brown 2019 (arXiv 1909.06335).

    >>> Momentum(1.0, beta=0.5).step(0.0, 1.0, (2.0,))
    (2.0, (2.0,))
    """

    rate: float = 1.0
    beta: float = 0.9

    def __post_init__(self) -> None:
        _positive(self, "rate")
        _fraction(self, "beta")

    def init(self, x: Any) -> tuple[Any]:
        """Return one vector of zeros."""
        return (zeros(x),)

    def step(
        self, x: Any, direction: Any, state: Any, rate: float | None = None
    ) -> tuple[Any, Any]:
        """Take one heavy-ball step."""
        v = self.beta * state[0] + direction
        return along(x, v, self.rate if rate is None else rate), (v,)

    def weights(self, steps: Any) -> Any:
        """Return [K − beta (1 − beta^K)/(1 − beta)]/(1 − beta) (Wang et al. 2020, 2007.07481)."""
        b = self.beta
        return (steps - b * (1 - b**steps) / (1 - b)) / (1 - b)


@dataclass(frozen=True)
class Adagrad(Optimizer):
    """v += d²; x += rate · m / (sqrt(v) + tau); v starts at tau² (Reddi et al. 2021, Alg. 2).

    m is d itself, as in the paper's tables, or with `beta1` its running mean (FLamby's setting).

    >>> Adagrad(0.1, tau=1.0).step(0.0, 1.0, (3.0,))[1]
    (4.0,)
    """

    rate: float = 0.1
    tau: float = 1e-3
    beta1: float = 0.0

    def __post_init__(self) -> None:
        _positive(self, "rate", "tau")
        _fraction(self, "beta1")

    def init(self, x: Any) -> tuple[Any, ...]:
        """Start at v = tau², and before it m = 0 where there is momentum."""
        v = zeros(x) + self.tau**2
        return (zeros(x), v) if self.beta1 else (v,)

    def step(
        self, x: Any, direction: Any, state: Any, rate: float | None = None
    ) -> tuple[Any, Any]:
        """Take one adaptive step."""
        v = state[-1] + direction * direction
        m = direction
        if self.beta1:
            m = self.beta1 * state[0] + (1 - self.beta1) * direction
        x = x + (self.rate if rate is None else rate) * m / (_root(v) + self.tau)
        return x, (m, v) if self.beta1 else (v,)


@dataclass(frozen=True)
class Moments(Optimizer):
    """Abstract: m and v follow d and d²; x += rate · m / (sqrt(v) + tau); says not how v moves."""

    rate: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3

    def __post_init__(self) -> None:
        _positive(self, "rate", "tau")
        _fraction(self, "beta1", "beta2")

    def init(self, x: Any) -> tuple[Any, Any]:
        """Start at m = 0, v = tau²."""
        return zeros(x), zeros(x) + self.tau**2

    def step(
        self, x: Any, direction: Any, state: Any, rate: float | None = None
    ) -> tuple[Any, Any]:
        """Take one adaptive step with momentum."""
        m = self.beta1 * state[0] + (1 - self.beta1) * direction
        v = self.second(state[1], direction * direction)
        return x + (self.rate if rate is None else rate) * m / (_root(v) + self.tau), (m, v)

    def second(self, v: Any, square: Any) -> Any:
        """Return the next v."""
        raise NotImplementedError


@dataclass(frozen=True)
class Adam(Moments):
    """m, v running means of d, d²; x += rate · m / (sqrt(v) + tau) (Reddi et al. 2021, Alg. 2).

    No bias correction; v starts at tau².

    >>> Adam(0.1).tau
    0.001
    """

    def second(self, v: Any, square: Any) -> Any:
        """Return a running mean: beta2 v + (1 − beta2) d²."""
        return self.beta2 * v + (1 - self.beta2) * square


@dataclass(frozen=True)
class Yogi(Moments):
    """As Adam, but v moves additively (Reddi et al. 2021, Alg. 2).

    No bias correction; v starts at tau².

    >>> Yogi(0.1).beta2
    0.99
    """

    def second(self, v: Any, square: Any) -> Any:
        """Return v by the additive rule: v − (1 − beta2) d² sign(v − d²)."""
        return v - (1 - self.beta2) * square * sign(v - square)


# Of these no coordinate's step reads another coordinate; of a user's own nobody knows.
BY_COORDINATE = frozenset({SGD, Momentum, Adagrad, Adam, Yogi})


def _root(v: Any) -> Any:
    return v**0.5 if isinstance(v, float) else sqrt(v)


def _positive(optimizer: Any, *names: str) -> None:
    for name in names:
        value = getattr(optimizer, name)
        if not 0 < value < float("inf"):
            kind = type(optimizer).__name__
            raise PlanError(
                f"{kind}({name}={value!r}): {name} must be finite and above 0, such as 0.1"
            )


def _fraction(optimizer: Any, *names: str) -> None:
    for name in names:
        value = getattr(optimizer, name)
        if not 0 <= value < 1:
            kind = type(optimizer).__name__
            raise PlanError(f"{kind}({name}={value!r}): {name} must lie in [0, 1), such as 0.9")


def __getattr__(name: str) -> Any:
    raise absent("muster.optimizers", name, __all__)
