# SPDX-License-Identifier: Apache-2.0
"""The contents of a plan's objects, as plain data: the same on every machine, whatever lies where.

A muster value is its class and fields; a function its name, or its syntax tree and what is around
it; an array its numbers or their digest; any other object its class and the state that `pickle`
would store of it, without what is private and empty. Addresses and paths of files are in none.
"""

from __future__ import annotations

import copyreg
import enum
import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import Field, fields, is_dataclass
from functools import cached_property, partial
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

from muster.errors import PlanError
from muster.identity.code import Code, functions_of, named, own

__all__ = ["Contents", "unsaid"]

FEW = 8  # numbers of an array that are shown as they are
DEEP = 60  # levels of objects within objects


class Contents:
    """Reads one plan or a part of it; the code that it stands on gathers in `code`."""

    def __init__(self, ignores: type | tuple[type, ...] = ()) -> None:
        self.code = Code(self.read, lambda value: isinstance(value, ignores))
        self._open: list[int] = []

    def read(self, thing: Any, place: str = "") -> Any:
        """Return plain data: dicts, lists, numbers, strings, None; `place`: where the thing stands.

        Raises `PlanError` for an object whose state cannot be told.
        """
        if isinstance(thing, enum.Enum):
            return f"{self._class(type(thing))}.{thing.name}"
        if isinstance(thing, float) and math.isnan(thing):
            return "nan"  # which is equal to itself
        if thing is None or isinstance(thing, bool | int | float | str):
            return thing
        if isinstance(thing, bytes | bytearray):
            return {"class": "bytes", "sha256": hashlib.sha256(thing).hexdigest()}
        if isinstance(thing, np.generic) and thing.dtype.kind in "biuf":
            return self.read(thing.item(), place)
        if id(thing) in self._open:
            return {"class": "again", "level": self._open.index(id(thing))}
        if len(self._open) > DEEP:
            raise _untold(thing, place, f"it is nested more than {DEEP} levels deep")
        self._open.append(id(thing))
        try:
            return self._whole(thing, place)
        finally:
            self._open.pop()

    def _whole(self, thing: Any, place: str) -> Any:
        if isinstance(thing, list | tuple):
            return [self.read(part, f"{place}[{i}]") for i, part in enumerate(thing)]
        if isinstance(thing, dict) and type(thing).__module__ in ("builtins", "collections"):
            return self._pairs(thing.items(), place)
        if isinstance(thing, set | frozenset):
            parts = [self.read(part, place) for part in thing]
            return {"class": "set", "items": sorted(parts, key=json.dumps)}
        if isinstance(thing, ModuleType):
            self.code.need(thing.__name__, "*")
            return f"module {thing.__name__}"
        if isinstance(thing, type):
            return self._kind(thing, place)
        if isinstance(thing, partial):
            return self._partial(thing, place)
        if isinstance(thing, MethodType):
            return {
                "class": "method",
                "function": self.read(thing.__func__, place),
                "self": self.read(thing.__self__, place),
            }
        array = _array(thing)
        if array is not None:
            return self._array(array, place)
        if is_dataclass(thing):
            return self._fields(thing, place)
        if callable(thing) and hasattr(thing, "__qualname__"):
            return self._function(thing, place)
        return self._object(thing, place)

    def _pairs(self, pairs: Iterable[tuple[Any, Any]], place: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            known = key if isinstance(key, str) else self.read(key, place)
            name = known if isinstance(known, str) else json.dumps(known)
            if name in found:
                raise _untold(key, place, "two keys of one dict read alike")
            found[name] = self.read(value, f"{place}.{name}" if place else name)
        return found

    def _partial(self, thing: Any, place: str) -> dict[str, Any]:
        keywords = self._pairs(thing.keywords.items(), place)
        found = {
            "class": "partial",
            "function": self.read(thing.func, place),
            "arguments": self.read(thing.args, place),
        }
        if found.keys() & keywords.keys():
            return found | {"keywords": keywords}
        return found | keywords

    def _fields(self, thing: Any, place: str) -> dict[str, Any]:
        """Return a dataclass's fields, and of a user's own whatever else it was given.

        A field of ours that is marked "later" in its metadata came after runs were stored without
        it: at its default nothing is said of it, so that they go on.
        """
        kind = type(thing)
        names = [f.name for f in fields(thing) if not unsaid(f, getattr(thing, f.name))]
        more = []
        if not kind.__module__.startswith("muster."):
            derived = {n for k in kind.__mro__ for n, v in vars(k).items() if _derived(v)}
            more = [n for n in getattr(thing, "__dict__", {}) if n not in {*names, *derived}]
        held = {name: getattr(thing, name) for name in (*names, *more)}
        outside = {n: v for n, v in held.items() if n in names or not _void(n, v)}
        return {"class": self._class(kind)} | self._pairs(outside.items(), place)

    def _function(self, thing: Any, place: str) -> Any:
        module = str(thing.__module__)
        name = f"{module}:{thing.__qualname__}"
        receiver = getattr(thing, "__self__", None)
        if named(thing):
            self.code.need(module, thing.__qualname__.split(".")[0])
            return name
        if isinstance(thing, FunctionType):
            return {"class": "function", "name": name} | self._around(thing, place)
        if hasattr(thing, "__wrapped__"):
            inner = self.read(thing.__wrapped__, place)
            return {"class": self._class(type(thing)), "wrapped": inner}
        if isinstance(thing, BuiltinFunctionType) and not _plain(receiver):
            return {"class": "method", "function": name, "self": self.read(receiver, place)}
        if "<" not in name:
            return name  # compiled: a library's
        return self._object(thing, place)

    def _around(self, function: FunctionType, place: str) -> dict[str, Any]:
        """Return a lambda or inner function: its tree, and the values that it closes over."""
        found: dict[str, Any] = {}
        if own(function.__module__):
            found["code"] = self.code.function(function)
        else:
            self.code.need(function.__module__, "*")
        found["closure"] = self._pairs(_cells([function]).items(), place)
        given = (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
        found["defaults"] = self.read(given, place)
        return {name: part for name, part in found.items() if part}

    def _class(self, kind: type) -> str:
        """Return the name of a class; what defines it is needed."""
        if kind.__module__.startswith("muster."):
            task = kind.__module__.startswith("muster.tasks.")
            return (
                f"{kind.__module__.removeprefix('muster.')}.{kind.__name__}"
                if task
                else (kind.__name__)
            )
        if named(kind):
            self.code.need(kind.__module__, kind.__qualname__.split(".")[0])
        return f"{kind.__module__}:{kind.__qualname__}"

    def _kind(self, kind: type, place: str) -> Any:
        if kind.__module__.startswith("muster."):
            return f"{kind.__module__}:{kind.__qualname__}"
        name = self._class(kind)
        if named(kind) or not own(kind.__module__):
            return name
        cells = self._pairs(_cells(functions_of(kind)).items(), place)
        found = {"class": "class", "name": name, "code": self.code.kind(kind), "closure": cells}
        return {key: part for key, part in found.items() if part}

    def _array(self, array: Any, place: str) -> Any:
        kind, values = array
        if values.dtype.kind == "O":
            return {"class": "array", "dtype": kind, "values": self.read(values.tolist(), place)}
        found = {"class": "array", "dtype": kind, "shape": list(values.shape)}
        if values.size <= FEW and values.dtype.kind in "biuf":
            return found | {"values": self.read(values.ravel().tolist(), place)}
        little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
        return found | {"sha256": hashlib.sha256(little.tobytes()).hexdigest()}

    def _object(self, thing: Any, place: str) -> Any:
        """Return any other object, by what it would store of itself."""
        kind = type(thing)
        try:
            reduce = copyreg.dispatch_table.get(kind)
            reduced = reduce(thing) if reduce else thing.__reduce_ex__(4)
        except Exception as error:  # of a user's class, or of one that is not data
            raise _untold(thing, place, str(error)) from error
        if isinstance(reduced, str):
            return f"{getattr(thing, '__module__', None) or kind.__module__}:{reduced}"
        make, given, state, items, pairs = (*reduced, None, None, None)[:5]
        name = self._kind(kind, place)
        found = {"class": name} if isinstance(name, str) else name
        if make is copyreg.__newobj__:  # type: ignore[attr-defined]
            given = given[1:]
        else:
            found["made"] = self.read(make, place)
        parts = {"arguments": given, "items": list(items or ()), "entries": dict(pairs or ())}
        found |= {n: self.read(part, place) for n, part in parts.items() if part}
        for held in state if isinstance(state, tuple) and len(state) == 2 else (state,):
            if isinstance(held, dict):
                kept = {n: v for n, v in held.items() if not _void(n, v)}
                read = self._pairs(kept.items(), place)
                found |= read if not found.keys() & read.keys() else {"state": read}
            elif held is not None:
                found["state"] = self.read(held, place)
        return found


def _untold(thing: Any, place: str, why: str) -> PlanError:
    shown = f"{type(thing).__module__}.{type(thing).__qualname__}"
    return PlanError(
        f"the plan holds a {shown}{f' ({place})' if place else ''}, and what it is cannot be told "
        f"({why}), so no other plan could be compared with this one; make it inside the function "
        f"that uses it, or give its class a __getstate__ that returns numbers, strings and arrays"
    )


def _void(name: str, value: Any) -> bool:
    """Return whether an attribute is private and empty, as what libraries add and drop is."""
    empty = value is None or (isinstance(value, dict | list | tuple | set) and not value)
    return str(name).startswith("_") and empty


def unsaid(field: Field[Any], value: Any) -> bool:
    """Return whether a field that came later says no more than that it was not there yet."""
    return bool(field.metadata.get("later")) and bool(value == field.default)


def _derived(value: Any) -> bool:
    return isinstance(value, cached_property)


def _plain(receiver: Any) -> bool:
    """Return whether what a compiled function is bound to is no object of its own."""
    return (
        receiver is None
        or isinstance(receiver, ModuleType | type)
        or (type(receiver).__name__ == "PyCapsule")
    )


def _cells(functions: Iterable[FunctionType]) -> dict[str, Any]:
    """Return the values that functions close over, by name."""
    found = {}
    for function in functions:
        names = function.__code__.co_freevars
        for name, cell in zip(names, function.__closure__ or (), strict=True):
            try:
                value = cell.cell_contents
            except ValueError:  # not bound yet
                continue
            if name != "__class__":
                found[name] = value
    return found


def _array(thing: Any) -> tuple[str, Any] | None:
    """Return an array of any framework: the name of its dtype, and its numbers as NumPy's."""
    if not all(hasattr(thing, name) for name in ("__array__", "dtype", "shape")):
        return None
    kind = str(thing.dtype).rpartition(".")[2]
    try:
        if hasattr(thing, "detach"):  # a tensor that may ask for gradients, on any device
            thing = thing.detach().cpu()
            if kind == "bfloat16":  # which NumPy has not; each of its numbers is a float32
                thing = thing.float()
        return kind, np.asarray(thing)
    except (TypeError, RuntimeError):  # sparse, or random keys: by what it stores
        return None
