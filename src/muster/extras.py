# SPDX-License-Identifier: Apache-2.0
"""The one door to optional packages: `require("torch", extra="torch")`, and how to get them."""

from __future__ import annotations

import importlib
from types import ModuleType

from muster.errors import MissingExtra

__all__ = ["DISTRIBUTION", "install_command", "require"]

DISTRIBUTION = "muster-fl"  # on the package index, where `muster` belongs to somebody else


def install_command(*extras: str) -> str:
    """Return the command that installs muster with these extras.

    >>> install_command("torch", "report")
    "pip install 'muster-fl[torch,report]'"
    """
    return f"pip install '{DISTRIBUTION}[{','.join(extras)}]'"


def require(module: str, extra: str) -> ModuleType:
    """Import an optional module, or say which extra brings it.

    Raises `MissingExtra` when the package is not installed.

    >>> require("json", extra="none").__name__
    'json'
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.split(".")[0]:
            raise
        raise MissingExtra(
            f"this needs the package {module.split('.')[0]!r}, which is not installed; "
            f"install it with: {install_command(extra)}"
        ) from error
