# SPDX-License-Identifier: Apache-2.0
"""A run with noise that is killed anywhere: charged before its rounds, once, and the same bits."""

import importlib
from dataclasses import replace

import pytest
from tests.chaos import scene, victim
from tests.chaos.victim import population
from tests.runs.privacy.test_guard import ROUNDS, entries, facts, parameters, plan

import muster
from muster.privacy import PrivacyLedger
from muster.privacy.book import LedgerFile
from muster.runs.privacy import guard as guards
from muster.runs.privacy.facts import ledger_of
from muster.runs.privacy.guard import RunAccountant
from muster.runs.run import Run
from muster.store import SQLiteStore
from muster.store.sqlite import LABELS

driving = importlib.import_module("muster.runs.drive")
__all__ = ["plan"]  # the fixture


@pytest.fixture
def train(tmp_path, plan):
    """Train the plan in a folder of that name."""
    people = population()

    def trained(name, *, resume=False, options=None):
        task = muster.tasks.numpy.MLP([5, 4, 3])
        return muster.simulate(
            replace(plan, task=task),
            people,
            people.pooled(),
            path=tmp_path / name,
            resume=resume,
            **(options or {}),
        )

    return trained


class Killed(BaseException):
    """A kill that no code that cleans up expects."""


def trap(label, count):
    """Raises at the count-th pass of a label."""
    left = count

    def at(passed=label):
        nonlocal left
        left -= passed == label
        if passed == label and not left:
            raise Killed

    return at


SEAMS = {
    "guard: before the charge": (guards, "try_charge", True),
    "guard: charged": (RunAccountant, "charge_round", False),
    "guard: before the note": (SQLiteStore, "note", True),
    "round: before": (driving, "play", True),
    "round: after": (driving, "play", False),
    "round: before its commit": (SQLiteStore, "commit", True),
    "guard: before the secret goes": (RunAccountant, "close", True),
    "history: before its line": (driving, "append", True),
}


def lay(monkeypatch, label, count):
    """A trap at a seam, or for a label of a commit."""
    at = trap(label, count)
    if label not in SEAMS:
        return at
    place, name, before = SEAMS[label]
    inner = getattr(place, name)

    def wrapped(*given, **named):
        if before:
            at()
        found = inner(*given, **named)
        if not before:
            at()
        return found

    monkeypatch.setattr(place, name, wrapped)
    return lambda passed: None


@pytest.mark.parametrize("count", [1, 3, ROUNDS])
@pytest.mark.parametrize("label", [*LABELS, *SEAMS])
@pytest.mark.parametrize("entropy", [None, lambda n: bytes(n)], ids=["seed", "secret"])
def test_killed_anywhere_each_round_is_charged_once_and_has_the_same_bits(
    train, tmp_path, monkeypatch, label, count, entropy
):
    options = {"entropy": entropy, "engine": "loop", "workers": 1}
    calm = train("calm", options=options)
    at = lay(monkeypatch, label, count)
    with pytest.raises(Killed):
        train("run", options=options | {"at": at})
    monkeypatch.undo()
    if not (tmp_path / "run" / "run.db").exists():
        return
    kept, history = facts(tmp_path / "run")
    history = [record for record in history if record["round"]]
    before = entries(tmp_path / "run")
    assert len(history) <= len(before) <= len(history) + 1, "charged before the release"
    if entropy and len(before) > len(history):
        assert kept["secret"]["round"] == len(before), "the secret is there before the charge"
    run = train("run", options=options, resume=True)
    assert parameters(run) == parameters(calm)
    assert [r["round"] for r in run.trained] == list(range(1, ROUNDS + 1))
    assert [r["privacy"] for r in run.trained] == [r["privacy"] for r in calm.trained]
    after = entries(tmp_path / "run")
    assert [e.round for e in after] == list(range(1, ROUNDS + 1))
    assert after[: len(before)] == tuple(
        replace(a, accepted=b.accepted) for a, b in zip(before, after, strict=False)
    )
    assert facts(tmp_path / "run")[0].get("secret") is None
    assert "secret" not in run.facts


def test_killed_between_a_shared_ledger_and_its_own_a_round_is_charged_once(
    train, tmp_path, monkeypatch
):
    grant, file = LedgerFile.grant, tmp_path / "people.json"
    options = {"entropy": bytes, "engine": "loop", "workers": 1, "ledger": file}

    def dies(*given):
        grant(*given)
        raise Killed

    monkeypatch.setattr(LedgerFile, "grant", dies)
    with pytest.raises(Killed):
        train("run", options=options)
    monkeypatch.undo()
    assert [e.round for e in PrivacyLedger.from_json(file.read_text()).entries] == [1]
    train("run", options=options, resume=True)
    assert PrivacyLedger.from_json(file.read_text()) == ledger_of(Run(tmp_path / "run"))
    assert [e.round for e in entries(tmp_path / "run")] == list(range(1, ROUNDS + 1))


@pytest.mark.parametrize("label", [*LABELS, *victim.SEAMS])
def test_a_process_that_is_killed_loses_no_charge(tmp_path, label):
    calm, folder = tmp_path / "calm", tmp_path / "run"
    victim.train(calm, "noise")
    large = label in victim.OF_FILES
    flags = ["--large"] if large else []
    once = label.startswith(("exports", "facts"))
    if not scene.killed(folder, "noise", label, "1" if once else "3", *flags):
        pytest.skip("the plan does not come by this label")  # such as memory
    before = entries(folder) if (folder / "run.db").exists() else ()
    victim.train(folder, "noise", resume=(folder / "run.db").exists())
    assert scene.outcome(folder) == scene.outcome(calm)
    after = entries(folder)
    assert [e.round for e in after] == list(range(1, victim.ROUNDS + 1))
    assert [e.epsilon for e in after[: len(before)]] == [e.epsilon for e in before]
    assert [e.epsilon for e in after] == sorted(e.epsilon for e in after)
