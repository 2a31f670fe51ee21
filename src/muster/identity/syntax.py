# SPDX-License-Identifier: Apache-2.0
"""Source as syntax trees: what a statement says, whatever comments and layout say beside it.

A tree is written out by this module's own rules, because `ast.dump` differs between releases of
Python: fields that are empty are left out, so a field that a later release adds changes nothing.
"""

from __future__ import annotations

import ast
import copy
import symtable
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from types import CodeType
from typing import Literal, NamedTuple

__all__ = ["Imported", "SourceStatement", "Unit", "canonical", "parsed", "piece"]

SILENT = {"ctx", "kind", "type_comment", "type_ignores"}  # fields that change nothing
Comprehension = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
Scope = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


class Imported(NamedTuple):
    """A name that an import binds: to a module, or to `name` in it ("*" for all of them)."""

    local: str
    module: str
    name: str
    level: int


# "filled": an assignment of an empty container, which functions fill as they run
Kind = Literal["import", "definition", "block", "filled", "other"]


@dataclass(frozen=True)
class SourceStatement:
    """A statement: the names it binds, what it says, and what it looks up outside itself.

    `names` are looked up among the module's; `chains` are those and others with the attributes
    read from them, such as "nn.Linear"; `imports` all that it imports, at whatever depth.
    """

    binds: frozenset[str]
    text: str
    names: frozenset[str]
    chains: frozenset[str]
    imports: tuple[Imported, ...]
    kind: Kind = "other"


@dataclass(frozen=True)
class Unit:
    """A parsed source: its tree, its top-level statements, and the globals that functions set."""

    tree: ast.Module
    pieces: tuple[SourceStatement, ...]
    moving: frozenset[str]

    def binding(self, name: str) -> tuple[SourceStatement, ...]:
        """Return the statements that bind a name or change what it is bound to."""
        return tuple(piece for piece in self.pieces if name in piece.binds)

    def function(self, code: CodeType) -> ast.AST | None:
        """Return the definition that a code object was compiled from."""
        found = [node for node in ast.walk(self.tree) if _begins(node, code)]
        if len(found) > 1:  # lambdas on one line: the one that holds its columns, and no other
            inside = [node for node in found if _holds(node, code)]
            found = sorted(inside, key=_start, reverse=True)
        return found[0] if found else None

    def kind(self, name: str, code: CodeType) -> ast.AST | None:
        """Return the class of a name around a function's code."""
        line = code.co_firstlineno
        found = [
            node
            for node in ast.walk(self.tree)
            if isinstance(node, ast.ClassDef)
            and node.name == name
            and node.lineno <= line <= (node.end_lineno or line)
        ]
        return found[-1] if found else None


def canonical(node: object) -> str:
    """Return a tree as text without docstrings and `pass`, the same under every release of Python.

    >>> canonical(ast.parse("f = (x +  1)  # more")) == canonical(ast.parse("f = x + 1"))
    True
    """
    if isinstance(node, ast.AST):
        parts = []
        for name, value in ast.iter_fields(node):
            if name == "body" and isinstance(value, list):
                value = _said(node, value)
            elif isinstance(node, ast.JoinedStr):
                value = _merged(value)
            if name not in SILENT and value is not None and value != []:
                parts.append(f"{name}={canonical(value)}")
        return f"{type(node).__name__}({', '.join(parts)})"
    if isinstance(node, list):
        return f"[{', '.join(map(canonical, node))}]"
    return repr(node)


def _said(node: ast.AST, body: list[ast.stmt]) -> list[ast.stmt]:
    """Return a body without its docstring and `pass`."""
    first = body[0] if body and isinstance(node, ast.Module | Scope) else None
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
        body = body[1:] if isinstance(first.value.value, str) else body
    return [statement for statement in body if not isinstance(statement, ast.Pass)]


def _merged(values: list[ast.expr]) -> list[object]:
    """Return the parts of an f-string, merged: how constants are split differs by release."""
    found: list[object] = []
    for part in values:
        text = part.value if isinstance(part, ast.Constant) else None
        if text is not None and found and isinstance(found[-1], str):
            found[-1] += str(text)
        elif text != "":
            found.append(part if text is None else str(text))
    return found


@lru_cache(64)
def parsed(text: str) -> Unit:
    """Return the top-level statements of a source. Raises `SyntaxError`."""
    tree = ast.parse(text)
    pieces = (made for node in _said(tree, tree.body) for made in _pieces(node))
    moving = (node.names for node in ast.walk(tree) if isinstance(node, ast.Global))
    return Unit(tree, tuple(pieces), frozenset(name for names in moving for name in names))


def piece(node: ast.AST, without: Iterable[str] = ()) -> SourceStatement:
    """Return one definition by itself; names of `without` come from around it, not as globals."""
    imports = tuple(_imports(node))
    known = {imported.local for imported in imports}
    names = frozenset(_names(node)) - frozenset(without) - known
    chains = frozenset(_chains(node))
    return SourceStatement(
        frozenset(_bound(node)), canonical(node), names, chains, imports, _kind(node)
    )


