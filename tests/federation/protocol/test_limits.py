# SPDX-License-Identifier: Apache-2.0
"""The bounds in one place: numbers that fit together. Each is met where it is used."""

from pathlib import Path

from muster.federation.protocol import limits

DEPLOY = Path(__file__).parents[3] / "deploy"


def test_what_members_claim_adds_up():
    """A hundred thousand members with as many rows as may be fit into 64 bits, and into a float."""
    assert 100_000 * limits.ROWS < 1 << 63
    assert limits.ANSWERS * limits.ROWS < 1 << 62


def test_a_process_can_hold_what_the_bounds_allow():
    """The units ask for descriptors enough for all connections and what is kept beside them."""
    assert limits.CONNECTIONS + limits.DESCRIPTORS < 1 << 16
    units = sorted(DEPLOY.glob("*.service"))
    assert len(units) == 2 and all(f"LimitNOFILE={1 << 16}\n" in unit.read_text() for unit in units)


def test_the_page_of_the_wire_says_these_bounds():
    page = " ".join((DEPLOY.parent / "docs" / "wire.md").read_text().split())
    for said in (
        f"{limits.CONNECTIONS} connections",
        f"{limits.HANDSHAKES} handshakes",
        f"{limits.EACH} connections of one certificate",
        f"{limits.DOWNLOADS} models at once",
        f"{limits.RATE:g} requests a second",
        f"{limits.BURST:g} at once",
        f"{limits.ENROLMENTS} enrolments a day",
        f"{limits.DISK >> 20} MiB",
        f"{limits.WINDOW >> 20} MiB of window",
        f"{limits.LINES} lines a minute",
    ):
        assert said in page, said
