# SPDX-License-Identifier: Apache-2.0
"""The privacy of single rows in a run: the worst client's, and what may be said of it."""

from muster.privacy.rows.parallel import Held, Worst, affords, worst
from muster.privacy.rows.statement import Charged, RowFacts, row_statement

__all__ = ["Charged", "Held", "RowFacts", "Worst", "affords", "row_statement", "worst"]
