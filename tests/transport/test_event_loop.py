# SPDX-License-Identifier: Apache-2.0
"""The loop is uvloop's where that is installed, and the standard library's where it is not."""

import asyncio
from importlib.util import find_spec

import pytest

from muster.transport import event_loop


def test_without_uvloop_a_site_runs_on_the_loop_of_the_standard_library(monkeypatch):
    monkeypatch.setattr(event_loop.importlib.util, "find_spec", lambda name: None)
    assert event_loop.loop_factory() is asyncio.new_event_loop


def test_with_uvloop_its_loop_is_taken():
    if find_spec("uvloop") is None:
        pytest.skip("uvloop is not installed")
    loop = event_loop.loop_factory()()
    loop.close()
    assert type(loop).__module__.startswith("uvloop")
