# SPDX-License-Identifier: Apache-2.0
"""The house rules that no off-the-shelf tool knows, each a small function over parsed files.

    python tools/check.py [ROOT]

prints one line per fault, `file:line: message`, and fails when there is one. Advice (marked
"note") never fails. tests/test_house.py runs every rule and plants a fault for each.
"""

import ast
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import callers
import floors
from house import Finding, Function, House

MIRRORED = ("aggregation", "algorithms", "data", "pipeline", "sampling", "tasks")
VAGUE = {"base", "common", "handler", "helpers", "manager", "misc", "utils"}
SPINES = {"algorithms": "algorithm", "pipeline": "stage"}
COMING = re.compile(  # of a docstring that speaks of what is still to come
    r"\b(will rest on|not (yet )?implemented|coming soon|in a (later|future) version|for now,)"
)
# Whoever asks a value whether it has an attribute has found no protocol to believe. Here nothing
# of ours is asked: what another library, the machine or a user's file has is known by looking.
ASKING = {
    "cli/app.py": "the module of a command, which may hold a group and a parser",
    "cli/run.py": "errors of the library that reads the command line",
    "cli/screen.py": "numbers of any library, to be printed",
    "data/arrays.py": "a user's rows, from any library",
    "data/datasets/fetch.py": "errors of the network's library",
    "data/shared.py": "what this machine's kernel has",
    "federation/protocol/codec_tensors.py": "leaves of a tree, which may be plain numbers",
    "federation/site/study.py": "an error of SQLite",
    "identity/code.py": "any object of Python, to be digested",
    "identity/contents.py": "any object of Python, to be digested",
    "identity/syntax.py": "nodes of a syntax tree",
    "mapped.py": "what this machine's kernel has",
    "metrics/by_row.py": "what a user's function returned",
    "runs/federation/connectivity.py": "errors of the TLS library",
    "runs/federation/join.py": "a module of the user's",
    "runs/planfile.py": "a module of the user's",
    "runs/simulate.py": "what this machine's kernel has",
    "simulation/channel.py": "what this machine's kernel has",
    "store/database.py": "an error of SQLite",
    "store/sql/connect.py": "errors of the database's library",
    "store/sql/lead.py": "errors of the database's library",
    "store/sql/transact.py": "errors of the database's library",
    "tasks/torch_facts.py": "layers of a user's model",
    "vectors.py": "whether a tuple is a named one",
}
# Names of frameworks, and the files beside tasks/ that may compare something with one.
FRAMEWORKS = {"custom", "jax", "jaxlib", "tensorflow", "torch"}
COMPARING = {"vectors.py": "an array is asked for its own module, so that none is imported"}
NAMING = {"plan/registry.py": "a plan's libraries, whose releases are recorded"}
VEILED = re.compile(r"(What|Whether|Who|Whom|Whose|Whoever|To who(m|ever)?)\b")  # of a docstring
SPDX = "# SPDX-License-Identifier: Apache-2.0\n"
# Sizes are symptoms: beyond these a reader is asked whether it is one idea, and nothing fails.
LONG_FILE, LONG_PAGE, LONG_FUNCTION, MANY_PARAMETERS, MANY_FILES = 400, 80, 50, 6, 8
REPEATED = 2  # methods that two protocols may not both say


def file_names(house: House) -> Iterator[Finding]:
    """Refuse a file whose name names no idea."""
    for file in house.files:
        vague = VAGUE & {*file.path.stem.split("_"), *file.path.parent.parts}
        if vague:
            yield file.finding(1, f"{vague.pop()!r} names no idea; name the file by what it holds")


def exports(house: House) -> Iterator[Finding]:
    """Refuse a public module that does not say what is public, in sorted order."""
    for file in house.source:
        if file.path.stem.startswith("_") and file.path.name != "__init__.py":
            continue
        lists = [
            node
            for node in file.tree.body
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        ]
        if not lists:
            yield file.finding(1, "no __all__; list the public names")
        for node in lists:
            names = ast.literal_eval(node.value)
            if list(names) != sorted(set(names)):
                yield file.finding(node.lineno, f"__all__ is unsorted; write {sorted(set(names))}")


def docstrings(house: House) -> Iterator[Finding]:
    """Refuse a module, a public class or a public function without a docstring."""
    for file in house.files:
        if ast.get_docstring(file.tree) is None and file.text.strip():
            yield file.finding(1, "the module has no docstring; say its idea in a sentence")
    for file in house.source:
        for node in file.tree.body:
            if not isinstance(node, ast.ClassDef | Function) or node.name.startswith("_"):
                continue
            if ast.get_docstring(node) is None:
                yield file.finding(node.lineno, f"{node.name} has no docstring; add one")


def openings(house: House) -> Iterator[Finding]:
    """Refuse a docstring that begins with What, Whether or Who, not a verb or what it defines."""
    for file in house.files:
        for node in ast.walk(file.tree):
            if not isinstance(node, ast.Module | ast.ClassDef | Function):
                continue
            found = VEILED.match(ast.get_docstring(node) or "")
            if found:
                message = f"begins with {found[0]!r}; begin with a verb, or the noun it defines"
                yield file.finding(node.body[0].lineno, message)


