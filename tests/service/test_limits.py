# SPDX-License-Identifier: Apache-2.0
"""The bounds in one place: numbers that fit together. Each is met where it is used."""

from muster.service import limits


def test_what_members_claim_adds_up():
    """A hundred thousand members with as many rows as may be fit into 64 bits, and into a float."""
    assert 100_000 * limits.ROWS < 1 << 63
    assert limits.ANSWERS * limits.ROWS < 1 << 62
