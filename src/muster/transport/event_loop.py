# SPDX-License-Identifier: Apache-2.0
"""The event loop of a server or a site: uvloop's where it is installed, which is faster."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Callable

from muster.extras import require

__all__ = ["loop_factory"]


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """Choose how to make the event loop, for `asyncio.Runner`.

    A site need not have uvloop.
    """
    if importlib.util.find_spec("uvloop") is None:
        return asyncio.new_event_loop
    found: Callable[[], asyncio.AbstractEventLoop] = require("uvloop", "service").new_event_loop
    return found
