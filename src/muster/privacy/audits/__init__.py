# SPDX-License-Identifier: Apache-2.0
"""Attacks as measurements: what a release reveals at least, beside what it may at most."""

from muster.privacy.audits.canary import canary, canary_epsilon, cosine, hockey_stick
from muster.privacy.audits.interval import clopper_pearson, one_run_epsilon
from muster.privacy.audits.inversion import best_match, label, linear_input, matched, psnr
from muster.privacy.audits.membership import auc, epsilon_found, tpr_at, violates

__all__ = [
    "auc",
    "best_match",
    "canary",
    "canary_epsilon",
    "clopper_pearson",
    "cosine",
    "epsilon_found",
    "hockey_stick",
    "label",
    "linear_input",
    "matched",
    "one_run_epsilon",
    "psnr",
    "tpr_at",
    "violates",
]
