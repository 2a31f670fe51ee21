# SPDX-License-Identifier: Apache-2.0
"""How replies become one: the mean here; rules that need every reply are its siblings."""

from muster.aggregation.mean import Mean

__all__ = ["Mean"]
