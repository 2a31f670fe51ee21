# SPDX-License-Identifier: Apache-2.0
"""The plan file of the federation among the cases of `tools/bits_plans.py`."""

from bits_plans import population, served

plan = served

__all__ = ["plan", "population"]
