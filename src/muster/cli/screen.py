# SPDX-License-Identifier: Apache-2.0
"""Printing for every command: tables for people, JSON for programs, errors in a sentence."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

__all__ = [
    "Json",
    "Wrong",
    "complain",
    "console",
    "emit",
    "leading",
    "number",
    "path",
    "plain",
    "say",
    "shown",
    "size",
    "span",
    "spark",
    "table",
]

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Wrong: Any = typer.BadParameter.__mro__[1]  # wrong usage, in whichever click typer stands on
BARS = "▁▂▃▄▅▆▇█"
WIDE = 500  # columns where the output is no terminal: nothing is cut short there


def console(*, stderr: bool = False) -> Console:
    """Return the terminal, or plain text of a fixed width for a file or a pipe."""
    found = Console(stderr=stderr, highlight=False, soft_wrap=True)
    if not found.is_terminal:
        found = Console(stderr=stderr, highlight=False, soft_wrap=True, width=WIDE)
    return found


def say(text: str | Text | Table = "") -> None:
    """Print a line, with rich's markup."""
    console().print(text)


def shown(text: str) -> str:
    r"""Return a text without what steers a terminal.

    >>> shown("a\x1b[31mb")
    'a?[31mb'
    """
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def complain(error: Exception) -> None:
    """Print an error in a sentence on the standard error."""
    head, *rest = str(error).splitlines() or [type(error).__name__]
    text = Text.assemble(("error: ", "bold red"), head)
    console(stderr=True).print(text)
    for line in rest:
        console(stderr=True).print(Text(f"  {line}", "dim"))


def emit(value: Any, *, stderr: bool = False) -> None:
    """Print a value as one line of JSON, at once; what is not finite becomes null."""
    stream = sys.stderr if stderr else sys.stdout
    stream.write(json.dumps(plain(value)) + "\n")
    stream.flush()


def plain(value: Any) -> Any:
    """Return a value that JSON can hold."""
    if isinstance(value, dict):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    return value.tolist() if hasattr(value, "tolist") else str(value)


def table(heads: Sequence[str], rows: Iterable[Sequence[str | Text]], left: int = 1) -> Table:
    """Return a table without lines; the first `left` columns are words, the others figures.

    A cell that is a `str` is markup; words from elsewhere are given as `Text`, and printed as they
    are. Where it is too wide, words are folded; ids (the first column) and figures stay whole.
    """
    made = Table(
        box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", show_header=any(heads)
    )
    for place, head in enumerate(heads):
        words = place < left
        made.add_column(
            head,
            justify="left" if words else "right",
            no_wrap=not words or not place,
            overflow="fold",
        )
    for row in rows:
        made.add_row(*row)
    return made


def number(value: Any) -> str:
    """Return a metric as people read it.

    >>> number(0.94521), number(1234567.0), number(3e-7), number(None)
    ('0.9452', '1.235e+06', '3e-07', '–')
    """
    if value is None:
        return "–"
    small = 1e-3 <= abs(value) < 1e4 or value == 0
    return f"{value:.4f}" if small else f"{value:.4g}"


def size(count: float | None) -> str:
    """Return bytes as people read them.

    >>> size(999), size(1234567)
    ('999 B', '1.2 MB')
    """
    if count is None:
        return "–"
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"


def span(seconds: float | None) -> str:
    """Return a duration as people read it.

    >>> span(0.0123), span(2.5), span(75), span(7300)
    ('12 ms', '2.5 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds is None:
        return "–"
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms" if seconds >= 0.0095 else f"{1000 * seconds:.1f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def spark(values: Sequence[float]) -> str:
    """Return a series as a line of small bars.

    >>> spark([0.0, 0.5, 1.0])
    '▁▅█'
    """
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return ""
    low, high = min(finite), max(finite)
    scale = (len(BARS) - 1) / (max(high - low, 0.02 * abs(high)) or 1)  # a wobble stays small
    return "".join(BARS[math.floor((value - low) * scale + 0.5)] for value in finite)


def path(place: Path) -> str:
    """Return a path as short as it can be said from here."""
    try:
        return str(place.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(place)


def leading(names: Iterable[str]) -> str | None:
    """Return the metric to show first: the plan's own first one, before the loss.

    >>> leading(["loss", "accuracy"])
    'accuracy'
    """
    names = list(names)
    return next((name for name in names if name != "loss"), names[0] if names else None)
