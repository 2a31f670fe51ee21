# SPDX-License-Identifier: Apache-2.0
"""Pages for people: the report of one run, and several runs side by side."""

from muster.web import compare, report

__all__ = ["compare", "report"]
