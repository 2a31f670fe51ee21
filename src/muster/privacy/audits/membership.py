# SPDX-License-Identifier: Apache-2.0
"""Membership inference: can scores tell who took part from who did not?

Scores are higher for likely members: minus the loss (Yeom et al. 2018, arXiv 1709.01604), or a
likelihood ratio (Carlini et al. 2022, arXiv 2112.03570), which asks for the rate of true
positives at few false ones, as done here.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from muster.errors import MusterError
from muster.privacy.audits.interval import clopper_pearson

__all__ = ["auc", "epsilon_found", "tpr_at", "violates"]


def auc(members: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    """Return the chance that a member scores above another; ties count half.

    >>> auc(np.array([2.0, 3.0]), np.array([1.0, 2.0]))
    0.875
    """
    _check(members, others)
    below = np.searchsorted(np.sort(others), members, side="left")
    upto = np.searchsorted(np.sort(others), members, side="right")
    return float((below + upto).mean() / 2 / len(others))


def tpr_at(members: NDArray[np.float64], others: NDArray[np.float64], fpr: float = 0.001) -> float:
    """Return the share of members found by a threshold that accuses at most `fpr` of the others.

    >>> tpr_at(np.array([1.0, 5.0]), np.array([0.0, 2.0]), fpr=0.0)
    0.5
    """
    _check(members, others)
    allowed = math.floor(fpr * len(others) + 1e-9)
    if allowed >= len(others):
        return 1.0
    return float((members > np.sort(others)[-1 - allowed]).mean())


def epsilon_found(
    members: NDArray[np.float64],
    others: NDArray[np.float64],
    delta: float,
    threshold: float,
    confidence: float = 0.95,
) -> float:
    """Return the ε that an attack at a threshold chosen beforehand refutes, at a confidence.

    ln((TPR − δ)/FPR) with Clopper-Pearson bounds against the attacker, and the same for the
    complement (Nasr et al. 2021, arXiv 2101.04535). Choose the threshold on other scores.

    >>> scores = np.arange(1000.0)
    >>> round(epsilon_found(scores + 600, scores, 1e-5, 999.5), 2)
    5.04
    """
    _check(members, others)
    hits, false = int((members > threshold).sum()), int((others > threshold).sum())
    low, _ = clopper_pearson(hits, len(members), confidence)
    _, most = clopper_pearson(false, len(others), confidence)
    ratios = [(low - delta, most), (1 - most - delta, 1 - low)]
    return max([0.0, *(math.log(a / b) for a, b in ratios if a > 0 and b > 0)])


def violates(
    members: NDArray[np.float64],
    others: NDArray[np.float64],
    epsilon: float,
    delta: float,
    threshold: float,
) -> bool:
    """Return whether an attack did what (ε, δ) forbids: TPR ≤ e^ε FPR + δ. If so, there is a fault.

    At 99.9 % confidence, so that a hundred audits raise one false alarm in ten times.

    >>> scores = np.arange(1000.0)
    >>> violates(scores + 600, scores, 1.0, 1e-5, 999.5), violates(scores, scores, 1.0, 1e-5, 500.0)
    (True, False)
    """
    return epsilon_found(members, others, delta, threshold, 0.999) > epsilon


def _check(members: NDArray[np.float64], others: NDArray[np.float64]) -> None:
    if not (len(members) and len(others)) or np.isnan(members).any() or np.isnan(others).any():
        raise MusterError(
            f"{len(members)} members and {len(others)} others: at least one score of each, and no "
            f"NaN, is needed"
        )
