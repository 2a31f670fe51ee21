# SPDX-License-Identifier: Apache-2.0
"""The plan, when it is evaluated and stops, and (in `registry`) the plan as plain data."""

from muster.plan.plan import Plan
from muster.plan.stopping import EarlyStopping, Every, Target

__all__ = ["EarlyStopping", "Every", "Plan", "Target"]