def licences(house: House) -> Iterator[Finding]:
    """Refuse a file whose first line does not name the licence."""
    for file in house.files:
        if not file.text.startswith(SPDX):
            yield file.finding(1, f"the first line must be {SPDX!r}")


def swallowed(house: House) -> Iterator[Finding]:
    """Refuse a handler of everything that does nothing with what it caught."""
    for file in house.files:
        for node in ast.walk(file.tree):
            if isinstance(node, ast.ExceptHandler):
                kind = ast.unparse(node.type) if node.type else "Exception"
                idle = all(isinstance(part, ast.Pass | ast.Constant) for part in _steps(node))
                if kind in ("Exception", "BaseException") and idle:
                    yield file.finding(node.lineno, "swallows every error; name the error caught")


def _steps(handler: ast.ExceptHandler) -> list[ast.AST]:
    return [part.value if isinstance(part, ast.Expr) else part for part in handler.body]


def lambdas(house: House) -> Iterator[Finding]:
    """Refuse a lambda as a default: a default is a value that prints, compares and travels."""
    for file in house.source:
        defaults = [
            default
            for function in file.functions()
            for default in (*function.args.defaults, *function.args.kw_defaults)
        ]
        defaults += [
            part.value
            for node in ast.walk(file.tree)
            if isinstance(node, ast.ClassDef)
            for part in node.body
            if isinstance(part, ast.AnnAssign | ast.Assign)
        ]
        for default in defaults:
            if isinstance(default, ast.Lambda):
                yield file.finding(default.lineno, "a lambda as default; name the function")


def todos(house: House) -> Iterator[Finding]:
    """Refuse a TODO without the number of its issue."""
    for file in house.files:
        for number, line in enumerate(file.text.splitlines(), 1):
            if re.search(r"#\s*(TODO|FIXME|XXX)\b(?!.*#\d)", line):
                yield file.finding(number, "a TODO without the number of its issue")


def promises(house: House) -> Iterator[Finding]:
    """Refuse a docstring that names a file that is not there, or what is still to come."""
    known = {file.path.name for file in house.files}
    for file in house.source:
        for node in ast.walk(file.tree):
            if not isinstance(node, ast.Module | ast.ClassDef | Function):
                continue
            text, line = ast.get_docstring(node) or "", getattr(node, "lineno", 1)
            for name in re.findall(r"`(\w+\.py)`", text):
                if name not in known and (name.startswith("__") or "_" in name):
                    yield file.finding(line, f"speaks of {name}, which is not there")
            found = COMING.search(text)
            if found:
                yield file.finding(line, f"says {found[0]!r}; say what is, not what is to come")


def mirrors(house: House) -> Iterator[Finding]:
    """Refuse a src/muster/ROOM/X.py without its tests/ROOM/test_X.py, and the reverse."""
    paths = {file.path.as_posix(): file for file in house.files}
    for room in MIRRORED:
        sources = {
            path: f"tests/{room}/test_{file.path.stem}.py"
            for path, file in paths.items()
            if file.path.parent.as_posix() == f"src/muster/{room}" and file.path.stem != "__init__"
        }
        for path, test in sources.items():
            if test not in paths:
                yield paths[path].finding(1, f"has no test file; write {test}")
        for path, file in paths.items():
            if file.path.match(f"tests/{room}/test_*.py") and path not in sources.values():
                yield file.finding(1, f"tests no file of src/muster/{room}; rename or move it")


def final(house: House) -> Iterator[Finding]:
    """Refuse an algorithm or a stage refined by inheritance: a class is abstract or final."""
    concrete = {
        node.name
        for file in house.source
        if file.room in SPINES and file.path.stem not in (SPINES[file.room], "__init__")
        for node in file.tree.body
        if isinstance(node, ast.ClassDef) and node.bases and not node.name.startswith("_")
    } - {"NamedTuple", "Protocol"}
    for file in house.source:
        for node in (n for n in ast.walk(file.tree) if isinstance(n, ast.ClassDef)):
            for base in node.bases:
                if ast.unparse(base).split(".")[-1] in concrete:
                    message = f"{node.name} refines {ast.unparse(base)}; wrap it instead"
                    yield file.finding(node.lineno, message)


def unique_names(house: House) -> Iterator[Finding]:
    """Refuse one class name for two classes, but for twins of frameworks."""
    seen: dict[str, tuple[str, str]] = {}
    for file in house.source:
        for node in file.tree.body:
            if not isinstance(node, ast.ClassDef):
                continue
            room, path = seen.setdefault(node.name, (file.room, file.path.as_posix()))
            if path != file.path.as_posix() and not room == file.room == "tasks":
                message = f"{node.name} is another class in {path}; give each its own word"
                yield file.finding(node.lineno, message)


