# SPDX-License-Identifier: Apache-2.0
"""Workers that die, parents that die, and Ctrl-C: the same bits, and nothing left over."""

import gc
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from tests.chaos import crew, scene

from muster.errors import ClientError, WorkerError
from muster.simulation import Pool
from muster.store import SQLiteStore

SOON = 30  # seconds in which a test that waits for an event fails


@pytest.fixture(autouse=True)
def nothing_left_over():
    """No process, no file descriptor and no shared memory outlives a test."""
    gc.collect()  # of the tests before
    before = remains()
    yield
    gc.collect()
    assert remains() == before


def remains():
    children = {child.pid for child in psutil.Process().children(recursive=True)}
    found = set(Path("/dev/shm").iterdir()) if Path("/dev/shm").exists() else set()
    others = {path for path in found if path.name.startswith("PostgreSQL.")}  # of tests beside
    return children, psutil.Process().num_fds(), found - others


@pytest.fixture
def deeds(tmp_path, monkeypatch):
    """The folder whose files say who misbehaves when."""
    folder = tmp_path / "deeds"
    folder.mkdir()
    monkeypatch.setenv("CREW", str(folder))
    return folder


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    return outcome(crew.train(folder, 1))


def outcome(run):
    store = SQLiteStore(run.path, readonly=True)
    try:
        _, history, latest = store.snapshot()
    finally:
        store.close()
    return scene.bits(latest[1]), [scene.timeless(record) for record in history]


@pytest.mark.parametrize("lazy", [False, True])
def test_a_worker_that_dies_is_replaced_and_its_clients_trained_again(
    tmp_path, deeds, undisturbed, lazy
):
    for deed in ("die-0-1", "die-4-2", "die-5-2", "die-8-4"):
        (deeds / deed).touch()
    told = []
    run = crew.train(tmp_path / "run", 2, lazy=lazy, tell=told.append)
    assert outcome(run) == undisturbed
    died = [event["text"] for event in told if event["event"] == "died"]
    assert len(died) == 4
    assert re.fullmatch(
        r"worker process \d+ died \(killed by SIGKILL\) in training clients 0, 1, 2, 3, 4 and 4 "
        r"more in round 1, which is done again",
        died[0],
    )
    assert not list(deeds.iterdir())
    assert (run.facts["workers"], run.facts["workers_reason"]) == (2, "asked for")


def test_workers_killed_between_rounds_are_replaced(tmp_path, undisturbed, monkeypatch):
    pools = []
    begin = Pool.__init__
    monkeypatch.setattr(
        Pool, "__init__", lambda self, *a, **k: (pools.append(self), begin(self, *a, **k))[1]
    )
    seen = []

    def kill(record):
        seen.append(pools[0].pids)
        for pid in pools[0].pids:
            os.kill(pid, signal.SIGKILL)

    assert outcome(crew.train(tmp_path / "run", 3, watch=kill)) == undisturbed
    pids = [pid for round in seen for pid in round]
    assert len(set(pids)) == len(pids) == 3 * (crew.ROUNDS + 1)  # also before the first


def test_a_piece_that_kills_three_workers_stops_the_run_and_is_named(tmp_path, deeds, undisturbed):
    (deeds / "doom-3-2").touch()
    with pytest.raises(
        WorkerError,
        match=r"training clients 0, 1, 2, 3, 4 and 4 more in round 2 killed .* 3 times \(the last "
        r"was process \d+, killed by SIGKILL\)",
    ):
        crew.train(tmp_path / "run", 2)
    (deeds / "doom-3-2").unlink()
    assert outcome(crew.train(tmp_path / "run", 2)) == undisturbed


@pytest.mark.parametrize("deed", ["leave", "exit"])
def test_code_that_ends_the_process_is_named_at_once_and_run_no_second_time(
    tmp_path, deeds, undisturbed, deed
):
    (deeds / f"{deed}-3-2").touch()
    told = []
    with pytest.raises(
        WorkerError,
        match=r"training clients 0, 1, .* in round 2 ended its worker process \d+ "
        r"\(exit status 3\): .*raise an exception",
    ):
        crew.train(tmp_path / "run", 2, tell=told.append)
    assert (deeds / f"{deed}-3-2").read_text() == "once\n"
    assert not told
    (deeds / f"{deed}-3-2").unlink()
    assert outcome(crew.train(tmp_path / "run", 2)) == undisturbed


