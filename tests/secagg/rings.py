# SPDX-License-Identifier: Apache-2.0
"""Rings for as few clients as a test can play."""

import pytest


@pytest.fixture
def rings(monkeypatch):
    """Rings from twenty clients up, where the product would still take the complete graph."""
    graph = pytest.importorskip("muster.secagg.graph")
    monkeypatch.setattr(graph, "FULL", 20)
    graph.graph_of.cache_clear()
    yield
    graph.graph_of.cache_clear()
