# SPDX-License-Identifier: Apache-2.0
"""Tasks, one file per framework: `muster.tasks.numpy`, `.torch`, `.jax`, `.custom`.

Each is imported when first asked for, so that no framework is loaded unless it is used.
"""

from __future__ import annotations

import importlib
from types import ModuleType

__all__ = ["custom", "jax", "numpy", "torch"]


def __getattr__(name: str) -> ModuleType:
    if name in __all__:
        return importlib.import_module(f"muster.tasks.{name}")
    raise AttributeError(f"module 'muster.tasks' has no attribute {name!r}")
