# SPDX-License-Identifier: Apache-2.0
"""Every number of a page has a source in the record: typed in or of something else is found."""

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from tests.numerals import Page, Sources, unmoved
from tests.recorded import facts_of, history_of

from muster.runs import Run
from muster.web import compare, page, plots, report

SEEDS = range(16)


def words_of(paint, label, *, height=2.7, panels=1):
    """A picture as the words that are put into it: the ticks of its axes are matplotlib's own."""
    figure = Figure()
    paint(figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0])
    words = [one.get_text() for one in figure.findobj(Text) if one.get_text().strip()]
    inner = "".join(f"<text>{page.cell(one)}</text>" for one in words)
    return f'<svg aria-label="{page.cell(label)}">{inner}</svg>'


@dataclass(frozen=True)
class Recorded:
    """A run's record for a page, as JSON gives it back."""

    path: Path
    facts: dict[str, Any]
    history: list[dict[str, Any]]

    @property
    def id(self):
        return self.path.name

    directions, measured, warning = Run.directions, Run.measured, Run.warning
    trained, round = Run.trained, Run.round


def made(folder, seed, name="run"):
    """A run, all that was recorded of it and of one beside it, and that one."""
    rng = random.Random(seed)
    clients = [f"site {n}" for n in range(1, rng.randrange(5, 12))]
    rounds = rng.randrange(3, 15)
    records = [
        json.loads(json.dumps({"facts": facts, "history": history_of(rng, clients, rounds, late)}))
        for facts, late in ((facts_of(rng, clients), seed % 2 == 1), ({}, False))
    ]
    records[0]["facts"]["id"] = f"{name} {seed}"
    run, beside = (Recorded(folder / f"{name} {seed}", **one) for one in records)
    return run, records, beside


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """The texts of each report, and the sources that it may draw on."""
    folder, found = tmp_path_factory.mktemp("reports"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "draw", words_of)
        for seed in SEEDS:
            run, records, beside = made(folder, seed)
            path = report.write(run, baselines={"centralized": beside})
            found.append((Page.texts(path.read_text()), Sources.of(*records)))
    return found


@pytest.fixture(scope="module")
def comparisons(tmp_path_factory):
    """The same of pages that compare runs."""
    folder, found = tmp_path_factory.mktemp("comparisons"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "draw", words_of)
        for first, count in enumerate((2, 3, 5, 9, 10, 11, 12)):
            several = [made(folder, 20 * first + n, f"run {first}") for n in range(count)]
            path = compare.write([run for run, *_ in several], folder / f"{first}.html")
            sources = Sources.of(*(records[0] for _, records, _ in several))
            found.append((Page.texts(path.read_text()), sources))
    return found


def test_no_number_of_a_report_was_typed_in(reports):
    assert unmoved(document for document, _ in reports) == []


def test_every_number_of_a_report_is_in_the_record_or_follows_from_it(reports):
    assert [sources.lacking(document) for document, sources in reports] == [[]] * len(SEEDS)


def test_a_number_that_is_typed_in_is_found_by_its_standing_still(reports):
    documents = [[*document, ("", "95 of 100 clients delivered.")] for document, _ in reports]
    assert [one.partition(" in ")[0] for one in unmoved(documents)] == ["95", "100"]


@pytest.mark.parametrize("wrong", [lambda v: v + 0.0123, lambda v: v / 2, lambda v: 1 - v])
def test_a_number_of_something_else_is_found(reports, wrong):
    found = []
    for document, sources in reports:
        (shown,) = [float(text) for place, text in document if place.startswith("best accuracy")]
        assert sources.lacking([("", f"{shown:.4f}")]) == []
        found.append(sources.lacking([("", f"{wrong(shown):.4f}")]))
    # By chance another number of a record may be the same to four digits; not in most records.
    assert sum(map(bool, found)) > len(SEEDS) / 2


def test_no_number_of_a_comparison_was_typed_in(comparisons):
    assert unmoved(document for document, _ in comparisons) == []


def test_every_number_of_a_comparison_is_in_the_records_or_follows_from_them(comparisons):
    assert [
        found for document, sources in comparisons if (found := sources.lacking(document))
    ] == []
