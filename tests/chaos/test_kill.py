# SPDX-License-Identifier: Apache-2.0
"""Law 6: a run that is killed at any instant and resumed is the run that was never killed."""

import contextlib
import os
import random
import selectors

import psutil
import pytest
from tests.chaos import scene, victim

from muster.store import sqlite
from muster.store.sqlite import LABELS

KILLS = int(os.environ.get("MUSTER_KILLS", "20"))  # `make chaos` asks for more
PARTS = max(4, KILLS // 20)  # tests that they are dealt to
ONCE = ("exports: before", "exports: before the model", "exports: half of one", "facts: before")

# label, the how-manieth time, plan, whether states lie in files
DEATHS = [
    *((label, round, "scaffold", False) for label in LABELS for round in (1, 5, victim.ROUNDS)),
    *((label, round, "quantize", True) for label in LABELS for round in (1, 4)),
    *((label, 1, "quantize", label in victim.OF_FILES) for label in victim.SEAMS),
    *((label, 7, "scaffold", True) for label in victim.SEAMS if label not in ONCE),
    *(("facts: before", count, "private", False) for count in (2, 3, 4)),
    *((label, 3, "private", False) for label in ("memory: before", LABELS[2], LABELS[3])),
]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    base, found = tmp_path_factory.mktemp("undisturbed"), {}
    for name in victim.PLANS:
        victim.train(base / name, name)
        found[name] = scene.outcome(base / name)
    return found


@pytest.mark.parametrize(("label", "count", "plan", "large"), DEATHS)
def test_killed_at_a_label(tmp_path, undisturbed, monkeypatch, label, count, plan, large):
    folder = tmp_path / "run"
    flags = ["--large"] if large else []
    assert scene.killed(folder, plan, label, str(count), *flags), "the trap was not reached"
    monkeypatch.setattr(sqlite, "LARGE", 1 if large else 1 << 30)
    victim.train(folder, plan, resume=(folder / "run.db").exists())
    scene.whole(folder, undisturbed[plan], large=large)


@pytest.mark.parametrize("plan", victim.PLANS)
def test_killed_in_every_life(tmp_path, undisturbed, plan):
    folder, lives = tmp_path / "run", 1
    while scene.killed(folder, plan, LABELS[3], "2", "--large"):
        lives += 1
    assert lives == victim.ROUNDS // 2 + 1
    scene.whole(folder, undisturbed[plan], large=True)


def draw(kill):
    """Draw one kill at random: plan, flags, after which line, and how long after it."""
    dice = random.Random(kill)
    flags = (["--large"] if dice.random() < 0.5 else []) + ["--workers", dice.choice("112")]
    line = dice.randrange(victim.ROUNDS + 1)
    most = 0.01 if line else 0.04 if flags[-1] == "1" else 0.3  # workers take time to start
    return dice.choice(sorted(victim.PLANS)), flags, line, dice.random() * most


def patience(process, line, most):
    """Wait for that line of the victim's, then so long, unless it ends before."""
    assert process.stdout.readline() == "ready\n", process.communicate()[1]
    for _ in range(line):
        process.stdout.readline()
    with selectors.DefaultSelector() as selector:
        selector.register(process.stderr, selectors.EVENT_READ)  # nothing but its end is heard
        selector.select(most)


@pytest.mark.parametrize("part", range(PARTS))
def test_killed_at_random(tmp_path, undisturbed, monkeypatch, part):
    deaths = 0
    for kill in range(part, KILLS, PARTS):
        plan, flags, line, most = draw(kill)
        folder = tmp_path / f"run-{kill}"
        for life in range(2):
            process = scene.start(folder, plan, *flags)
            try:
                patience(process, line // (life + 1), most)
                process.kill()
            finally:
                error = process.communicate()[1]
            assert process.returncode in (0, -9), error
            deaths += process.returncode == -9
        large = "--large" in flags
        monkeypatch.setattr(sqlite, "LARGE", 1 if large else 1 << 30)
        victim.train(folder, plan, resume=(folder / "run.db").exists())
        scene.whole(folder, undisturbed[plan], large=large)
    assert deaths


@pytest.mark.parametrize("part", range(PARTS))
def test_a_worker_killed_at_random(tmp_path, undisturbed, part):
    for kill in range(part, KILLS, 4 * PARTS):
        (plan, _, line, most), folder = draw(kill), tmp_path / f"run-{kill}"
        process = scene.start(folder, plan, "--workers", "2")
        try:
            patience(process, line, most if line else most * 8)
            for child in psutil.Process(process.pid).children()[:1]:
                with contextlib.suppress(psutil.NoSuchProcess):  # it was done already
                    child.kill()
        finally:
            error = process.communicate()[1]
        assert (process.returncode, error) == (0, "")
        scene.whole(folder, undisturbed[plan])
