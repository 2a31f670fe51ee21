# SPDX-License-Identifier: Apache-2.0
"""A page escapes all that is not markup, and its tables say what heads what."""

from muster.web import page
from muster.web.page import Markup


def test_text_is_escaped_once_and_markup_kept():
    assert page.cell("<a & b>") == "&lt;a &amp; b&gt;"
    assert page.cell(page.cell("<a>")) == "&lt;a&gt;"
    assert page.cell(Markup("<i>")) == "<i>"
    assert page.cell(3) == "3"


def test_every_part_escapes():
    parts = [
        page.header("<x>", "<x>", "<x>"),
        page.section("<x>", "<x>", ""),
        page.paragraph("<x>"),
        page.key_numbers([("<x>", "<x>")]),
        page.figure(Markup("<svg></svg>"), "<x>"),
        page.table(["<x>", "<x>"], [["<x>", "<x>"]], "<x>"),
        page.details("<x>", Markup("")),
        page.figures(instead="<x>"),
    ]
    text = page.page("<x>", parts)
    assert "<x>" not in text and text.count("&lt;x&gt;") == 17


def test_table_semantics():
    text = page.table(["run", "loss"], [["a", "0.1"]], "two runs")
    assert "<caption>two runs</caption>" in text
    assert '<th scope="col">run</th><th scope="col" class="n">loss</th>' in text
    assert '<th scope="row">a</th><td class="n">0.1</td>' in text
