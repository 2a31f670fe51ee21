# SPDX-License-Identifier: Apache-2.0
"""Run folders: their names, their facts, their exports, and whether one belongs to a plan."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from muster.data import Population, statistics
from muster.errors import RunError
from muster.plan import Plan
from muster.plan.registry import differences, spelled, to_toml, to_value
from muster.simulation import Choice
from muster.store.sqlite import SQLiteStore

__all__ = [
    "MAY_CHANGE",
    "append",
    "begun_with",
    "digest",
    "following",
    "fresh_folder",
    "know",
    "open_folder",
    "publish",
    "unlike",
    "write",
]

MAY_CHANGE = ("rounds", "stop", "evaluate", "budget")
LISTED = 100  # clients whose rows and labels are recorded one by one
CLASSES = 1000  # labels beyond which counts tell nothing


def fresh_folder(base: Path, plan: Plan) -> Path:
    """The next free folder `base/<algorithm>-<n>`."""
    name = type(plan.algorithm).__name__.lower()
    taken = {path.name for path in base.glob(f"{name}-*")}
    n = next(n for n in range(1, len(taken) + 2) if f"{name}-{n}" not in taken)
    return base / f"{name}-{n}"


def open_folder(
    folder: Path, plan: Plan, choice: Choice, *, resume: bool, at: Callable[[str], None]
) -> SQLiteStore:
    """A store for a new run, or for one to go on with.

    Raises `RunError` when a new run meets a folder that holds one, or a resumed one another
    plan (its differing fields are named; `rounds`, `stop`, `evaluate` and `budget` may).
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
            engine = f"engine: {used!r} then, {choice.engine!r} now"
            other = [] if used == choice.engine else [engine]
            changed = "; ".join(filter(None, (unlike(begun, plan), *other)))
            if changed:
                raise RunError(
                    f"the run in {folder} was begun with another plan ({changed}); "
                    f"restore those fields to resume it, or start a new run"
                )
        together = store.meta("together") or choice.together
        versions = {"python": platform.python_version(), "numpy": version("numpy")}
        store.note(
            metrics=plan.directions,
            plan=value,
            engine=choice.engine,
            together=together,
            versions=versions,
        )
        write(folder / "plan.toml", text.encode())
    except BaseException:
        store.close()
        raise
    return store


def unlike(begun: Any, plan: Plan) -> str:
    """The fields in which a plan differs from the one a run was begun with, as words."""
    found = differences(begun, json.loads(json.dumps(to_value(plan))))
    return "; ".join(
        f"{name}: {spelled(old)} then, {spelled(new)} now"
        for name, old, new in found
        if name.split(".")[0] not in MAY_CHANGE
    )


def begun_with(folder: Path, asked: str) -> str | None:
    """The engine of the run in a folder, where "auto" was asked for and the run has one."""
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
    """SHA-256 over ids and row counts: who is enrolled, not what they hold."""
    found = hashlib.sha256(repr(population.clients).encode())
    found.update(np.ascontiguousarray(population.sizes, np.int64).tobytes())
    return found.hexdigest()


class Noted(Protocol):
    """A store that keeps facts about its run (SQLiteStore, Ledger)."""

    path: Path

    def meta(self, key: str) -> Any:
        """A fact, or None."""

    def note(self, **facts: Any) -> None:
        """Write facts."""


def know(store: Noted, population: Population, *, resume: bool) -> None:
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
    """Label counts, clients by labels, and their skew, where targets are labels and at hand."""
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
    """JSON as every reader takes it: what is not finite becomes null.

    >>> strict('{"loss": NaN, "round": 1}')
    '{"loss": null, "round": 1}'
    """
    if "NaN" not in line and "Infinity" not in line:
        return line
    return json.dumps(json.loads(line, parse_constant=lambda constant: None))


def following(folder: Path) -> BinaryIO:
    """`history.jsonl`, open for one more line after each commit."""
    try:
        return open(folder / "history.jsonl", "ab", buffering=0)
    except OSError as error:
        raise _unwritten(folder / "history.jsonl", error) from error


def append(file: BinaryIO, line: str) -> None:
    """One more line of `history.jsonl`, right after its commit, for whoever follows along."""
    try:
        file.write(f"{strict(line)}\n".encode())
    except OSError as error:
        raise _unwritten(Path(file.name), error) from error


def write(path: Path, data: bytes) -> None:
    """Replace a file as a whole, or leave it as it was and raise `RunError`."""
    part = path.with_name(f"{path.name}.part")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise _unwritten(path, error) from error


def _unwritten(path: Path, error: OSError) -> RunError:
    return RunError(
        f"{path} cannot be written ({error}); every committed round is safe in run.db: "
        f"make room, then resume"
    )
