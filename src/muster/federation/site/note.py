# SPDX-License-Identifier: Apache-2.0
"""A note in a study's folder: what a site tells itself later, replaced whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from muster.errors import RunError

__all__ = ["write_note"]


def write_note(path: Path, value: Mapping[str, Any]) -> None:
    """Put a value as JSON in the place of what was there. Raises `RunError`."""
    part = path.with_name(f"{path.name}.part")
    try:
        part.write_text(json.dumps(value), "utf-8")
        os.replace(part, path)
    except OSError as error:
        raise RunError(
            f"{path} cannot be written ({error.strerror or error}); repair the disk, then join "
            f"again"
        ) from error
