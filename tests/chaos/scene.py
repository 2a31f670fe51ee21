# SPDX-License-Identifier: Apache-2.0
"""Starting victims, and what must be true of a run that was killed and resumed."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from tests.chaos import victim

from muster.runs.run import Run
from muster.store import SQLiteStore

ROOT = Path(__file__).resolve().parents[2]
FILES = {"history.jsonl", "lock", "model.safetensors", "plan.toml", "run.db"}


def start(folder, plan, *arguments, **options):
    """A victim in a process of its own."""
    command = [sys.executable, "-m", "tests.chaos.victim", str(folder), plan, *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def killed(folder, plan, *arguments):
    """Return whether a victim was killed by its own trap; an error of its own is raised."""
    process = start(folder, plan, *arguments)
    _, error = process.communicate()
    assert process.returncode in (0, -9), error
    return process.returncode == -9


def outcome(folder):
    """All that must not depend on deaths: state, memories and history, without the seconds."""
    store = SQLiteStore(folder, readonly=True)
    try:
        _, history, latest = store.snapshot()
        memories = store.memory(victim.population().clients)
    finally:
        store.close()
    return (
        bits(latest[1]),
        {c: bits(m) for c, m in memories.items()},
        [timeless(r) for r in history],
    )


def bits(arrays):
    """Arrays as something that compares bit for bit."""
    return {k: (a.dtype.str, a.shape, np.asarray(a).tobytes()) for k, a in sorted(arrays.items())}


def timeless(record):
    """A record without what a clock said."""
    return {key: value for key, value in record.items() if key != "seconds"}


def whole(folder, wanted, *, large=False):
    """The run is the undisturbed one, each round once, its exports true, nothing left over."""
    assert outcome(folder) == wanted
    rounds = [record["round"] for record in wanted[2]]
    assert rounds == list(range(victim.ROUNDS + 1))
    lines = (folder / "history.jsonl").read_text().splitlines()
    run = Run(folder)
    assert [json.loads(line) for line in lines] == run.history
    found = {path.name for path in folder.iterdir()}
    states = {name for name in found if name.startswith("state-")}
    assert found - states == FILES, found
    assert len(states) == large, found
