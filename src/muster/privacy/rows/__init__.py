# SPDX-License-Identifier: Apache-2.0
"""What a run reveals of single rows, over all clients: the worst client's, and what may be said."""

from muster.privacy.rows.parallel import Held, Worst, affords, worst
from muster.privacy.rows.statement import Charged, RowFacts, row_statement

__all__ = ["Charged", "Held", "RowFacts", "Worst", "affords", "row_statement", "worst"]
