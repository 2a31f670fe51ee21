# SPDX-License-Identifier: Apache-2.0
"""The code that a plan stands on: whatever its own functions and classes look up, name by name.

From each function of the plan the way leads to the statements of its module that it needs, and
from those to others, also in further modules of the user's own. What nothing of the plan looks
up (the plan itself, prints, the rest of a script) does not count. A library is known by its name.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import linecache
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from muster.errors import PlanError
from muster.identity.syntax import Imported, SourceStatement, Unit, parsed, piece

__all__ = ["Code", "functions_of", "named", "own"]

INSTALLED = {"site-packages", "dist-packages"}
HOOK = "local_data"  # what a site trains on, by a plan file's own word
MODULES = 256  # whose sources are remembered
Contents = Callable[[Any, str], Any]

_TEXTS: dict[tuple[str, int], tuple[Any, str]] = {}


def own(name: str) -> bool:
    """Return whether a module is the user's own: neither muster, nor installed, nor Python's.

    >>> own("muster.plan"), own("numpy"), own("json"), own("builtins")
    (False, False, False, False)
    """
    if not name or name.split(".")[0] in ("muster", "builtins", *sys.builtin_module_names):
        return False
    if name == "__main__":
        return True
    module = sys.modules.get(name)
    if module is None:
        return any(map(_outside, _places(_spec(name))))
    file = getattr(module, "__file__", None)
    if file is None and not hasattr(module, "__path__"):
        return getattr(module, "__spec__", None) is None  # made by hand, such as in a notebook
    return any(map(_outside, [file] if file else module.__path__))


def _spec(name: str) -> Any:
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):  # it is imported in a branch never taken
        return None


def _places(spec: Any) -> list[str]:
    if spec is None:
        return []
    return [spec.origin] if spec.has_location else list(spec.submodule_search_locations or ())


def _outside(file: str) -> bool:
    path = Path(file)
    standard = {sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib")}
    inside = INSTALLED & set(path.parts) or any(path.is_relative_to(place) for place in standard)
    return not inside


def named(thing: Any) -> bool:
    """Return whether module and qualified name lead to this very function or class.

    >>> named(json.dumps), named(lambda: 0)
    (True, False)
    """
    at: Any = sys.modules.get(getattr(thing, "__module__", None) or "")
    for part in str(getattr(thing, "__qualname__", "<>")).split("."):
        at = getattr(at, part, None)
    return at is thing


def functions_of(kind: type) -> Iterator[FunctionType]:
    """Yield the functions that a class defines, as methods of any kind or as properties."""
    for value in vars(kind).values():
        for part in (value, *(getattr(value, n, None) for n in ("__func__", "fget", "func"))):
            if isinstance(part, FunctionType) and part.__module__ == kind.__module__:
                yield part


class Code:
    """Digests of all that is needed, as `found`: by "module:name".

    `contents` is how a global of another kind is read; `ignores` which of them do not count.
    """

    def __init__(self, contents: Contents, ignores: Callable[[Any], bool]) -> None:
        self.found: dict[str, Any] = {}
        self.libraries: set[str] = set()
        self._contents, self._ignores = contents, ignores
        self._names: dict[str, set[str]] = {}

    def need(self, module: str, name: str) -> None:
        """Need a name of a module, and all that it stands on."""
        key = f"{module}:{name}"
        if not own(module):
            self.libraries.add(module.split(".")[0])
            return
        if key in self.found or name in self._names.get(module, ()):
            return
        self._names.setdefault(module, set()).add(name)
        value = vars(sys.modules[module]).get(name) if module in sys.modules else None
        if self._ignores(value):
            return
        unit = _unit_of(module)
        if unit is None:
            self._live(module, name, value)
            return
        pieces = unit.pieces if name == "*" else unit.binding(name)
        if not pieces:
            self._star(module, unit, name)
            return
        if module == "__main__":  # what a script does with plans is no part of one
            pieces = tuple(one for one in pieces if one.kind != "block")
        self.found[key] = ""
        texts = [one.text for one in pieces]
        fixed = {"import", "definition", "filled"}
        if name not in unit.moving and not any(one.kind in fixed for one in pieces):
            texts += self._value(value, key)
        self.found[key] = digest(texts)
        for one in pieces:
            if one.kind != "import":  # of a module, only what is used counts
                self._follow(module, one)

    def function(self, function: FunctionType) -> str:
        """Return the digest of one function by itself; what it looks up is needed."""
        code = function.__code__
        unit, module = _unit_around(code, function.__module__), function.__module__
        node = None if unit is None else unit.function(code)
        if node is None:
            self._look(module, set(_loaded(code)))
            return digest(["compiled", repr(_compiled(code))])
        one = piece(node, without=code.co_freevars)
        self._follow(module, one)
        return digest([one.text])

    def kind(self, kind: type) -> str:
        """Return the digest of one class by itself; what it looks up is needed."""
        functions, module = list(functions_of(kind)), kind.__module__
        for function in functions:
            unit = _unit_around(function.__code__, module)
            node = None if unit is None else unit.kind(kind.__name__, function.__code__)
            if node is not None:
                free = {name for each in functions for name in each.__code__.co_freevars}
                one = piece(node, without=free)
                self._follow(module, one)
                return digest([one.text])
        held = {
            name: part
            for name, part in sorted(vars(kind).items())
            if not name.startswith("__") and not isinstance(part, FunctionType)
        }
        read = json.dumps(self._contents(held, kind.__qualname__), sort_keys=True)
        bases = [f"{base.__module__}:{base.__qualname__}" for base in kind.__bases__]
        return digest(["class", *bases, read, *map(self.function, functions)])

    def finish(self) -> dict[str, Any]:
        """Return all digests, with the bare statements of a module that touch what is needed."""
        while True:
            before = len(self.found)
            for module in list(self._names):
                self._hook(module)
                self._bare(module)
            if len(self.found) == before:
                return dict(sorted(self.found.items()))

    def _hook(self, module: str) -> None:
        """Need what reads a site's rows, where that stands beside the plan's own functions."""
        value = vars(sys.modules[module]).get(HOOK) if module in sys.modules else None
        if isinstance(value, FunctionType):
            self.need(module, HOOK)

    def _bare(self, module: str) -> None:
        """Need statements that change what is needed or imported, such as torch's default dtype.

        A script's own are what is done with a plan, and do not count.
        """
        unit = None if module == "__main__" else _unit_of(module)
        if unit is None:
            return
        imported = {name for one in unit.pieces if one.kind == "import" for name in one.binds}
        touched = self._names[module] | imported
        bare = [
            one
            for one in unit.pieces
            if one.names & touched and one.kind != "import" and one.binds <= imported
        ]
        if bare:
            self.found[f"{module}:"] = digest(one.text for one in bare)
        for one in bare:
            self._follow(module, one)

    def _follow(self, module: str, one: SourceStatement) -> None:
        """Need whatever a statement looks up."""
        inner = {imported.local: imported for imported in one.imports}
        self._look(module, one.names | set(inner), one.chains, inner)

    def _look(
        self,
        module: str,
        names: Iterable[str],
        chains: Iterable[str] = (),
        inner: dict[str, Imported] | None = None,
    ) -> None:
        unit = _unit_of(module)
        known = dict(inner or {})
        for name in sorted(names):
            pieces = unit.binding(name) if unit else ()
            outer = {i.local: i for one in pieces for i in one.imports}
            if name not in known:
                self._global(module, name, bound=bool(pieces))
            for found in (known.get(name), outer.get(name)):
                if found is not None:
                    self._through(module, found, [c for c in chains if c.split(".")[0] == name])

    def _global(self, module: str, name: str, *, bound: bool) -> None:
        """Need a global that a statement binds, or that is there without one."""
        there = module in sys.modules and name in vars(sys.modules[module])
        if bound or (there and not name.startswith("__")):
            self.need(module, name)

    def _through(self, module: str, imported: Imported, chains: list[str]) -> None:
        """Need what is used of an import."""
        source = imported.module
        if imported.level:
            package = getattr(sys.modules.get(module), "__package__", None) or module
            dots = "." * imported.level + imported.module
            source = importlib.util.resolve_name(dots, package)
        below = f"{source}.{imported.name}"
        if imported.name and not (own(source) and (below in sys.modules or _spec(below))):
            self.need(source, imported.name)
            return
        for chain in chains or [imported.local]:
            at, parts = below if imported.name else source, chain.split(".")[1:]
            while parts and f"{at}.{parts[0]}" in sys.modules:
                at = f"{at}.{parts.pop(0)}"
            self.need(at, parts[0] if parts else "*")

    def _star(self, module: str, unit: Unit, name: str) -> None:
        """Need a name that no statement binds, from any module of which all is imported."""
        for one in unit.pieces:
            for imported in one.imports:
                if imported.name == "*":
                    self._through(module, imported._replace(name=name), [])

    def _live(self, module: str, name: str, value: Any) -> None:
        """Need a global of a module without a file, such as a notebook: as it is now."""
        key, home = f"{module}:{name}", getattr(value, "__module__", None)
        if isinstance(value, ModuleType):
            self.found[key] = f"module {value.__name__}"
            if own(value.__name__):
                self.need(value.__name__, "*")
        elif isinstance(value, FunctionType) and home == module:
            self.found[key] = ""
            self.found[key] = self.function(value)
        elif isinstance(value, type) and home == module:
            self.found[key] = ""
            self.found[key] = self.kind(value)
        else:
            self.found[key] = ""
            self.found[key] = self._contents(value, f"the global {name} in {module}")

    def _value(self, value: Any, key: str) -> list[str]:
        """Return what a global holds, which its statement (a loop, a read of a file) may not say.

        Plain values, and whatever holds arrays; other objects may differ between machines that
        hold the same code, as a device does, and paths do.
        """
        if isinstance(value, ModuleType):
            return []
        try:
            read = self._contents(value, key)
        except PlanError:  # no data: the statement says what it is
            return []
        name = callable(value) and isinstance(read, str)
        tells = name or _plain(value) or _arrays(read)
        return [json.dumps(read, sort_keys=True)] if tells else []


def _plain(value: Any) -> bool:
    """Return whether a value is a number, a word, a class, a function, or made of such."""
    if isinstance(value, str):
        return not {"/", "\\"} & set(value)
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(_plain, value))
    if isinstance(value, dict):
        return all(_plain(part) for pair in value.items() for part in pair)
    return value is None or isinstance(value, bool | int | float | type | FunctionType)


def digest(texts: Iterable[str]) -> str:
    """Return the SHA-256 over texts, each kept apart from the next."""
    found = hashlib.sha256()
    for text in texts:
        data = text.encode()
        found.update(len(data).to_bytes(8, "big") + data)
    return found.hexdigest()


def _arrays(read: Any) -> bool:
    if isinstance(read, dict):
        return read.get("class") == "array" or any(map(_arrays, read.values()))
    return isinstance(read, list) and any(map(_arrays, read))


def _unit_of(module: str) -> Unit | None:
    """Return a module's file, parsed; None for one without a source that can be read."""
    held = sys.modules.get(module)
    file = getattr(held, "__file__", None) if held else next(iter(_places(_spec(module))), None)
    if file is None or not str(file).endswith(".py"):
        return None
    return _parsed(str(file), held)


