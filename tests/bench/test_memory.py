# SPDX-License-Identifier: Apache-2.0
"""Memory of a real server and a real site at the most for a model of 1 GB, each alone."""

import os
import shutil
import tempfile

import psutil
import pytest

pytest.importorskip("cryptography")
pytest.importorskip("sqlalchemy")
pytest.importorskip("uvicorn")
pytest.importorskip("httpx")

from bench import memory
from bench.memory import Case

GB = 250_000_000  # parameters
NEEDED = 6 << 30  # bytes of memory, and of the disk: those of a server with a state beside another


@pytest.fixture(autouse=True)
def _as_before(monkeypatch):
    """The bench tells its children by the environment; other tests have theirs."""
    monkeypatch.setattr(os, "environ", os.environ.copy())


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("side, part", [("server", memory.at_a_server), ("site", memory.at_a_site)])
def test_a_side_of_a_federation_holds_no_more_than_is_promised(side, part):
    """Downloads, a round, a commit, an evaluation and the export, of a model of 1 GB."""
    free = psutil.virtual_memory().available, shutil.disk_usage(tempfile.gettempdir()).free
    if min(free) < NEEDED:
        pytest.skip(f"{free} bytes of memory and disk are free, and {NEEDED} are needed")
    assert memory.ratio(part, Case(rounds=1), GB) <= memory.GOALS[side]
