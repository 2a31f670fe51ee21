# SPDX-License-Identifier: Apache-2.0
"""The run that is meant: by its id, its path, or the latest; how far and how good it is."""

from __future__ import annotations

import contextlib
import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from muster.cli import screen
from muster.errors import RunError
from muster.locks import flock
from muster.plan import EarlyStopping, Plan, Target
from muster.runs import Run
from muster.runs.folder import changes

__all__ = [
    "LATEST",
    "RUNS",
    "RunName",
    "RunProgress",
    "active",
    "database",
    "epsilon",
    "find",
    "folders",
    "latest_of",
    "measured",
    "metric",
    "progress",
    "rows",
    "spread",
]

RUNS = Path("runs")
LATEST = "latest"
RULES: dict[str, Any] = {"Target": Target, "EarlyStopping": EarlyStopping}

RunName = Annotated[str, typer.Argument(metavar="[RUN]", help="A run's id or path; the latest.")]


def database(told: str) -> Any:
    """Return the option that names a database in place of a run's folder."""
    return typer.Option(metavar="URL", envvar="MUSTER_STORE", show_envvar=True, help=told)


def folders(base: Path = RUNS) -> list[Path]:
    """Return the folders of all runs below a folder, first the one that was active last."""
    found = [file.parent for file in base.glob("*/run.db")]
    return sorted(found, key=lambda folder: (active(folder), folder.name), reverse=True)


def active(folder: Path) -> float:
    """Return the time at which a run last wrote something, in seconds since 1970."""
    files = (folder / name for name in ("run.db", "run.db-wal"))
    return max((file.stat().st_mtime for file in files if file.exists()), default=0.0)


def find(name: str) -> Path:
    """Return the folder of a run.

    Raises `RunError`, with the ids that are near, when there is none.
    """
    known = folders()
    if name == LATEST and not (RUNS / LATEST).exists():
        if not known:
            raise RunError(
                f"there is no run in {RUNS}/ yet; begin with `muster new digits`, "
                f"or name the folder of a run"
            )
        return known[0]
    for place in (RUNS / name, Path(name)):
        if (place / "run.db").exists():
            return place
    near = difflib.get_close_matches(name, [folder.name for folder in known], n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "see `muster ls`"
    raise RunError(f"there is no run {name!r} in {RUNS}/ or at that path; {hint}")


def latest_of(plan: Plan) -> Path:
    """Return the folder of the latest run of a plan. Raises `RunError` when there is none."""
    for folder in folders():
        with contextlib.suppress(RunError):
            if not changes(Run(folder).facts.get("plan"), plan):
                return folder
    raise RunError(
        f"no run in {RUNS}/ is one of this plan, so there is nothing to resume; "
        f"leave --resume out to begin one, or name the run to see what differs"
    )


@dataclass(frozen=True)
class RunProgress:
    """The progress of a run: rounds done and planned, and its state.

    "training", "finished", "resumable", or "spent": resumable with a larger budget of privacy.
    """

    done: int
    planned: int
    state: str


def progress(run: Run) -> RunProgress:
    """Return the progress of a run, from what it recorded."""
    plan: dict[str, Any] = run.facts.get("plan") or {}
    done, planned = run.round, int(plan.get("rounds", 0))
    if _held(run.path):
        state = "training"
    elif done >= planned or _stopped(run, plan):
        state = "finished"
    elif run.facts.get("spent"):
        state = "spent"
    else:
        state = "resumable"
    return RunProgress(done, planned, state)


def spread(run: Run) -> dict[str, Any]:
    """Return the clients' last evaluation: by metric, its mean, percentiles and worst."""
    seen = [record["clients"] for record in run.history if record.get("clients")]
    return dict(seen[-1]) if seen else {}


def measured(run: Run) -> str:
    """Say on which rows: those of `run.metrics`, else the clients'; empty where on none."""
    return run.measured or (rows(run) if spread(run) else "")


def rows(run: Run) -> str:
    """Say which rows of their own the clients were measured on in the last evaluation."""
    return str(spread(run).get("on", "their own rows"))


def epsilon(run: Run) -> float | None:
    """Return the ε that the noise of all rounds reveals at most; None for a run without noise."""
    seen = (record["privacy"] for record in reversed(run.history) if record.get("privacy"))
    return next((float(found["epsilon"]) for found in seen), None)


def metric(run: Run) -> str:
    """Return the metric to show first, over test rows where there are any, else over clients."""
    over_clients = (name for name, part in spread(run).items() if isinstance(part, dict))
    return screen.leading(run.metrics or over_clients) or "loss"


def _stopped(run: Run, plan: dict[str, Any]) -> bool:
    seen = [record["metrics"] for record in run.trained if record.get("metrics")]
    rules = list(plan.get("stop") or ())
    if not all(isinstance(rule, dict) and rule.get("class") in RULES for rule in rules):
        return bool(run.facts.get("stopped"))  # a rule of the user's own: what the run itself said
    lower = run.directions
    return any(
        RULES[rule["class"]](**{k: v for k, v in rule.items() if k != "class"}).met(seen, lower)
        for rule in rules
        if rule["metric"] in lower
    )


def _held(folder: Path) -> bool:
    """Return whether a process is training here now."""
    lock = folder / "lock"
    if not lock.exists():
        return False
    with lock.open() as stream:
        try:
            flock(stream, shared=True, wait=False)
        except OSError:
            return True
    return False