def test_memory_that_runs_out_in_a_worker_names_its_client(tmp_path, deeds, undisturbed):
    (deeds / "starve-6-3").touch()
    with pytest.raises(ClientError, match="MemoryError: no room for the batch") as caught:
        crew.train(tmp_path / "run", 2)
    assert (caught.value.client, caught.value.round) == (6, 3)
    (deeds / "starve-6-3").unlink()
    assert outcome(crew.train(tmp_path / "run", 2)) == undisturbed


@pytest.mark.parametrize("workers", [1, 2])
def test_a_user_error_names_client_round_and_stage(tmp_path, deeds, undisturbed, workers):
    (deeds / "raise-6-3").touch()
    with pytest.raises(ClientError) as caught:
        crew.train(tmp_path / "run", workers)
    error = caught.value
    assert (error.client, error.round, error.stage) == (6, 3, "train")
    assert "ValueError: the scanner was off" in str(error)
    assert "in fail" in str(error)
    (deeds / "raise-6-3").unlink()
    assert outcome(crew.train(tmp_path / "run", workers)) == undisturbed


def test_lenient_workers_go_on_without_the_client(tmp_path, deeds):
    (deeds / "raise-6-3").touch()
    runs = [crew.train(tmp_path / str(n), n, lenient=True) for n in (1, 2)]
    assert outcome(runs[0])[0] == outcome(runs[1])[0]
    (failed,) = runs[1].trained[2]["failed"]
    assert (failed["client"], failed["stage"]) == (6, "train")
    assert 6 not in runs[1].trained[2]["accepted"]
    assert 6 in runs[1].trained[3]["accepted"]


def begun(folder, workers):
    """A run in a process group of its own, at the moment its `fit` hangs."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.chaos.crew", str(folder), str(workers)],
        cwd=scene.ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    STARTED.append(process)
    assert process.stdout.readline() == "hanging\n", process.communicate()[1]
    return process


STARTED = []


@pytest.fixture(autouse=True)
def _nobody_stays_behind():
    """Whatever a failing test leaves running ends with it."""
    yield
    while STARTED:
        process = STARTED.pop()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.parametrize("workers", [1, 2])
def test_control_c_ends_a_fit_that_hangs(tmp_path, deeds, undisturbed, workers):
    (deeds / "hang-5-3").touch()
    process = begun(tmp_path / "run", workers)
    crowd = psutil.Process(process.pid).children()
    assert len(crowd) == (workers if workers > 1 else 0)
    os.killpg(process.pid, signal.SIGINT)
    out, error = process.communicate(timeout=SOON)  # ends when every writer has
    assert (process.returncode, out, error) == (130, "interrupted\n", "")
    assert not any(child.is_running() for child in crowd)
    (deeds / "hang-5-3").unlink()
    run = crew.train(tmp_path / "run", workers)
    assert outcome(run) == undisturbed


def test_workers_leave_when_their_parent_is_killed(tmp_path, deeds, undisturbed):
    (deeds / "hang-5-3").touch()
    process = begun(tmp_path / "run", 3)
    crowd = psutil.Process(process.pid).children()
    assert len(crowd) == 3
    process.kill()
    out, _ = process.communicate(timeout=SOON)  # the workers hold the other ends of these pipes
    assert (process.returncode, out) == (-signal.SIGKILL, "")
    (deeds / "hang-5-3").unlink()
    assert outcome(crew.train(tmp_path / "run", 2)) == undisturbed


SCRIPT = """
import numpy as np
import muster
from muster import algorithms, tasks

def start():
    return {"a": np.zeros(1)}

def fit(model, data, config):
    return model

def measure(model, data):
    return {"loss": 0.0}

def load(client):
    return np.ones((2, 1)), np.zeros(2, int)

plan = muster.Plan(PLAN, algorithm=algorithms.FedAvg(), local=muster.Local(epochs=1), rounds=1)
people = muster.Population.lazy(range(3), load, 2)
run = muster.simulate(plan, people, path="run", workers=2)
print(run.facts["workers"], run.facts["workers_reason"])
"""


@pytest.mark.parametrize(
    ("task", "what"),
    [
        ("tasks.custom.Custom(start, fit, measure)", "plan's functions live"),
        ("tasks.numpy.SoftmaxRegression(1, 2)", "population's loader lives"),
    ],
)
def test_functions_in_main_train_in_one_process_and_say_so(tmp_path, task, what):
    (tmp_path / "script.py").write_text(SCRIPT.replace("PLAN", task))
    said = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert said.stdout.startswith(f"1 the {what} in __main__")
