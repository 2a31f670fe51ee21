# SPDX-License-Identifier: Apache-2.0
"""The store makes a run durable."""

from muster.store.memory import MemoryStore
from muster.store.sqlite import SQLiteStore

__all__ = ["MemoryStore", "SQLiteStore"]
