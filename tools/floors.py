# SPDX-License-Identifier: Apache-2.0
"""The house as a map, and the rules that keep imports going down only."""

import ast
import graphlib
from collections.abc import Iterator

from house import Finding, House

# A floor imports from the floors below it only; a room is a file or a folder of src/muster.
FLOORS = {
    "errors": 0,
    "extras": 0,
    "identity": 0,
    "keys": 0,
    "layout": 0,
    "locks": 0,
    "mapped": 0,
    "plain": 0,
    "ports": 0,
    "spelling": 0,
    "tree_codec": 0,
    "types": 0,
    "vectors": 0,
    "batches": 1,
    "optimizers": 1,
    "privacy": 1,
    "schedules": 1,
    "secagg": 1,
    "aggregation": 2,
    "algorithms": 2,
    "data": 2,
    "metrics": 2,
    "pipeline": 2,
    "sampling": 2,
    "local": 3,
    "plan": 3,
    "rounds": 3,
    "tasks": 3,
    "topology": 4,
    "federation": 5,
    "security": 5,
    "simulation": 5,
    "store": 5,
    "transport": 5,
    "runs": 6,
    "testing": 6,
    "cli": 7,
    "web": 7,
    "__main__": 8,
    "muster": 7,
}

# The steps allowed within a floor: the rooms of the ground floor stand on each other, a plan
# holds the values of local training, a round is made of both, and a server keeps a ledger.
SIDEWAYS = {
    "extras": {"errors"},
    "identity": {"errors"},
    "layout": {"errors", "vectors"},
    "tree_codec": {"errors"},
    "locks": {"errors"},
    "mapped": {"vectors"},
    "plain": {"errors"},
    "spelling": {"errors"},
    "vectors": {"errors"},
    "keys": {"errors"},
    "types": {"errors", "keys", "layout", "vectors"},
    "plan": {"local"},
    "rounds": {"local", "plan"},
    "federation": {"security", "store"},
    "transport": {"federation", "security", "store"},
    "testing": {"runs"},
    "cli": {"web", "muster"},
}

# Rooms that may use less than their floor allows.
ONLY = {
    "algorithms": {"errors", "optimizers", "spelling", "types", "vectors"},
    "store": {
        "errors",
        "ports",
        "extras",
        "keys",
        "layout",
        "locks",
        "mapped",
        "tree_codec",
        "types",
        "vectors",
    },
}

# The one file of a room that its neighbours in the room may import.
SPINE = {"algorithms": "algorithm", "tasks": "task"}

# Rooms known by one abstract file to the rooms that must not care which value they hold.
ABSTRACT = {
    "algorithms": "algorithm",
    "pipeline": "stage",
    "aggregation": "sums",
    "sampling": "sampler",
}
BLIND = {"local", "federation", "rounds", "topology", "transport"}

# Optional or heavy packages, and the files that may import them at module level.
FRAMEWORKS = {
    "torch": "muster/tasks/torch*.py",
    "jax": "muster/tasks/jax*.py",
    "sklearn": "",
    "pandas": "",
    "matplotlib": "",
    "rich": "muster/cli/*.py",
    "typer": "muster/cli/*.py",
}

# Libraries that carry words between site and server: their adapters alone know them.
MEDIA = {"grpc", "httpx", "starlette", "uvicorn"}

# Standard modules that a room of pure mathematics has no business with.
IMPURE = {"asyncio", "http", "logging", "os", "pathlib", "socket", "ssl", "subprocess"}
PURE = {"aggregation", "algorithms", "optimizers", "pipeline", "sampling", "secagg"}


