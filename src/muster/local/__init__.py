# SPDX-License-Identifier: Apache-2.0
"""Local training: what a plan says of it, one pass of it, and a client's whole round."""

from muster.local.descent import Carry, Descent, Given, Walk
from muster.local.local import Local
from muster.local.training import Group, Memory, Outcome, train

__all__ = ["Carry", "Descent", "Given", "Group", "Local", "Memory", "Outcome", "Walk", "train"]