def _kind(node: ast.AST) -> Kind:
    if isinstance(node, ast.Import | ast.ImportFrom):
        return "import"
    if isinstance(node, Scope):
        return "definition"
    if isinstance(node, ast.For | ast.AsyncFor | ast.While | ast.With | ast.AsyncWith):
        return "block"
    if isinstance(node, ast.Assign | ast.AnnAssign):
        value = node.value
        empty = isinstance(value, ast.Dict | ast.List) and not ast.unparse(value)[1:-1]
        call = isinstance(value, ast.Call) and not (value.args or value.keywords)
        made = ast.unparse(value.func) if isinstance(value, ast.Call) else ""
        return "filled" if empty or (call and made in ("dict", "list", "set")) else "other"
    return "other"


def _pieces(node: ast.stmt) -> Iterator[SourceStatement]:
    if _guarded(node):
        return
    if not isinstance(node, ast.Import | ast.ImportFrom):
        yield piece(node)
        return
    for alias in node.names:  # each by itself: one more import beside it changes nothing
        one = ast.copy_location(
            type(node)(**dict(ast.iter_fields(node)) | {"names": [alias]}), node
        )
        yield piece(one)


def _guarded(node: ast.stmt) -> bool:
    """Return whether this is `if __name__ == "__main__":`, which no loader of a plan runs."""
    test = node.test if isinstance(node, ast.If) else None
    return isinstance(test, ast.Compare) and "__name__" in ast.unparse(test)


def _names(node: ast.AST) -> Iterator[str]:
    """Yield the names that a statement or a lambda looks up in its module.

    Seen as a function's body, whose locals every release of Python tells apart: at the top of a
    module some let the variables of a comprehension leak into the table of its names.
    """
    whole = ast.Expr(node) if isinstance(node, ast.expr) else node
    held = ast.Module([_Starless().visit(copy.deepcopy(whole))], [])
    body = textwrap.indent(ast.unparse(ast.fix_missing_locations(held)), " ")
    waiting = symtable.symtable(f"def statement():\n{body}", "statement", "exec").get_children()
    while waiting:
        table = waiting.pop()
        waiting += table.get_children()
        yield from (one.get_name() for one in table.get_symbols() if one.is_global())


class _Starless(ast.NodeTransformer):
    """Takes out `from … import *`, which no function may hold."""

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.stmt:
        """Return nothing in its place."""
        return ast.Pass() if node.names[0].name == "*" else node


def _chains(node: ast.AST) -> Iterator[str]:
    """Yield every name with the attributes that are read from it."""
    inner: set[ast.AST] = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Attribute | ast.Name) and part not in inner:
            words, at = [], part
            while isinstance(at, ast.Attribute):
                words.append(at.attr)
                inner.add(at.value)
                at = at.value  # type: ignore[assignment]
            if isinstance(at, ast.Name):
                yield ".".join((at.id, *reversed(words)))


def _imports(node: ast.AST) -> Iterator[Imported]:
    for part in ast.walk(node):
        if isinstance(part, ast.Import):
            for alias in part.names:
                local = alias.asname or alias.name.split(".")[0]
                yield Imported(local, alias.name if alias.asname else local, "", 0)
        elif isinstance(part, ast.ImportFrom):
            for alias in part.names:
                yield Imported(
                    alias.asname or alias.name, part.module or "", alias.name, part.level
                )


def _bound(node: ast.AST) -> Iterator[str]:
    """Yield the names of the module that a statement binds, or into whose value it writes."""
    if isinstance(node, Scope):
        yield node.name
        return
    if isinstance(node, ast.Lambda | Comprehension):
        return
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield from (imported.local for imported in _imports(node))
        return
    written = isinstance(getattr(node, "ctx", None), ast.Store | ast.Del)
    if written:
        at = node
        while isinstance(at, ast.Attribute | ast.Subscript | ast.Starred):
            at = at.value
        if isinstance(at, ast.Name):
            yield at.id
    for child in ast.iter_child_nodes(node):
        yield from _bound(child)


def _begins(node: ast.AST, code: CodeType) -> bool:
    """Return whether a definition begins where a code object says that it does."""
    if isinstance(node, ast.Lambda):
        return code.co_name == "<lambda>" and node.lineno == code.co_firstlineno
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.name != code.co_name:
        return False
    first = min((node.lineno, *(part.lineno for part in node.decorator_list)))
    return first == code.co_firstlineno


def _holds(node: ast.AST, code: CodeType) -> bool:
    """Return whether all instructions of a code object come from a lambda's body."""
    assert isinstance(node, ast.Lambda)
    body = node.body
    first, last = (body.lineno, body.col_offset), (body.end_lineno, body.end_col_offset)
    spots = [spot for spot in code.co_positions() if None not in spot and spot[2:] != (0, 0)]
    return all(first <= (a, c) and (b, d) <= last for a, b, c, d in spots)


def _start(node: ast.AST) -> tuple[int, int]:
    return (node.lineno, node.col_offset)  # type: ignore[attr-defined]
