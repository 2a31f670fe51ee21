# SPDX-License-Identifier: Apache-2.0
"""`muster run --processes`: the plan with a real server and real sites on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from muster.data import Population
from muster.errors import PlanError, RunError
from muster.extras import require
from muster.plan import Plan
from muster.runs import Options, Run, planfile

__all__ = ["Staged", "Watcher", "staged"]


class Watcher(Protocol):
    """A watcher is told how it goes."""

    def watch(self, record: dict[str, Any]) -> None:
        """Show one committed round."""

    def tell(self, event: dict[str, Any]) -> None:
        """Tell of something else that happened."""


@dataclass(frozen=True)
class Staged:
    """A server and sites as processes: how many, and the plan file with what changes it."""

    file: Path
    count: int
    settings: tuple[str, ...]
    rounds: int | None
    seed: int | None
    ledger: Path | None = None
    study: str | None = None

    def train(
        self, plan: Plan, people: Population, folder: Path, resume: bool, watcher: Watcher
    ) -> Run:
        """Return the run of a federation on this machine. Raises `RunError`."""
        room = require("muster.runs.federation.processes", extra="site")
        names = tuple(f"site-{i:05d}" for i in range(len(people)))
        if (folder / "run.db").exists() and not resume:
            raise RunError(f"{folder} already holds a run; resume it, or name another folder")
        spec = room.Spec(
            str(self.file.resolve()),
            str(folder.resolve()),
            self.count,
            names,
            people.clients,
            settings=self.settings,
            rounds=self.rounds,
            seed=self.seed,
            ledger=self.ledger and str(self.ledger.resolve()),
            **({} if self.study is None else {"study": self.study}),
        )
        run: Run = room.federated(plan, spec, watcher.watch, watcher.tell)
        return run


def staged(
    file: planfile.PlanFile,
    processes: int | None,
    options: Options,
    changes: tuple[tuple[str, ...], int | None, int | None],
    study: str | None = None,
) -> Staged | None:
    """Return the processes that were asked for, where what else was asked for allows them."""
    if processes is None:
        if study is not None:
            raise PlanError(
                f"--study {study} is what a server tells its sites; give --processes with it"
            )
        return None
    if options.workers is not None or options.engine not in ("auto", "loop") or options.lenient:
        raise PlanError(
            "--processes trains each client as a site of its own, in the loop engine, and goes on "
            "without those that fail; leave --workers, --engine and --keep-going out"
        )
    if options.override:
        raise PlanError(
            "--override goes on with another plan, which the sites of --processes have not; start "
            "a new run, or leave --processes out"
        )
    return Staged(file.path, processes, *changes, ledger=options.ledger, study=study)
