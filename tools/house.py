# SPDX-License-Identifier: Apache-2.0
"""The repository as parsed files, for the house rules to look at."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

FOLDERS = ("src", "tests", "tools", "examples", "bench")

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Finding(NamedTuple):
    """One fault: where, and what to change."""

    path: Path
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}"


class Import(NamedTuple):
    """One imported module, with its dotted name, and whether a function's call triggers it."""

    line: int
    target: str
    inside: bool
    typing: bool


@dataclass(frozen=True)
class File:
    """One parsed source file; `path` is relative to the repository."""

    path: Path
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        """The syntax tree."""
        return ast.parse(self.text, str(self.path))

    @property
    def lines(self) -> int:
        """Lines in all."""
        return len(self.text.splitlines())

    @cached_property
    def module(self) -> str:
        """The dotted name of a file under src."""
        parts = self.path.with_suffix("").parts[1:]
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @property
    def room(self) -> str:
        """The file or folder of src/muster that this file is or stands in."""
        parts = self.module.split(".")
        return parts[1] if len(parts) > 1 else parts[0]

    def functions(self) -> Iterator[Function]:
        """Yield every function and method, nested ones too."""
        return (node for node in ast.walk(self.tree) if isinstance(node, Function))

    def finding(self, line: int, message: str) -> Finding:
        """Return a fault in this file."""
        return Finding(self.path, line, message)


class House:
    """The Python files of a repository."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files = [
            File(path.relative_to(root), path.read_text(encoding="utf-8"))
            for folder in FOLDERS
            for path in sorted((root / folder).rglob("*.py"))
        ]
        self.source = [file for file in self.files if file.path.parts[0] == "src"]
        self.modules = {file.module for file in self.source}

    def imports(self, file: File) -> Iterator[Import]:
        """Yield every import of a file, `from package import module` resolved to the module."""
        inside = {id(n) for f in file.functions() for n in ast.walk(f)}
        hidden = {
            id(n)
            for block in ast.walk(file.tree)
            if isinstance(block, ast.If) and ast.unparse(block.test).endswith("TYPE_CHECKING")
            for n in ast.walk(block)
        }
        for node in ast.walk(file.tree):
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                targets = self._from(file, node)
            else:
                continue
            for target in targets:
                yield Import(node.lineno, target, id(node) in inside, id(node) in hidden)

    def _from(self, file: File, node: ast.ImportFrom) -> list[str]:
        origin = node.module or ""
        if node.level:
            up = node.level - (file.path.name == "__init__.py")
            parts = file.module.split(".")
            origin = ".".join([*parts[: len(parts) - up], *filter(None, [node.module])])
        names = [f"{origin}.{alias.name}" for alias in node.names]
        return sorted({name if name in self.modules else origin for name in names})
