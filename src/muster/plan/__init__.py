# SPDX-License-Identifier: Apache-2.0
"""The plan, when it is evaluated and stops, what it keeps, and (in `registry`) it as plain data."""

from muster.plan.keep import Keep
from muster.plan.plan import Plan
from muster.plan.stopping import EarlyStopping, Every, Target

__all__ = ["EarlyStopping", "Every", "Keep", "Plan", "Target"]
