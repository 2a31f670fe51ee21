# SPDX-License-Identifier: Apache-2.0
"""The origins of a plan's own functions, for another process to find them.

A plan file is loaded as a module under a name made from its stem; a worker loads the same file
under the same name, so that pickled references resolve without importing the user's `__main__`.
"""

from __future__ import annotations

import importlib
import importlib.util
import pickle
import pickletools
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, NoReturn

from muster.errors import PlanError

__all__ = ["Origin", "load", "origins", "travels"]


class Origin(NamedTuple):
    """A module by name, and the file it came from (empty for an installed one)."""

    name: str
    file: str


def load(origin: Origin) -> ModuleType:
    """Return the module, from `sys.modules`, its file or the import path.

    Raises `PlanError` for a file that does not exist.
    """
    if origin.name in sys.modules:
        return sys.modules[origin.name]
    if not origin.file:
        return importlib.import_module(origin.name)
    path = Path(origin.file)
    if not path.exists():
        raise PlanError(f"the plan file {origin.file} does not exist; give the path of one")
    return _importable(origin.name, path) or _executed(origin.name, path)


def _importable(name: str, path: Path) -> ModuleType | None:
    """Return the module by its name, where the import path leads to this very file."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    if spec is None or not spec.origin or Path(spec.origin).resolve() != path.resolve():
        return None
    return importlib.import_module(name)


def _executed(name: str, path: Path) -> ModuleType:
    """Return the file as a module of this name."""
    loader = _Fresh(name, str(path))
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    if spec is None or path.suffix != ".py":
        raise PlanError(f"{path} is not a Python file; a plan is written in one (plan.py)")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


class _Fresh(SourceFileLoader):
    """Compiles the file as it is: a stored copy is told by seconds and size, which may agree."""

    def path_stats(self, path: Any) -> NoReturn:
        """Raise `FileNotFoundError`: there is no stored copy."""
        raise FileNotFoundError(path)


def travels(value: Any) -> bytes | None:
    """Return the value pickled, or None where it refers to `__main__`, a lambda or a closure."""
    try:
        data = pickle.dumps(value, protocol=5)
    except (pickle.PicklingError, AttributeError, TypeError):
        return None
    if any(argument == "__main__" for _, argument, _ in pickletools.genops(data)):
        return None
    return data


def origins(data: bytes) -> tuple[Origin, ...]:
    """Return the modules outside muster that a pickled value may refer to, with their files."""
    words = {a for _, a, _ in pickletools.genops(data) if isinstance(a, str)}
    names = {part for word in words for part in word.split(" ")}
    modules = ((name, sys.modules[name]) for name in sorted(names & set(sys.modules)))
    return tuple(
        Origin(name, str(module.__file__))
        for name, module in modules
        if getattr(module, "__file__", None) and not name.startswith(("muster.", "numpy"))
    )
