# SPDX-License-Identifier: Apache-2.0
"""Every bound on what a stranger, a member or a server can make the other side hold, in one place.

Whoever needs a bound imports it from here, and a test stands at each one. Bytes and seconds,
unless a line says otherwise.
"""

from __future__ import annotations

__all__ = ["ANSWERS", "LARGEST", "ROWS", "SLACK"]

# What a member claims.
ROWS = 1 << 40  # rows of one member: a hundred thousand members fit into 64 bits together
ANSWERS = 1 << 20  # answers of one row, such as the positions of a text, that a member measures
LARGEST = 1e290  # the size of a sum: that of a million members is a finite number as well
SLACK = 1e-3  # by which a row's value may lie outside of its range: sums are rounded
