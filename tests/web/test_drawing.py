# SPDX-License-Identifier: Apache-2.0
"""Labels never overlap; names become one short line."""

from itertools import pairwise

import matplotlib.figure

from muster.web.drawing import SIZE, ends, plain


def test_labels_move_apart():
    figure = matplotlib.figure.Figure(figsize=(5, 2.7))
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1])
    ends(axes, [(y, str(y), "red") for y in (0.99, 1.0, 0.98, 0.2)])
    places = {text.get_text(): text.get_position()[1] for text in axes.texts}
    assert sorted(places, key=places.get) == ["0.2", "0.98", "0.99", "1.0"]
    heights = sorted(places.values())
    line = SIZE / 72 / (2.7 * axes.get_position().height)
    assert all(b - a > line for a, b in pairwise(heights))
    assert heights[-1] < 1.03


def test_no_labels_are_no_trouble():
    axes = matplotlib.figure.Figure().subplots()
    ends(axes, [])
    assert not axes.texts


def test_names_become_one_short_line():
    assert plain("a\x00\n b\t c") == "a b c"
    assert plain("x" * 30) == "x" * 21 + "…"
    assert plain(7) == "7"
