# SPDX-License-Identifier: Apache-2.0
"""A run that is killed: `python -m tests.chaos.victim FOLDER PLAN [LABEL COUNT] [--flags]`.

It prints "ready" when it begins to train, a line for each round, and "done" at the end. With a
label it kills itself, by SIGKILL, the COUNT-th time it comes by: the labels of a commit, and
SEAMS, which are between and inside the other steps of a run.
"""

import argparse
import importlib
import os
import signal
from pathlib import Path

import numpy as np

import muster
from muster import aggregation, algorithms, optimizers, pipeline, privacy, sampling, tasks
from muster.runs import folder as folders
from muster.runs import run as runs
from muster.runs.measure import Examiner
from muster.simulation import LocalExecutor, Simulation
from muster.store import SQLiteStore, sqlite

driving = importlib.import_module("muster.runs.drive")
ROUNDS = 8
LOCAL = muster.Local(epochs=2, batch=8, optimizer=optimizers.SGD(0.2))
MLP = tasks.numpy.MLP([5, 6, 3])
PLANS = {
    "scaffold": muster.Plan(
        task=MLP,
        algorithm=algorithms.Scaffold(),
        local=LOCAL,
        rounds=ROUNDS,
        sampling=sampling.Uniform(count=5),
    ),
    "quantize": muster.Plan(
        task=MLP,
        algorithm=algorithms.FedAvg(server=optimizers.Adam(0.05)),
        local=LOCAL,
        sampling=sampling.Uniform(count=5),
        weighting="equal",
        rounds=ROUNDS,
        pipeline=[pipeline.AdaptiveClip(start=0.5), pipeline.Quantize(8, range=2.0, feedback=True)],
    ),
    "private": muster.Plan(
        task=MLP,
        algorithm=algorithms.FedAvg(),
        local=LOCAL,
        rounds=ROUNDS,
        sampling=sampling.Uniform(count=5),
        share="layers.0.*",
    ),
    "noise": muster.Plan(
        task=MLP,
        algorithm=algorithms.FedAvg(),
        local=LOCAL,
        rounds=ROUNDS,
        sampling=sampling.Poisson(0.3),
        weighting="equal",
        pipeline=[pipeline.AdaptiveClip(start=0.5), pipeline.Noise(2.0)],
        aggregation=aggregation.Mean("expected"),
        budget=privacy.Budget(50.0, 1e-3),
    ),
}

# label: (where, the function that is wrapped)
SEAMS = {
    "facts: before": (SQLiteStore, "note"),
    "round: begin": (driving, "play"),
    "round: after sampling": (Simulation, "send"),
    "round: in the middle of the replies": (Simulation, "replies"),
    "memory: before": (SQLiteStore, "remember"),
    "evaluation: before": (Examiner, "examine"),
    "evaluation: in the middle": (LocalExecutor, "measure"),
    "round: before its commit": (SQLiteStore, "commit"),
    "blob: half": (sqlite, "write_file"),
    "blob: before its name": (sqlite.os, "replace"),
    "history: before its line": (driving, "append"),
    "history: half a line": (driving, "append"),
    "exports: before": (runs.Run, "export"),
    "exports: before the model": (runs, "write"),
    "exports: half of one": (folders, "write"),
}
OF_FILES = ("blob: half", "blob: before its name")  # only where states lie beside the database


def population():
    """Twelve clients of 4 to 37 rows, some with test rows of their own."""
    draw = np.random.default_rng(7)
    rows, test = {}, {}
    for i in range(12):
        n = 4 + 3 * i
        rows[f"c{i:02}"] = draw.normal(size=(n, 5)).astype("float32"), draw.integers(0, 3, n)
        if i % 3 == 0:
            test[f"c{i:02}"] = rows[f"c{i:02}"][0][:3], rows[f"c{i:02}"][1][:3]
    return muster.Population.from_arrays(rows, test)


def train(path, name, *, resume=False, **options):
    """One run of a plan, central evaluation on everybody's rows."""
    people = population()
    chosen = {"path": path, "resume": resume}
    return muster.simulate(PLANS[name], people, people.pooled(), **chosen, **options)


def die():
    """Do as a power button does to a process."""
    os.kill(os.getpid(), signal.SIGKILL)


class Trap:
    """Kills this process the count-th time it comes by the label."""

    def __init__(self, label, count):
        self.label, self.left = label, count

    def __call__(self, label):
        """One step of the run."""
        self.left -= label == self.label
        if label == self.label and not self.left:
            die()

    def lay(self):
        """Put the trap into the function that the label's seam wraps."""
        if self.label not in SEAMS:
            return
        place, name = SEAMS[self.label]
        setattr(place, name, self._wrapped(getattr(place, name)))

    def _wrapped(self, function):
        def streaming(*given, **named):
            for one in function(*given, **named):
                yield one
                self(self.label)

        def half(first, second, *rest):
            path = (
                second
                if isinstance(first, dict)
                else first
                if isinstance(first, Path)
                else first.name
            )
            self.left -= 1
            if not self.left:
                with open(f"{path}{'' if 'line' in self.label else '.part'}", "ab") as file:
                    file.write(b'{"half')
                die()
            return function(first, second, *rest)

        def before(*given, **named):
            self(self.label)
            return function(*given, **named)

        if "half" in self.label:
            return half
        return streaming if "in the middle" in self.label else before


def tell(record):
    """A line for whoever waits to kill."""
    print("round", record["round"], flush=True)


def main():
    """Train as the arguments say."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("plan")
    parser.add_argument("label", nargs="?")
    parser.add_argument("count", nargs="?", type=int, default=1)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    if given.large:
        sqlite.LARGE = 1
    trap = Trap(given.label, given.count)
    trap.lay()
    print("ready", flush=True)
    resume = (given.folder / "run.db").exists()
    chosen = {"resume": resume, "at": trap, "watch": tell, "workers": given.workers}
    train(given.folder, given.plan, **chosen)
    print("done", flush=True)


if __name__ == "__main__":
    main()
