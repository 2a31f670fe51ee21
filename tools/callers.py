# SPDX-License-Identifier: Apache-2.0
"""Every method of a protocol has a caller in the product, or it is announced and hollow.

Who a value is is read off annotations: a name, an attribute or a function stands for a protocol
where it is annotated with it, or with a class that has all its methods; so does what is assigned
from such a name, narrowed by `isinstance` or given by `cast`. Names are the package's, not a
scope's: nothing is found too much, as an engineer gives one name to one thing.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from house import File, Finding, Function, House

WORD = re.compile(r"\w+")
# Methods that are there to be checked: their caller is a conformance check.
CHECKED = {"GradientsByRow.gradients": "what `clipped` sums is compared with each row's own"}
HOOKS = {"Sampler"}  # abstract classes of ours whose methods are asked like a protocol's


@dataclass
class Kind:
    """A protocol: where it stands, its own methods, and the names of values that are one."""

    file: File
    node: ast.ClassDef
    methods: dict[str, int]
    types: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)


def called(house: House) -> Iterator[Finding]:
    """Find methods of protocols that nothing in the product calls or hands on."""
    kinds = {kind.node.name: kind for file in house.source for kind in _kinds(file)}
    classes = {
        node.name: node
        for file in house.source
        for node in ast.walk(file.tree)
        if isinstance(node, ast.ClassDef)
    }
    for name, kind in kinds.items():
        kind.types = {name} | {
            other
            for other, node in classes.items()
            if (kind.methods and kind.methods.keys() <= _defined(node).keys())
            or name in {ast.unparse(base) for base in node.bases}
        }
    for kind in kinds.values():
        for file in house.source:
            kind.names |= _named(file, kind.types)
        kind.names |= {name for file in house.source for name in _assigned(file, kind.names)}
    product = (file for file in house.source if file.room != "testing")
    uses = [use for file in product for use in _uses(file.tree)]
    for name, kind in kinds.items():
        found = {
            method
            for receiver, method, within in uses
            if receiver in kind.names and method != within
        }
        for method, line in kind.methods.items():
            if method not in found and f"{name}.{method}" not in CHECKED:
                message = f"{name}.{method} has no caller; call it, or take it out"
                yield kind.file.finding(line, message)


def _kinds(file: File) -> Iterator[Kind]:
    for node in ast.walk(file.tree):
        if isinstance(node, ast.ClassDef):
            bases = {ast.unparse(base).split("[")[0].split(".")[-1] for base in node.bases}
            if "Protocol" in bases or node.name in HOOKS:
                yield Kind(file, node, _defined(node))


def _defined(node: ast.ClassDef) -> dict[str, int]:
    """Return the methods of a class by name; Python's own (`__len__`) are called by Python."""
    return {
        part.name: part.lineno
        for part in node.body
        if isinstance(part, Function) and not part.name.startswith("_")
    }


def _named(file: File, types: set[str]) -> set[str]:
    """Return the names that an annotation, `isinstance` or `cast` says are of these types."""
    found = set()
    for node in ast.walk(file.tree):
        if isinstance(node, ast.arg) and _says(node.annotation, types):
            found.add(node.arg)
        elif isinstance(node, ast.AnnAssign) and _says(node.annotation, types):
            found.add(_last(node.target))
        elif isinstance(node, Function) and _says(node.returns, types):
            found.add(node.name)
        elif isinstance(node, ast.Call):
            name, given = _last(node.func), node.args
            if name == "isinstance" and _says(given[1], types):
                found.add(_last(given[0]))
            elif name == "cast" and _says(given[0], types):
                found.add(_last(given[1]))
            elif name in types:
                found.add(name)
    return found - {""}


def _assigned(file: File, names: set[str]) -> set[str]:
    """Return the names assigned from such a name, side by side, or from what a function returns."""
    found = set()
    for node in ast.walk(file.tree):
        pairs: list[tuple[ast.expr, ast.expr]] = []
        if isinstance(node, ast.withitem) and node.optional_vars is not None:
            pairs = [(node.optional_vars, node.context_expr)]
        elif isinstance(node, ast.For | ast.comprehension):
            pairs = _items(node.target, node.iter)
        elif isinstance(node, ast.Assign):
            pairs = [pair for target in node.targets for pair in _pairs(target, node.value)]
        found |= {_last(target) for target, value in pairs if _last(value) in names}
    return found - {""}


def _items(target: ast.expr, held: ast.expr) -> list[tuple[ast.expr, ast.expr]]:
    """Pair a loop's name with a function's dict, whose values it stands for."""
    if not isinstance(target, ast.Tuple) or not isinstance(held, ast.Call):
        return []
    whole = held.func.value if isinstance(held.func, ast.Attribute) else held
    items = isinstance(held.func, ast.Attribute) and held.func.attr == "items"
    return [(target.elts[-1], whole)] if items and isinstance(whole, ast.Call) else []


def _pairs(target: ast.expr, value: ast.expr) -> list[tuple[ast.expr, ast.expr]]:
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        return list(zip(target.elts, value.elts, strict=False))
    return [(target, value)]


def _says(annotation: ast.expr | None, types: set[str]) -> bool:
    return annotation is not None and bool(types & set(WORD.findall(ast.unparse(annotation))))


def _last(node: ast.AST) -> str:
    """Return the last name of `a.b.c`, or of a call of it."""
    while isinstance(node, ast.Call | ast.Await):
        if isinstance(node, ast.Call) and _last(node.func) == "cast" and len(node.args) == 2:
            node = node.args[1]
            continue
        node = node.func if isinstance(node, ast.Call) else node.value
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _uses(tree: ast.AST, within: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield each `receiver.method` with its function: one that hands on is no caller."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Attribute):
            yield _last(node.value), node.attr, within
        yield from _uses(node, node.name if isinstance(node, Function) else within)


RULES = (called,)
