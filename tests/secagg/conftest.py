# SPDX-License-Identifier: Apache-2.0
"""What the tests of secure sums share."""

import pytest

from muster.secagg import graph


@pytest.fixture
def rings(monkeypatch):
    """Rings from twenty clients up, where the product would still take the complete graph."""
    monkeypatch.setattr(graph, "FULL", 20)
    graph.graph_of.cache_clear()
    yield
    graph.graph_of.cache_clear()
