# SPDX-License-Identifier: Apache-2.0
"""A plan as plain data and back: what is recorded, compared, shown and set from a shell.

A value is a dict of the class name and its fields; only classes of the catalogue below are ever
built from one. Functions are named `module:name` and must stand at the top of a module.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from inspect import isfunction
from typing import Any

import tomli_w

from muster import aggregation, algorithms, metrics, optimizers, pipeline, sampling, schedules
from muster.errors import PlanError
from muster.identity import Contents
from muster.local import Local
from muster.plan import EarlyStopping, Every, Keep, Plan, Target
from muster.privacy.ledger import Budget
from muster.privacy.per_example import PerExample
from muster.spelling import meant

__all__ = [
    "assign",
    "differences",
    "fingerprint",
    "from_text",
    "from_value",
    "irreversible",
    "libraries",
    "short",
    "spelled",
    "to_toml",
    "to_value",
]

# What may change on resume, and so is not part of the fingerprint.
OUTSIDE = ("rounds", "stop", "evaluate", "budget", "keep")

CATALOGUE: dict[str, Callable[..., Any]] = {
    name: getattr(room, name)
    for room in (aggregation, algorithms, metrics, optimizers, pipeline, sampling, schedules)
    for name in room.__all__
    if (is_dataclass(getattr(room, name)) or isfunction(getattr(room, name)))
    and name not in ("Cohort", "Contract", "Pipeline", "SamplerTraits")
} | {
    kind.__name__: kind
    for kind in (
        Budget,
        EarlyStopping,
        Every,
        Keep,
        Local,
        PerExample,
        Target,
    )
}


def to_value(thing: Any) -> Any:
    """Return plain data for a plan or a part of it: dicts, lists, numbers, strings, None.

    Of a plan also its "code": digests of the syntax trees of the user's own functions and classes
    that it needs, by "module:name", where there are any (see `muster.identity`).
    Raises `PlanError` for an object whose state cannot be told.

    >>> to_value(optimizers.SGD(0.5))
    {'class': 'SGD', 'rate': 0.5}
    """
    contents = Contents(ignores=Plan)
    value = contents.read(thing)
    code = contents.code.finish() if isinstance(thing, Plan) else {}
    return value | {"code": code} if code else value


def from_value(value: object, more: Mapping[str, type] | None = None) -> Any:
    """Make a plan, or a part of it, from plain data: the inverse of `to_value`.

    Only classes of the catalogue are built, and those in `more`, by the names that values give them
    (a plan's task is of another room). Raises `PlanError`, with the place, for any other, for what
    a user's code is needed for, and for fields that a class has not.

    >>> from_value(to_value(algorithms.FedProx(0.1))) == algorithms.FedProx(0.1)
    True
    """
    return _read(value, {"Plan": Plan, **(more or {})}, "plan")


def _read(value: object, more: Mapping[str, type], place: str) -> object:
    if isinstance(value, list):
        return tuple(_read(part, more, f"{place}[{i}]") for i, part in enumerate(value))
    if not isinstance(value, dict):
        return value
    name = value.get("class")
    kind = more.get(str(name)) or CATALOGUE.get(str(name))
    if not isinstance(kind, type):
        raise PlanError(
            f"{place}: {name!r:.80} is not built from a value; it needs code of your own, or is "
            f"none of the catalogue: give the plan itself"
        )
    given = {
        key: _read(part, more, f"{place}.{key}")
        for key, part in value.items()
        if key != "class" and (key, kind) != ("code", Plan)
    }
    try:
        return kind(**given)
    except (AttributeError, TypeError, ValueError) as error:  # another field, or of another kind
        raise PlanError(f"{place}: {error}; give the fields of {name}") from None


def irreversible(plan: Plan, more: Mapping[str, type] | None = None) -> str:
    """Say why a plan's value does not make the same plan again; "" where it does."""
    try:
        again = from_value(json.loads(json.dumps(to_value(plan))), more)
    except PlanError as error:
        return str(error)
    return "" if again == plan else "its value makes another plan: it holds more than that says"


def libraries(plan: Plan) -> tuple[str, ...]:
    """Return the packages, by the names they are imported by, that a plan and its code stand on."""
    contents = Contents(ignores=Plan)
    contents.read(plan)
    contents.code.finish()
    return tuple(sorted({*contents.code.libraries, plan.task.framework}))


def to_toml(plan: Plan) -> str:
    """Return the plan as TOML text; a field that is None is left out, and in a list is "None"."""
    return tomli_w.dumps(_without_none(to_value(plan)))


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(part) for key, part in value.items() if part is not None}
    if isinstance(value, list):
        return ["None" if part is None else _without_none(part) for part in value]
    return value


