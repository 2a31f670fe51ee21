# SPDX-License-Identifier: Apache-2.0
"""The plan file: the one Python file that says what to train and on whose data."""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from muster.data import Population
from muster.data.datasets.federation import as_population
from muster.errors import DataError, MusterError, PlanError
from muster.extras import install_command
from muster.plan import Plan
from muster.plan.registry import assign
from muster.simulation import origins

__all__ = ["Enrolled", "PlanFile", "altered", "load", "module_name"]

EXTRAS = {"torch": "torch", "jax": "jax", "sklearn": "sklearn", "pandas": "sklearn"}


class Enrolled(NamedTuple):
    """The population that a plan file trains on, and central test rows `(x, y)` if any."""

    population: Population
    evaluate_on: tuple[Any, Any] | None


@dataclass(frozen=True)
class PlanFile:
    """A loaded plan file: its plan, and its functions, which are called when they are needed."""

    path: Path
    plan: Plan
    population: Callable[[], Any] | None
    evaluate_on: Callable[[], Any] | None

    def enrolled(self) -> Enrolled:
        """Call `population()` and `evaluate_on()`.

        Central test rows come from `evaluate_on()`, else from a `Federation`, else they are the
        clients' own test rows put together. Raises `PlanError` when a function is missing, fails
        or returns something else.
        """
        made = _called(self.path, "population", self.population)
        try:
            people, test = as_population(made)
        except DataError as error:
            raise PlanError(f"population() in {self.path}: {error}") from None
        if self.evaluate_on is not None:
            test = _called(self.path, "evaluate_on", self.evaluate_on)
            if test is not None and (not isinstance(test, (tuple, list)) or len(test) != 2):
                raise PlanError(
                    f"evaluate_on() in {self.path} returned a {type(test).__name__}; "
                    f"return the test rows as a pair (x, y)"
                )
        return Enrolled(people, test if test is not None else people.pooled_test())


def load(path: str | Path) -> PlanFile:
    """Load a plan file, as a module that worker processes find again by its name and file.

    Raises `PlanError` for a file that is missing, fails, or has no `plan`.
    """
    path = Path(path)
    if path.is_dir() and (path / "plan.py").exists():
        path = path / "plan.py"
    if not path.is_file():
        raise PlanError(
            f"the plan file {path} does not exist; give the path of one, "
            f"or make one with: muster new digits"
        )
    if path.suffix != ".py":
        raise PlanError(f"{path} is not a Python file; a plan is written in one, such as plan.py")
    module = _executed(path)
    plan = getattr(module, "plan", None)
    if plan is None:
        raise PlanError(f"{path} has no plan; write plan = muster.Plan(...) at its top level")
    if not isinstance(plan, Plan):
        raise PlanError(f"plan in {path} is a {type(plan).__name__}; it must be a muster.Plan(...)")
    functions = (_function(path, module, name) for name in ("population", "evaluate_on"))
    return PlanFile(path, plan, *functions)


def module_name(path: Path) -> str:
    """Return the name under which a plan file is loaded: its stem, kept apart from other modules.

    >>> module_name(Path("demo/plan.py")), module_name(Path("my-digits.py"))
    ('plan', 'plan_my_digits')
    """
    stem = re.sub(r"\W", "_", path.stem)
    return stem if stem.split("_")[0] == "plan" else f"plan_{stem}"


def _executed(path: Path) -> ModuleType:
    name = module_name(path)
    sys.modules.pop(name, None)  # another plan.py, or this one before it was edited
    with _blamed(path, "could not be loaded"):
        return origins.load(origins.Origin(name, str(path.resolve())))


def _function(path: Path, module: ModuleType, name: str) -> Callable[[], Any] | None:
    found = getattr(module, name, None)
    if found is not None and not callable(found):
        raise PlanError(
            f"{name} in {path} is a {type(found).__name__}; write it as a function, def {name}():"
        )
    return found


def _called(path: Path, name: str, function: Callable[[], Any] | None) -> Any:
    if function is None:
        raise PlanError(
            f"{path} has no {name}(); write a function {name}() that returns a muster.Population"
        )
    with _blamed(path, f"failed in {name}()"):
        return function()


@contextmanager
def _blamed(path: Path, what: str) -> Iterator[None]:
    """Turn what goes wrong in the user's file into one sentence and the user's own traceback."""
    try:
        yield
    except MusterError as error:
        lines = _own(error, path)
        if lines:
            error.args = (f"{path}, line {lines[-1].lineno}: {error}",)
        raise
    except Exception as error:
        raise PlanError(_account(path, what, error)) from error


def _account(path: Path, what: str, error: Exception) -> str:
    sentence = f"{path} {what}: {type(error).__name__}: {error}"
    extra = EXTRAS.get(error.name or "") if isinstance(error, ModuleNotFoundError) else None
    if extra:
        return f"{sentence}; install it with: {install_command(extra)}"
    if isinstance(error, SyntaxError):
        shown = "".join(traceback.format_exception_only(error)).splitlines()[:-1]
        return "\n".join((f"{path} {what}: {error.msg} (line {error.lineno})", *shown))
    frames = traceback.format_list(_own(error, path))
    return "\n".join((sentence, *"".join(frames).rstrip().splitlines()))


def _own(error: BaseException, path: Path) -> list[traceback.FrameSummary]:
    """Return the frames that lie in the plan's folder."""
    folder = str(path.resolve().parent)
    frames = traceback.extract_tb(error.__traceback__)
    return [frame for frame in frames if str(Path(frame.filename).parent) == folder]


def altered(
    plan: Plan, settings: Sequence[str] | None, rounds: int | None, seed: int | None
) -> Plan:
    """Return the plan with what the command line changes."""
    waiting = list(settings or ())
    while waiting:  # a setting may need another one first, in whatever order they are given
        refused: dict[str, PlanError] = {}
        for setting in waiting:
            try:
                plan = _set(plan, setting)
            except PlanError as error:
                refused[setting] = error
        if len(refused) == len(waiting):
            raise refused[waiting[0]]
        waiting = list(refused)
    given = {"rounds": rounds, "seed": seed}
    found: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    return replace(plan, **found) if found else plan


def _set(plan: Plan, setting: str) -> Plan:
    try:
        return assign(plan, setting)
    except (TypeError, AttributeError) as error:  # a value that no check of the field foresees
        raise PlanError(f"--set {setting}: {error}; give a value of the field's kind") from None
