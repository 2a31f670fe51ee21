# SPDX-License-Identifier: Apache-2.0
"""A figure as inline SVG: same data, same bytes; colours are CSS variables of the page.

Text stays text and takes the page's font. Nothing touches pyplot: settings hold only while one
figure is drawn. Names given by users are never read as mathematics.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from muster.extras import require

__all__ = [
    "COLOURS",
    "INK",
    "PAPER",
    "RULE",
    "SOFT",
    "THEME",
    "draw",
    "ends",
    "plain",
    "rounds_axis",
]

INK, SOFT, RULE, PAPER = "#1d2731", "#55616e", "#d8dee4", "#fefefe"
# Blue, vermilion, green, purple, ochre, slate: Okabe and Ito's hues, dark enough for text.
COLOURS = ("#0069a8", "#bf4a00", "#00785a", "#9c3f78", "#8a6400", "#56606b")
# CSS variable: (light, dark). The light value is what the figures are drawn with.
THEME = {
    "ink": (INK, "#e6eaee"),
    "soft": (SOFT, "#a3afbb"),
    "rule": (RULE, "#36414c"),
    "paper": (PAPER, "#161c22"),
    "c0": (COLOURS[0], "#5db4ee"),
    "c1": (COLOURS[1], "#ff935a"),
    "c2": (COLOURS[2], "#45c9a3"),
    "c3": (COLOURS[3], "#e08fc2"),
    "c4": (COLOURS[4], "#e0b64a"),
    "c5": (COLOURS[5], "#a9b4bf"),
}

WIDTH = 5.6  # inches; two stand side by side on a wide page
SIZE = 9.5  # points

STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": SIZE,
    "axes.titlesize": SIZE,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "text.color": INK,
    "axes.labelcolor": SOFT,
    "axes.edgecolor": RULE,
    "axes.titlecolor": INK,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "ytick.major.size": 0,
    "axes.spines.left": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "axes.linewidth": 0.8,
    "axes.titlelocation": "left",
    "axes.formatter.useoffset": False,
}


def draw(
    paint: Callable[[Sequence[Any]], None], label: str, *, height: float = 2.7, panels: int = 1
) -> str:
    """Return the SVG of what `paint` does to its axes; `label` says what the figure shows."""
    matplotlib = require("matplotlib", extra="report")
    figures = require("matplotlib.figure", extra="report")
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": label}), warnings.catch_warnings():
        # A name in a script the measuring font lacks is still shown in the page's own font.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
        figure = figures.Figure(figsize=(WIDTH, height), layout="constrained")
        paint(figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0])
        text = io.StringIO()
        empty = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(text, format="svg", metadata=empty)
    return _inline(text.getvalue(), label)


def _inline(svg: str, label: str) -> str:
    """Return the figure as a page needs it: no prolog, no metadata, no ids that two would share."""
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    box = re.search(r'viewBox="[^"]*"', svg)
    assert box is not None
    head = f'<svg {box[0]} role="img" aria-label="{escape(label)}">'
    svg = head + svg[svg.index(">") + 1 :]
    svg = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r"font: ([^;\"]*?[\d.]+px) [^;\"]*", r"font: \1 var(--sans, sans-serif)", svg)
    names = {light: name for name, (light, _) in THEME.items()}
    return re.sub(
        r"(fill|stroke): (#[0-9a-f]{6})",
        lambda m: f"{m[1]}: var(--{names[m[2]]})" if m[2] in names else m[0],
        svg,
    )


def plain(name: Any, most: int = 22) -> str:
    r"""Return a name on one line, without control characters, cut after `most` characters.

    >>> plain("a\nvery   long name", 8)
    'a very …'
    """
    text = " ".join("".join(c if c.isprintable() else " " for c in str(name)).split())
    return text if len(text) <= most else text[: most - 1] + "…"


def ends(axes: Any, labels: Sequence[tuple[float, str, str]]) -> None:
    """Write labels `(y, text, colour)` right of the axes at their heights, apart where needed."""
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    where = axes.transData + axes.transAxes.inverted()
    wanted = sorted((float(where.transform((1, y))[1]), text, c) for y, text, c in labels)
    inches = axes.figure.get_figheight() / len(axes.figure.axes) - 0.55
    gap = 1.25 * SIZE / 72 / max(inches, 0.5)
    places: list[float] = []
    for place, *_ in wanted:
        places.append(max(place, places[-1] + gap) if places else place)
    shift = [p - w[0] for p, w in zip(places, wanted, strict=True)]
    slack = sum(shift) / len(shift) if shift else 0.0  # as much down as up
    slack = max(slack, places[-1] - 1.02) if places else slack  # but not into the title
    for place, (_, text, colour) in zip(places, wanted, strict=True):
        axes.text(1.015, place - slack, text, color=colour, transform=axes.transAxes, va="center")


def rounds_axis(axes: Any, rounds: Sequence[int]) -> None:
    """Label whole rounds along x, from the first to the last of these."""
    ticker = require("matplotlib.ticker", extra="report")
    axes.xaxis.set_major_locator(ticker.MaxNLocator(nbins=7, integer=True, min_n_ticks=1))
    low, high = min(rounds), max(rounds)
    room = 0.5 if low == high else (high - low) * 0.015
    axes.set_xlim(low - room, high + room)
    axes.set_xlabel("round")