def _unit_around(code: CodeType, module: str) -> Unit | None:
    """Return the source that a function came from: its file, or the cell of a notebook."""
    return _parsed(code.co_filename, sys.modules.get(module))


def _parsed(file: str, held: ModuleType | None) -> Unit | None:
    text = _text(file, held)
    try:
        return parsed(text) if text else None
    except SyntaxError:  # no Python, or half written
        return None


def _text(file: str, held: ModuleType | None) -> str:
    """Return a source as it is; that of a loaded module as it was when it was first looked at.

    What runs is what was loaded: a file that is edited while a long sweep runs changes nothing.
    Raises `PlanError` for one that was edited between loading and the first look.
    """
    whole = held is not None and getattr(held, "__file__", None) == file
    spec = getattr(held, "__spec__", None)  # another after each loading; a script is loaded once
    known = _TEXTS.get((file, id(spec))) if whole else None
    if known is not None and known[0] is spec:
        return known[1]
    linecache.checkcache(file)
    text = "".join(linecache.getlines(file, vars(held) if held else None))
    if held is not None and whole and text:
        _refuse_edited(file, held, text)
        if len(_TEXTS) >= MODULES:
            _TEXTS.clear()
        _TEXTS[file, id(spec)] = spec, text
    return text


def _refuse_edited(file: str, held: ModuleType, text: str) -> None:
    if not isinstance(getattr(held, "__loader__", None), SourceFileLoader):
        return  # it may compile something else than what the file says
    ours = [
        part.__code__
        for part in vars(held).values()
        if isinstance(part, FunctionType) and part.__code__.co_filename == file
    ]
    try:
        said = set(_codes(compile(text, file, "exec", dont_inherit=True)))
    except SyntaxError:
        said = set()
    if not said.issuperset(ours):
        raise PlanError(
            f"{Path(file).name} was edited after it was loaded, so what runs is not what it says; "
            f"start again (in a notebook: importlib.reload, or a restart)"
        )


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for part in code.co_consts:
        if isinstance(part, CodeType):
            yield from _codes(part)


def _loaded(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for part in code.co_consts:
        if isinstance(part, CodeType):
            yield from _loaded(part)


def _compiled(code: CodeType) -> tuple[Any, ...]:
    """Return what a function without a source does, as this release of Python has it."""
    consts = [
        _compiled(part)
        if isinstance(part, CodeType)
        else sorted(map(repr, part))
        if isinstance(part, frozenset)
        else repr(part)
        for part in code.co_consts
    ]
    return (code.co_code.hex(), consts, code.co_names, code.co_varnames, code.co_freevars)
