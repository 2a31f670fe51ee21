# SPDX-License-Identifier: Apache-2.0
"""A run's facts by name and the records of its rounds, which its store keeps beside models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

__all__ = ["FactStore"]


class FactStore(Protocol):
    """A store that keeps facts about its run (`SQLiteStore`, `FederationStore`)."""

    path: Path

    def meta(self, key: str) -> Any:
        """Return a fact, or None."""

    def note(self, **facts: Any) -> None:
        """Write facts, durable when it returns."""

    def history(self) -> list[dict[str, Any]]:
        """Return the records of the committed rounds."""

    def superseded(self) -> list[tuple[int, dict[str, Any]]]:
        """Return the records that rollbacks went back before, each with the rollback's number."""

    def last_record(self) -> dict[str, Any]:
        """Return the record of the last round that is committed."""

    def amend(self, arrays: Mapping[str, Any], **facts: Any) -> None:
        """Put another state in the place of the last, with facts, and write over what was there."""
