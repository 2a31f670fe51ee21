# SPDX-License-Identifier: Apache-2.0
"""Law 6: a run that is killed at any instant and resumed is the run that was never killed."""

import ast
import os
import random
import selectors

import pytest
from tests.chaos import scene, victim

from muster.store import sqlite
from muster.store.sqlite import LABELS

KILLS = int(os.environ.get("MUSTER_KILLS", "20"))  # `make chaos` asks for more
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


def test_every_label_is_killed_at():
    named = set()
    for path in (scene.ROOT / "src/muster").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in (
                "_at",
                "at",
            ):
                text = node.args and isinstance(node.args[0], ast.Constant) and node.args[0].value
                named |= {text} if isinstance(text, str) and ": " in text else set()
    assert named == set(LABELS)
    assert {label for label, *_ in DEATHS} == {*LABELS, *victim.SEAMS}


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
    """What one kill at random is: plan, flags, and the part of a whole run after which."""
    dice = random.Random(kill)
    flags = (["--large"] if dice.random() < 0.5 else []) + ["--workers", dice.choice("112")]
    return dice.choice(sorted(victim.PLANS)), flags, dice.random()


def patience(process, most):
    """Wait for the victim's word, then at most so long for another."""
    with selectors.DefaultSelector() as selector:
        assert process.stdout.readline() == "ready\n", process.communicate()[1]
        selector.register(process.stdout, selectors.EVENT_READ)
        return bool(selector.select(most))


@pytest.mark.parametrize("part", range(4))
def test_killed_at_random(tmp_path, undisturbed, monkeypatch, part):
    deaths = 0
    for kill in range(part, KILLS, 4):
        plan, flags, when = draw(kill)
        folder = tmp_path / f"run-{kill}"
        for life in range(2):
            process = scene.start(folder, plan, *flags)
            try:
                patience(process, when * (0.06 if flags[-1] == "1" else 0.6) / (life + 1))
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
