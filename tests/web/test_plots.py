# SPDX-License-Identifier: Apache-2.0
"""Pictures are valid, deterministic, self-contained, and say in words what they show."""

import xml.etree.ElementTree as ET

import matplotlib as mpl
import pytest

from muster.web import plots

POINTS = [(round, 0.5 + round / 100) for round in range(1, 21)]
PARTS = {"mean": 0.5, "weighted": 0.5, "p10": 0.4, "p50": 0.5, "p90": 0.6, "worst": 0.3}
EACH = [(n, n / 100) for n in range(30)]
HELD = {"clients": ["a", "b"], "rows": [1, 2], "labels": [[1, 0], [1, 1]]}

DRAWN = {
    "metric": lambda: plots.metric(POINTS, "accuracy", {"centralized": 0.8}, "central test rows"),
    "metric, one round": lambda: plots.metric(POINTS[:1], "accuracy", {}, "central test rows"),
    "metric, flat": lambda: plots.metric(
        [(1, 0.0), (2, 0.0)], "accuracy", {"a": 0.0}, "central test rows"
    ),
    "curves": lambda: plots.curves(
        {f"run {n}": POINTS for n in range(12)}, "accuracy", lower=False
    ),
    "spread": lambda: plots.spread([(1, PARTS), (2, PARTS)], "accuracy"),
    "spread, one round": lambda: plots.spread([(1, PARTS)], "accuracy"),
    "clients, few": lambda: plots.clients(EACH[:3], "accuracy", lower=False),
    "clients, many": lambda: plots.clients(EACH, "loss", lower=True),
    "clients, alike": lambda: plots.clients([(n, 1.0) for n in range(99)], "accuracy", lower=False),
    "training": lambda: plots.training(POINTS, "drift", 1),
    "traffic": lambda: plots.traffic({"up": POINTS, "down": [(1, 2e9), (3, 1e9)]}),
    "traffic, none": lambda: plots.traffic({"up": [(1, 0.0)]}),
    "pace": lambda: plots.pace(POINTS),
    "pace, long": lambda: plots.pace([(n, 0.1) for n in range(1, 500)]),
    "holdings": lambda: plots.holdings(HELD),
    "holdings, rows alone": lambda: plots.holdings(HELD | {"labels": None}),
    "holdings, many": lambda: plots.holdings(
        {"clients": list(range(300)), "rows": [5] * 300, "labels": [[0, 2, 3]] * 300}
    ),
    "holdings, empty labels": lambda: plots.holdings(HELD | {"labels": [[0, 0], [0, 0]]}),
}


@pytest.mark.parametrize("name", DRAWN)
def test_every_picture(name):
    before = dict(mpl.rcParams)
    svg = DRAWN[name]()
    assert svg == DRAWN[name]()
    assert dict(mpl.rcParams) == before
    root = ET.fromstring(svg)
    assert root.tag == "svg" and root.get("role") == "img" and root.get("aria-label")
    assert "http" not in svg and "<metadata" not in svg and "<!" not in svg
    ids = {element.get("id") for element in root.iter() if element.get("id")}
    for element in root.iter("use"):
        assert element.get("href").removeprefix("#") in ids


def test_colours_follow_the_page():
    svg = plots.metric(POINTS, "accuracy", {"centralized": 0.8}, "central test rows")
    assert "stroke: var(--c0)" in svg and "stroke: var(--c1)" in svg and "#0069a8" not in svg


def test_the_label_says_what_is_shown():
    svg = plots.metric(POINTS, "accuracy", {"centralized": 0.8}, "central test rows")
    label = ET.fromstring(svg).get("aria-label")
    assert label == (
        "accuracy by round, from 0.5100 in round 1 to 0.7000 in round 20; centralized 0.8000"
    )
    assert "worst 0.2900 at client 29" in plots.clients(EACH, "loss", lower=True)
    assert "worst 0.0000 at client 0" in plots.clients(EACH, "accuracy", lower=False)
    assert "all: up 600 B" in plots.traffic({"up": [(1, 250.0), (2, 350.0)]})
