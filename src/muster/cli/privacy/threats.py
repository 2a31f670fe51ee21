# SPDX-License-Identifier: Apache-2.0
"""The table of who learns what of a client, on a terminal: of a run, or of a site."""

from __future__ import annotations

from collections.abc import Sequence

from muster.cli import screen
from muster.extras import require
from muster.privacy.threats import Threat

__all__ = ["tell"]

Text = require("rich.text", extra="site").Text


def tell(lines: Sequence[Threat]) -> None:
    """Print the lines; none are known before the first sum of a plan that masks its sums."""
    screen.say()
    if not lines:
        screen.say("Who learns what of a client is known after the first masked sum.")
        return
    screen.say(Text("Who learns what of a client", "bold"))
    rows: list[tuple[str, str, str]] = []
    for line in lines:
        rows += [
            (line.reader, "learns", line.learns),
            ("", "rests on", line.rests_on),
            ("", "test", line.test),
        ]
    screen.say(screen.table(("", "", ""), rows, left=3))