def differences(old: Any, new: Any, name: str = "") -> list[tuple[str, Any, Any]]:
    """Return the fields in which two plan values differ: (dotted name, old, new).

    >>> differences({"a": {"b": 1}}, {"a": {"b": 2}})
    [('a.b', 1, 2)]
    """
    if isinstance(old, dict) and isinstance(new, dict) and old.get("class") == new.get("class"):
        found = []
        for key in dict.fromkeys((*old, *new)):
            inner = f"{name}.{key}" if name else key
            found += differences(old.get(key), new.get(key), inner)
        return found
    return [] if old == new else [(name, old, new)]


def spelled(value: Any) -> str:
    """Return a recorded value as the call that builds it; of a digest, its first digits.

    >>> spelled({"class": "FedProx", "mu": 0.1, "server": {"class": "SGD", "rate": 1.0}})
    'FedProx(mu=0.1, server=SGD(rate=1.0))'
    """
    if isinstance(value, dict):
        given = ((k, v) for k, v in value.items() if k != "class" and v is not None)
        return f"{value.get('class', '')}({', '.join(f'{k}={spelled(v)}' for k, v in given)})"
    if isinstance(value, list):
        return f"[{', '.join(map(spelled, value))}]"
    return short(value) if isinstance(value, str) and short(value) != value else repr(value)


def short(text: str) -> str:
    """Return the first digits of a SHA-256; any other text as it is.

    >>> short(64 * "a"), short("FedAvg")
    ('aaaaaaaaaaaa…', 'FedAvg')
    """
    return f"{text[:12]}…" if len(text) == 64 and not set(text) - set("0123456789abcdef") else text


def fingerprint(plan: Plan) -> str:
    """Return the SHA-256 over the plan's value, which has its objects' state and its code.

    `rounds`, `stop`, `evaluate`, `budget` and `keep` stay outside, as they may change on resume.
    The same on every machine that holds the same code (see docs/design.md, "What a plan is").
    """
    value = {k: v for k, v in to_value(plan).items() if k not in OUTSIDE}
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def assign(plan: Plan, setting: str) -> Plan:
    """Return a plan with one field changed, as `--set algorithm.mu=0.5` says it.

    The value is a number, a string, None, a list, or a call such as `FedProx(mu=0.1)`. Raises
    `PlanError` for an unknown field or class, or a value of another kind.
    """
    name, equals, text = setting.partition("=")
    if not equals:
        raise PlanError(f"--set {setting!r}: write field=value, such as algorithm.mu=0.5")
    changed: Plan = _replaced(plan, name.strip().split("."), from_text(text), name.strip())
    return changed


def _replaced(thing: Any, path: list[str], value: Any, name: str) -> Any:
    if not is_dataclass(thing) or isinstance(thing, type):
        raise PlanError(f"--set {name}: {thing!r} has no fields to set; shorten the name")
    known = {f.name: f.default for f in fields(thing)}
    if path[0] not in known:
        kind = type(thing).__name__
        hint = meant(path[0], known)
        raise PlanError(
            f"--set {name}: {kind} has no field {path[0]!r}; {hint}it has {', '.join(known)}"
        )
    old = getattr(thing, path[0])
    if len(path) > 1:
        value = _replaced(old, path[1:], value, name)
    elif value is None and "None" in str(type(thing).__annotations__.get(path[0], "")):
        pass  # an optional field, left out
    elif (_number(old) and not _number(value)) or (is_dataclass(old) and not is_dataclass(value)):
        raise PlanError(f"--set {name}={value!r}: {name} is {old!r}; give a value of that kind")
    return replace(thing, **{path[0]: value})


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def from_text(text: str) -> Any:
    """Return a value written in a shell: a literal, a list, or calls of the catalogue's classes.

    >>> from_text("FedProx(mu=0.5)").mu
    0.5
    >>> from_text("equal")
    'equal'
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except SyntaxError:
        return text.strip()
    word = isinstance(tree, ast.Attribute) or (
        isinstance(tree, ast.Name) and tree.id not in CATALOGUE
    )
    if word:
        return text.strip()
    if isinstance(tree, ast.Name):
        raise PlanError(f"{text} is a class; write it as a call, such as {text.strip()}()")
    return _built(tree, text)


def _built(node: ast.expr, text: str) -> Any:
    if isinstance(node, ast.Call):
        name = ast.unparse(node.func).split(".")[-1]
        if name not in CATALOGUE:
            near = difflib.get_close_matches(name, CATALOGUE, n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}?" if near else "known are "
            hint += "" if near else ", ".join(sorted(CATALOGUE))
            raise PlanError(f"{text}: unknown class {name!r}; {hint}")
        arguments = [_built(argument, text) for argument in node.args]
        named = {str(k.arg): _built(k.value, text) for k in node.keywords}
        try:
            return CATALOGUE[name](*arguments, **named)
        except TypeError as error:
            raise PlanError(f"{text}: {error}; see the fields of {name}") from None
    if isinstance(node, (ast.List, ast.Tuple)):
        return tuple(_built(part, text) for part in node.elts)
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise PlanError(f"{text!r} is not a value; give a number, a word, or a call") from None
