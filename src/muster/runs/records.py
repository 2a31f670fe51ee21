# SPDX-License-Identifier: Apache-2.0
"""A run as those see it who only read what it recorded."""

from __future__ import annotations

from typing import Any, Protocol

__all__ = ["RecordedRun"]


class RecordedRun(Protocol):
    """Facts and records of a run (`runs.Run` is one)."""

    facts: dict[str, Any]
    history: list[dict[str, Any]]
    superseded: list[tuple[int, dict[str, Any]]]

    @property
    def trained(self) -> list[dict[str, Any]]:
        """The records of the rounds, without version 0."""
