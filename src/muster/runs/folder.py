# SPDX-License-Identifier: Apache-2.0
"""Run folders: their names, their facts, their exports, and whether one belongs to a plan."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from muster.data import Population, statistics
from muster.errors import NoRoom, RunError, short
from muster.plan import Plan
from muster.plan.registry import (
    OUTSIDE,
    differences,
    libraries,
    spelled,
    to_toml,
    to_value,
)
from muster.simulation import Choice
from muster.store.facts import FactStore
from muster.store.sqlite import SQLiteStore

__all__ = [
    "append",
    "begun_with",
    "changes",
    "digest",
    "following",
    "fresh_folder",
    "know",
    "note_versions",
    "open_folder",
    "publish",
    "unlike",
    "upgraded",
    "versions",
    "write",
]

OVERRIDDEN = ("task", "code")  # what may be another by a word, where no privacy rests on it
LISTED = 100  # clients whose rows and labels are recorded one by one
CLASSES = 1000  # labels beyond which counts tell nothing


def fresh_folder(base: Path, plan: Plan) -> Path:
    """Return the next free folder `base/<algorithm>-<n>`."""
    name = type(plan.algorithm).__name__.lower()
    taken = {path.name for path in base.glob(f"{name}-*")}
    n = next(n for n in range(1, len(taken) + 2) if f"{name}-{n}" not in taken)
    return base / f"{name}-{n}"


def open_folder(
    folder: Path,
    plan: Plan,
    choice: Choice,
    *,
    resume: bool,
    at: Callable[[str], None],
    override: bool = False,
) -> SQLiteStore:
    """Return a store for a new run, or for one to go on with.

    Raises `RunError` when a new run meets a folder that holds one, or a resumed one another
    plan (its differing fields are named; `rounds`, `stop`, `evaluate`, `budget` and `keep` may).
    With `override` the task and the code may differ too, which is recorded.
    """
    exists = (folder / "run.db").exists()
    if exists and not resume:
        raise RunError(f"{folder} already holds a run; resume it with --resume, or name another")
    if resume and not exists:
        raise RunError(f"{folder} holds no run to resume (no run.db in it); see `muster ls`")
    value, text = to_value(plan), to_toml(plan)
    store = SQLiteStore(folder, at=at)
    try:
        begun, used = store.meta("plan"), store.meta("engine")
        if begun is not None:
            _refuse_engine(folder, used, choice.engine)
            _refuse_other(folder, begun, plan, store, override=override)
        together = store.meta("together") or choice.together
        store.note(metrics=plan.directions, plan=value, engine=choice.engine, together=together)
        note_versions(store, plan)
        write(folder / "plan.toml", text.encode())
    except BaseException:
        store.close()
        raise
    return store


def _refuse_engine(folder: Path, used: Any, now: str) -> None:
    if used != now:
        raise RunError(
            f"the run in {folder} was begun with another engine ({used!r} then, {now!r} now), "
            f"whose last bits differ; give that one to resume it, or start a new run"
        )


def _refuse_other(
    folder: Path, begun: Any, plan: Plan, store: SQLiteStore, *, override: bool
) -> None:
    """Refuse another plan than a run was begun with, unless that is asked for and recorded."""
    changed = unlike(begun, plan)
    if not changed:
        return
    names = changes(begun, plan)
    noisy = bool(plan.stages.releases()) or plan.local.examples is not None
    may = not noisy and all(name.split(".")[0] in OVERRIDDEN for name in names)
    if not (override and may):
        word = ", or go on all the same with --override, which the run records" if may else ""
        why = (
            ""
            if may or not override
            else (
                " (a change of the task or its code alone may be overridden, and not where what a "
                "run states of privacy rests on it)"
            )
        )
        raise RunError(
            f"the run in {folder} was begun with another plan ({changed}); restore those fields "
            f"to resume it, or start a new run{word}{why}"
        )
    done = (store.latest() or (0, None))[0]
    past = store.meta("overrides") or []
    store.note(overrides=[*past, {"after": done, "changed": names, "said": changed}])


def note_versions(store: FactStore, plan: Plan) -> None:
    """Record the releases of what a run stands on; when it goes on with others, also those."""
    now = versions(plan)
    then = store.meta("versions")
    if then is None:
        store.note(versions=now)
        return
    later = store.meta("upgrades") or []
    if now != (later[-1] if later else then):
        store.note(upgrades=[*later, now])


def versions(plan: Plan) -> dict[str, str]:
    """Return the releases of Python, muster and the packages that a plan stands on.

    They are no part of its fingerprint: a federation's machines need not be twins.
    """
    found = {"python": platform.python_version()}
    for name in dict.fromkeys(("muster", "numpy", *libraries(plan))):
        said = getattr(sys.modules.get(name), "__version__", None)
        if said is None:
            with suppress(PackageNotFoundError):  # of the standard library, or not installed
                said = version(name)
        if said is not None:
            found[name] = str(said)
    return found


def upgraded(facts: dict[str, Any], plan: Plan) -> str:
    """Return the packages of which a run had other releases than there are now, as words."""
    now = versions(plan)
    had = [facts.get("versions") or {}, *(facts.get("upgrades") or ())]
    return "; ".join(
        f"{name} {one[name]} then, {release} now"
        for name, release in now.items()
        for one in had
        if one.get(name, release) != release
    )


def changes(begun: Any, plan: Plan) -> list[str]:
    """Return the names of the fields in which a plan differs from the one a run was begun with."""
    return [name for name, *_ in _differing(begun, plan)]


def unlike(begun: Any, plan: Plan) -> str:
    """Return the fields in which a plan differs from the one a run was begun with, as words."""
    found = _differing(begun, plan)
    code = [name.removeprefix("code.") for name, *_ in found if name.split(".")[0] == "code"]
    said = [
        f"{name}: {spelled(old)} then, {spelled(new)} now"
        for name, old, new in found
        if name.split(".")[0] != "code"
    ]
    return "; ".join([*said, f"the code of {', '.join(code)} is another"] if code else said)


def _differing(begun: Any, plan: Plan) -> list[tuple[str, Any, Any]]:
    now = json.loads(json.dumps(to_value(plan)))
    code: dict[str, Any] = {"code": {}}  # a plan may have none
    found = differences(code | (begun or {}), code | now)
    return [one for one in found if one[0].split(".")[0] not in OUTSIDE]


def begun_with(folder: Path, asked: str) -> str | None:
    """Return the engine of the run in a folder, where "auto" was asked for and the run has one."""
    if asked != "auto" or not (folder / "run.db").exists():
        return None
    try:
        store = SQLiteStore(folder, readonly=True)
    except RunError:  # opening it to write will tell
        return None
    try:
        engine: str | None = store.meta("engine")
    finally:
        store.close()
    return engine


def digest(population: Population) -> str:
    """Return the SHA-256 over ids and row counts: who is enrolled, not what they hold."""
    found = hashlib.sha256(repr(population.clients).encode())
    found.update(np.ascontiguousarray(population.sizes, np.int64).tobytes())
    if population.barred is not None:
        found.update(repr(sorted(population.barred.items())).encode())
    return found.hexdigest()


def know(store: FactStore, population: Population, *, resume: bool) -> None:
    """Record who holds what; on resume, refuse another population with `RunError`."""
    known, found = store.meta("population"), digest(population)
    if resume and known is not None:
        if known["digest"] != found:
            raise RunError(
                f"the run in {store.path} was begun with {known['count']} clients and "
                f"{known['total']} rows, and now there are {len(population)} and "
                f"{int(population.sizes.sum())}, or they are dealt otherwise; restore that "
                f"population to resume it, or start a new run"
            )
        return
    sizes, few = population.sizes, population.clients[:LISTED]
    store.note(
        population={
            "count": len(population),
            "total": int(sizes.sum()),
            "min": int(sizes.min()),
            "median": float(np.median(sizes)),
            "max": int(sizes.max()),
            "digest": found,
            "clients": list(few),
            "rows": sizes[: len(few)].tolist(),
            **_labels(population.only(few)),
        }
    )


def _labels(few: Population) -> dict[str, Any]:
    """Return label counts, clients by labels, and their skew, where targets are labels at hand."""
    if few.is_lazy:
        return {}
    y = few.pooled()[1]
    if y.dtype.kind not in "biu" or int(y.min()) < 0 or int(y.max()) >= CLASSES:
        return {}
    found = statistics(few)
    return {} if found.labels is None else {"labels": found.labels.tolist(), "skew": found.skew}


def publish(folder: Path, history: Sequence[dict[str, Any]]) -> None:
    """Rewrite `history.jsonl`: one line for each committed round."""
    lines = "".join(strict(json.dumps(record)) + "\n" for record in history)
    write(folder / "history.jsonl", lines.encode())


def strict(line: str) -> str:
    """Return JSON as every reader takes it: what is not finite becomes null.

    >>> strict('{"loss": NaN, "round": 1}')
    '{"loss": null, "round": 1}'
    """
    if "NaN" not in line and "Infinity" not in line:
        return line
    return json.dumps(json.loads(line, parse_constant=lambda constant: None))


def following(folder: Path) -> BinaryIO:
    """Open `history.jsonl` for one more line after each commit."""
    try:
        return open(folder / "history.jsonl", "ab", buffering=0)
    except OSError as error:
        raise _unwritten(folder / "history.jsonl", error) from error


def append(file: BinaryIO, line: str) -> None:
    """Append a line to `history.jsonl`, right after its commit, for whoever follows along."""
    try:
        rest = memoryview(f"{strict(line)}\n".encode())
        while rest:  # a disk that is nearly full takes a part
            rest = rest[file.write(rest) :]
    except OSError as error:
        raise _unwritten(Path(file.name), error) from error


def write(path: Path, data: bytes | Iterable[bytes | memoryview]) -> None:
    """Replace a file as a whole, or leave it as it was and raise `RunError`."""
    part = path.with_name(f"{path.name}.part")
    try:
        with open(part, "wb") as file:
            file.writelines([data] if isinstance(data, bytes) else data)
        os.replace(part, path)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise _unwritten(path, error) from error


def _unwritten(path: Path, error: OSError) -> RunError:
    kind = NoRoom if short(error) else RunError
    return kind(
        f"{path} cannot be written ({error}); every committed round is safe in run.db: "
        f"make room, then resume"
    )