def asking(house: House) -> Iterator[Finding]:
    """Refuse to ask a value of ours what it is: `getattr` with a default, and `hasattr`.

    Names of Python's own (`__name__`) may be asked for, and whatever else where `ASKING` says why.
    """
    asked = set()
    for file in house.source:
        place = "/".join(file.path.parts[2:])
        for node in ast.walk(file.tree):
            if isinstance(node, ast.Call) and _asks(node):
                asked.add(place)
                if place not in ASKING:
                    message = (
                        f"asks a value what it is ({ast.unparse(node):.60}); declare it in the "
                        f"protocol, or say in tools/check.py whose value it is"
                    )
                    yield file.finding(node.lineno, message)
        if place in ASKING and place not in asked:
            yield file.finding(1, "asks nothing any more; take it out of ASKING in tools/check.py")


def _asks(call: ast.Call) -> bool:
    name = call.func.id if isinstance(call.func, ast.Name) else ""
    if name != "hasattr" and (name != "getattr" or len(call.args) < 3):
        return False
    asked = call.args[1]
    return not (isinstance(asked, ast.Constant) and str(asked.value).startswith("__"))


def capabilities(house: House) -> Iterator[Finding]:
    """Refuse a framework's name compared outside tasks/: a task declares what it can do."""
    for file in house.source:
        place = "/".join(file.path.parts[2:])
        if file.room == "tasks":
            continue
        said = {
            id(n) for f in ast.walk(file.tree) if isinstance(f, ast.JoinedStr) for n in ast.walk(f)
        }
        for node in ast.walk(file.tree):
            if isinstance(node, ast.Compare) and place not in COMPARING:
                words = {n.value for n in ast.walk(node) if isinstance(n, ast.Constant)}
                if found := sorted(map(str, words & FRAMEWORKS)):
                    yield file.finding(node.lineno, f"compares with {found[0]!r}; read task.traits")
            if not isinstance(node, ast.Attribute) or node.attr != "framework" or id(node) in said:
                continue
            if place not in NAMING and file.room != "testing":
                yield file.finding(node.lineno, "reads task.framework; read task.traits")


def one_protocol(house: House) -> Iterator[Finding]:
    """Find protocols that say a method of another again, in place of refining that one."""
    seen: list[tuple[str, frozenset[str]]] = []
    for file in house.source:
        for node in (n for n in file.tree.body if isinstance(n, ast.ClassDef)):
            bases = {ast.unparse(base).partition("[")[0] for base in node.bases}
            if "Protocol" not in bases:
                continue
            said = frozenset(n.name for n in node.body if isinstance(n, ast.FunctionDef))
            for name, others in seen:
                if len(said & others) >= REPEATED:
                    again = ", ".join(sorted(said & others))
                    message = f"{node.name} says {again} as {name} does; have one protocol"
                    yield file.finding(node.lineno, message)
            seen.append((node.name, said))


def formatted(house: House) -> Iterator[Finding]:
    """Refuse a line kept from the formatter, which has the last word on every line."""
    for file in house.files:
        for number, line in enumerate(file.text.splitlines(), 1):
            if re.search(r"#\s*fmt:\s*(skip|off)\b", line):
                yield file.finding(number, "keeps the formatter away; let it have its way")


def advice(house: House) -> Iterator[Finding]:
    """Ask of what is long whether it is still one idea: pages, files, functions, signatures."""
    for file in house.source:
        if file.room in SPINES and file.lines > LONG_PAGE:
            yield file.finding(1, f"{file.lines} lines; a page has {LONG_PAGE}")
        if file.lines > LONG_FILE:
            yield file.finding(1, f"{file.lines} lines; is this still one idea?")
        for function in file.functions():
            length = (function.end_lineno or 0) - function.lineno + 1
            if length > LONG_FUNCTION:
                yield file.finding(
                    function.lineno, f"{function.name} has {length} lines; is it still one idea?"
                )
            names = [a.arg for a in (*function.args.posonlyargs, *function.args.args)]
            count = len([name for name in names if name not in ("self", "cls")])
            if count > MANY_PARAMETERS and file.room != "cli":
                yield file.finding(
                    function.lineno, f"{function.name} has {count} positional parameters"
                )
    for folder in sorted({file.path.parent for file in house.source}):
        modules = [f for f in house.source if f.path.parent == folder]
        if len(modules) > MANY_FILES and not (house.root / folder / "README.md").exists():
            yield Finding(folder, 1, f"{len(modules)} files and no README.md")


Rule = Callable[[House], Iterator[Finding]]

RULES: tuple[Rule, ...] = (
    *floors.RULES,
    *callers.RULES,
    file_names,
    exports,
    docstrings,
    openings,
    licences,
    swallowed,
    lambdas,
    todos,
    promises,
    mirrors,
    final,
    unique_names,
    asking,
    capabilities,
    one_protocol,
    formatted,
)


def main(arguments: list[str]) -> int:
    """Print every finding; return 1 when a rule is broken."""
    house = House(Path(arguments[0]) if arguments else Path(__file__).resolve().parent.parent)
    faults = sorted({finding for rule in RULES for finding in rule(house)})
    for note in sorted(advice(house)):
        print(f"{note} (note)")
    for fault in faults:
        print(fault)
    print(f"house: {len(house.files)} files, {len(RULES)} rules, {len(faults)} faults")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