def floors(house: House) -> Iterator[Finding]:
    """Refuse imports other than from floors below, or from fewer for some rooms."""
    for file in house.source:
        if file.room not in FLOORS:
            yield file.finding(
                1, f"room {file.room!r} has no floor; give it one in tools/floors.py"
            )
            continue
        for line, target, *_ in house.imports(file):
            root, *rest = target.split(".")
            other = rest[0] if rest else root
            if root != "muster" or other == file.room:
                continue
            if file.module != "muster" or other in ("cli", "web"):
                message = _refusal(file.room, other, target)
                if message:
                    yield file.finding(line, message)


def _refusal(room: str, other: str, target: str) -> str:
    here, there = FLOORS[room], FLOORS.get(other, 9)
    if there > here or (there == here and other not in SIDEWAYS.get(room, ())):
        return f"{room} (floor {here}) imports {target} (floor {there}); import from below only"
    if room in ONLY and other not in ONLY[room]:
        return f"{room} imports {target}; it may import {', '.join(sorted(ONLY[room]))} only"
    if room in BLIND and other in ABSTRACT and not target.endswith(f".{ABSTRACT[other]}"):
        return f"{room} imports {target}; it may know muster.{other}.{ABSTRACT[other]} only"
    return ""


def neighbours(house: House) -> Iterator[Finding]:
    """Refuse algorithms that import each other, and tasks of different frameworks that do."""
    for file in house.source:
        if file.room not in SPINE or file.path.name == "__init__.py":
            continue
        family = file.path.stem.split("_")[0]
        for line, target, *_ in house.imports(file):
            parts = target.split(".")
            stem = parts[2] if len(parts) > 2 else ""
            kin = stem == SPINE[file.room] or (file.room == "tasks" and stem.startswith(family))
            if parts[:2] == ["muster", file.room] and not kin:
                message = f"imports its neighbour {target}; share through {SPINE[file.room]}.py"
                yield file.finding(line, message)


def frameworks(house: House) -> Iterator[Finding]:
    """Refuse heavy packages but where they belong; elsewhere there is `extras.require`."""
    for file in house.source:
        for line, target, inside, typing in house.imports(file):
            place = FRAMEWORKS.get(target.split(".")[0])
            allowed = place is None or (place and file.path.match(place))
            if not allowed and not inside and not typing:
                where = place or "no file"
                message = f"imports {target}, allowed in {where}; use muster.extras.require"
                yield file.finding(line, message)


def purity(house: House) -> Iterator[Finding]:
    """Refuse files, sockets and logs in rooms of mathematics."""
    for file in house.source:
        for line, target, *_ in house.imports(file):
            if file.room in PURE and target.split(".")[0] in IMPURE:
                yield file.finding(line, f"{file.room} imports {target}; keep it pure")


def cycles(house: House) -> Iterator[Finding]:
    """Refuse a module that imports itself by a detour."""
    graph = {f.module: {i.target for i in house.imports(f)} & house.modules for f in house.source}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        names = error.args[1]
        first = next(file for file in house.source if file.module == min(names))
        yield first.finding(1, f"import cycle: {' <- '.join(names)}")


def inner_imports(house: House) -> Iterator[Finding]:
    """Refuse an import that does not stand at the top of its file."""
    for file in house.source:
        for line, target, inside, _ in house.imports(file):
            if inside:
                yield file.finding(line, f"imports {target} inside a function; move it to the top")


def ports(house: House) -> Iterator[Finding]:
    """Refuse libraries and addresses of a transport where a file speaks through its port."""
    for file in house.source:
        if file.room != "federation":
            continue
        for node in (n for n in ast.walk(file.tree) if isinstance(n, ast.Constant)):
            said = node.value
            if isinstance(said, str) and (said in MEDIA or "/v1/" in said):
                message = f"federation speaks of {said!r}; say it through protocol/transport.py"
                yield file.finding(node.lineno, message)
        for line, target, *_ in house.imports(file):
            if target.split(".")[0] in MEDIA:
                yield file.finding(line, f"federation imports {target}; use protocol/transport.py")


RULES = (floors, neighbours, frameworks, purity, cycles, inner_imports, ports)
