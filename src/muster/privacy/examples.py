# SPDX-License-Identifier: Apache-2.0
"""DP-SGD on the examples of one client: clip each example's gradient, add noise, take the mean.

The unit of privacy is one example, another claim than the client's. Pure functions of gradients
`(rows, d)`; whoever trains brings the gradients. What a plan says of it is in `per_example.py`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from muster.errors import PlanError
from muster.keys import RandomSource
from muster.privacy.accounting import Spent, spent
from muster.privacy.gaussian import check_multiplier, gaussian
from muster.privacy.release import Charge, Release, Selection

__all__ = ["charged", "clip_factors", "clipped_rows", "dp_sgd_spent", "private_gradient", "promise"]


def clipped_rows(gradients: NDArray[np.float64], bound: float) -> NDArray[np.float64]:
    """Clip rows `(rows, d)` to be no longer than the bound; a row of zeros stays.

    Source: Abadi et al. 2016 (arXiv 1607.00133), algorithm 1. A row that is not finite counts as
    zeros: to refuse it would tell whoever chose the model that there is such a row.

    >>> clipped_rows(np.array([[3.0, 4.0], [0.0, 0.0]]), 1.0).round(6).tolist()
    [[0.6, 0.8], [0.0, 0.0]]
    """
    if not 0 < bound < math.inf:
        raise PlanError(f"clip bound {bound!r}: a finite number above 0 is needed")
    rows = np.asarray(gradients, np.float64)
    rows = np.where(np.isfinite(rows).all(-1, keepdims=True), rows, 0)
    # The largest coordinate is taken out first, so that no square overflows.
    most = np.maximum(np.abs(rows).max(-1, initial=0, keepdims=True), bound)
    unit, limit = rows / most, bound / most
    norms = np.linalg.norm(unit, axis=-1, keepdims=True)
    return np.where(norms > limit, unit * (bound / np.maximum(norms, limit)), rows)


def clip_factors(
    norms: NDArray[np.float64], bound: float, dtype: str = "float64"
) -> NDArray[np.float64]:
    """Return the factors that make rows of these L2 norms no longer than the bound.

    64 units of rounding in `dtype` less than the bound, so that norm and product may round. 0 for a
    norm that is not finite; what has it must count as zeros (0 · NaN is none).

    >>> clip_factors(np.array([0.0, 0.5, 4.0]), 1.0).round(6).tolist()
    [1.0, 1.0, 0.25]
    """
    limit, sound = bound * (1 - 64 * float(np.finfo(dtype).eps)), np.isfinite(norms)
    factors = np.minimum(1.0, limit / np.maximum(np.where(sound, norms, limit), limit))
    return np.where(sound, factors, 0.0)


def private_gradient(
    gradients: NDArray[np.float64],
    bound: float,
    multiplier: float,
    expected: float,
    source: RandomSource,
) -> NDArray[np.float64]:
    """Return (Σ clipped rows + N(0, multiplier² bound² I)) / expected, `(d,)`.

    `expected` is the fixed batch size rate · rows, never the number that came.

    >>> from muster.keys import key
    >>> private_gradient(np.zeros((5, 3)), 1.0, 1.0, 5.0, key(0)).shape
    (3,)
    """
    check_multiplier(multiplier)
    if not 0 < expected < math.inf:
        raise PlanError(f"expected batch {expected!r}: a finite number above 0 is needed")
    total = clipped_rows(gradients, bound).sum(0)
    noise = gaussian(source, total.shape[-1], multiplier * bound)
    drawn: NDArray[np.float64] = (total + noise) / expected
    return drawn


def dp_sgd_spent(multiplier: float, rate: float, steps: int, delta: float) -> Spent:
    """Return the privacy spent by so many steps on one example, in batches by Poisson's coins.

    Batches cut from a shuffled epoch are another mechanism (Chua et al. 2024, arXiv
    2403.17673) with less privacy: account them with rate 1.

    >>> round(dp_sgd_spent(1.1, 256 / 60000, 14062, 1e-5).epsilon, 4)
    2.3817
    """
    kind = "poisson" if rate < 1 else "all"
    release = Release("gaussian", multiplier, 1.0)
    return spent([Charge(release, Selection(kind, rate), steps)], delta)  # type: ignore[arg-type]


def charged(local: Any, rows: int, run: str = "") -> Charge:
    """Return the charge for each row of one round of a client with so many rows.

    `local` is a `Local` with `examples`; n, its number of rows, is taken as known to all.
    Poisson batches: so many sub-sampled Gaussians. A full batch: so many Gaussians. Shuffled
    batches: where a row goes, the last row of the order takes its place, so one batch of an epoch
    moves by at most two bounds and the last by one, and each epoch is one Gaussian of sensitivity
    √5 · clip (add-or-remove neighbours; the order is drawn in secret).

    >>> from muster.local import Local
    >>> from muster.privacy import PerExample
    >>> charge = charged(Local(epochs=2, batch=10, examples=PerExample(1.0, 1.1)), 100)
    >>> charge.selection == Selection("poisson", 0.1), charge.rounds
    (True, 20)
    """
    spec = local.examples
    if spec is None:
        raise PlanError(
            f"{local} keeps no row private; use Local(..., examples=PerExample(clip, multiplier))"
        )
    batch = min(rows, local.batch or rows)
    epoch = -(-rows // batch)
    steps = local.steps or local.epochs * epoch
    if batch == rows:
        return Charge(Release("gaussian", spec.multiplier, spec.clip), rounds=steps, run=run)
    if spec.batches == "poisson":
        release, drawn = Release("gaussian", spec.multiplier, spec.clip), batch / rows
        return Charge(release, Selection("poisson", drawn), steps, run)
    reach = math.sqrt(5)
    release = Release("gaussian", spec.multiplier / reach, spec.clip * reach)
    return Charge(release, rounds=-(-steps // epoch), run=run)


def promise(local: Any, rows: int, rounds: int, delta: float) -> Spent:
    """Return the privacy that a client with so many rows spends on each by training in all rounds.

    >>> from muster.local import Local
    >>> from muster.privacy import PerExample
    >>> local = Local(steps=100, batch=256, examples=PerExample(1.0, 1.1))
    >>> round(promise(local, 60000, 140, 1e-5).epsilon, 2)
    2.38
    """
    once = charged(local, rows)
    return spent([Charge(once.release, once.selection, once.rounds * rounds)], delta)
