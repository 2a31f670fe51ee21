# SPDX-License-Identifier: Apache-2.0
"""Differential privacy: mechanisms, their accounting, the budget, the statement and audits."""

from muster.privacy.accounting import Spent, check_delta, noise_multiplier, rounds_for, spent
from muster.privacy.examples import charged, promise
from muster.privacy.gaussian import gaussian_delta, gaussian_deviation, gaussian_epsilon
from muster.privacy.ledger import Budget, LedgerEntry, PrivacyLedger
from muster.privacy.per_example import PerExample
from muster.privacy.randomness import Secret
from muster.privacy.release import Charge, Release, Selection
from muster.privacy.statement import AuditFinding, Statement, StatementInputs, statement

__all__ = [
    "AuditFinding",
    "Budget",
    "Charge",
    "LedgerEntry",
    "PerExample",
    "PrivacyLedger",
    "Release",
    "Secret",
    "Selection",
    "Spent",
    "Statement",
    "StatementInputs",
    "charged",
    "check_delta",
    "gaussian_delta",
    "gaussian_deviation",
    "gaussian_epsilon",
    "noise_multiplier",
    "promise",
    "rounds_for",
    "spent",
    "statement",
]
