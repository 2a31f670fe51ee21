# SPDX-License-Identifier: Apache-2.0
"""A run's facts by name and the records of its rounds, which its store keeps beside models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from muster.types import ClientId, Store

__all__ = ["FactStore", "invited"]


def invited(records: Iterable[Mapping[str, Any]]) -> set[ClientId]:
    """Everybody whom these rounds invited, whether or not they answered.

    >>> sorted(invited([{"invited": [2, 1]}, {"invited": [1]}]))
    [1, 2]
    """
    return {client for record in records for client in record.get("invited") or ()}


class FactStore(Store, Protocol):
    """A run's store in a folder, with facts about it (`SQLiteStore`, `FederationStore`)."""

    path: Path

    def facts(self) -> dict[str, Any]:
        """Return all facts about the run."""

    def meta(self, key: str) -> Any:
        """Return a fact, or None."""

    def note(self, **facts: Any) -> None:
        """Write facts, durable when it returns."""

    def superseded(self) -> list[tuple[int, dict[str, Any]]]:
        """Return the records that rollbacks went back before, each with the rollback's number."""

    def last_line(self) -> str:
        """Return the record of the last committed round as JSON."""

    def last_record(self) -> dict[str, Any]:
        """Return the same as a dict."""

    def amend(self, arrays: Mapping[str, Any], **facts: Any) -> None:
        """Put another state in the place of the last, with facts, and write over what was there."""

    def go_back(self, round: int, number: int, **facts: Any) -> None:
        """Make a version that is kept the last, with these facts, in one transaction."""
