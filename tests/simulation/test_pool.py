# SPDX-License-Identifier: Apache-2.0
"""The pool: one worker or many give the same bits, and no answer is ever read for another."""

import gc
import os
import pickle
import signal
import subprocess
import sys

import psutil
import pytest
from tests.chaos import crew, victim

from muster.errors import WorkerError
from muster.rounds import start
from muster.simulation import Choice, LocalExecutor, Pool, Simulation, origins, pool
from muster.simulation.work_unit import WorkUnit
from muster.testing import check_clients


def pieces(count=crew.CLIENTS, round=1):
    return [WorkUnit(round, count, (c,), (1,), (c,), None) for c in range(count)]


def made(workers=2, people=None, **options):
    people = people or crew.population()
    sent = start(crew.PLAN).sent()
    shared = people if people.is_lazy else people.shared()
    return Pool(pickle.dumps(crew.PLAN), "loop", shared, sent, workers, **options), sent


def plain(results):
    return [
        (one.replies[0].clients, one.replies[0].weight, one.replies[0].payload["delta"].tobytes())
        for one in results
    ]


@pytest.fixture
def crowd():
    before = psutil.Process().children()
    crowd, sent = made()
    yield crowd, sent
    crowd.close()
    assert psutil.Process().children() == before


@pytest.fixture(scope="module")
def wanted():
    sent = start(crew.PLAN).sent()
    return plain(LocalExecutor(crew.PLAN, "loop", crew.population()).perform(sent, pieces()))


def test_results_in_order_and_equal_to_one_process(crowd, wanted):
    workers, sent = crowd
    assert plain(workers.perform(sent, pieces())) == wanted
    people = crew.population()
    asked = [(c, None) for c in people.clients]
    here = LocalExecutor(crew.PLAN, "loop", people)
    assert list(workers.measure(sent, asked)) == list(here.measure(sent, asked))


def test_a_stream_left_unfinished_is_dropped(crowd, wanted):
    workers, sent = crowd
    for taken in (0, 1, 3):
        stream = workers.perform(sent, pieces(round=2))
        for _ in range(taken):
            next(stream)
        assert plain(workers.perform(sent, pieces())) == wanted


def test_an_older_stream_cannot_read_newer_answers(crowd, wanted):
    workers, sent = crowd
    older = workers.perform(sent, pieces())
    next(older)
    assert plain(workers.perform(sent, pieces())) == wanted
    with pytest.raises(WorkerError, match="dropped when newer work was begun"):
        list(older)


def test_an_error_in_the_middle_leaves_a_pool_that_works(crowd, wanted):
    workers, sent = crowd
    bad = pieces()
    bad[4] = WorkUnit(1, 9, ("nobody",), (1,), (4,), None)
    with pytest.raises(Exception, match="'nobody' is not enrolled"):
        list(workers.perform(sent, bad))
    assert plain(workers.perform(sent, pieces())) == wanted


def test_all_workers_killed_while_idle(crowd, wanted):
    workers, sent = crowd
    for pid in workers.pids:
        os.kill(pid, signal.SIGKILL)
    assert plain(workers.perform(sent, pieces())) == wanted


def test_a_closed_pool(wanted):
    workers, sent = made()
    stream = workers.perform(sent, pieces())
    next(stream)
    workers.close()
    workers.close()
    assert workers.pids == []
    with pytest.raises(WorkerError, match="closed"):
        list(workers.perform(sent, pieces()))


def test_nothing_is_left_open():
    def once():
        workers, sent = made()
        list(workers.perform(sent, pieces()))
        workers.close()

    once()
    gc.collect()
    before = psutil.Process().num_fds()
    once()
    gc.collect()
    assert psutil.Process().num_fds() == before


def test_a_worker_that_cannot_be_started(monkeypatch):
    gc.collect()  # what earlier tests left to the collector is not this one's
    before = psutil.Process().num_fds()
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(WorkerError, match=r"cannot be started .*--workers 1"):
        made()
    gc.collect()
    assert psutil.Process().num_fds() == before


def test_a_worker_that_does_not_leave_is_killed(monkeypatch):
    monkeypatch.setattr(pool, "PATIENCE", 0.01)
    workers, _ = made(1)
    (pid,) = workers.pids
    os.kill(pid, signal.SIGSTOP)  # it cannot see its channel close
    workers.close()
    assert not psutil.pid_exists(pid)


MODULE = """
import sys
import numpy as np
{guard}
def load(client):
    return np.full((3, 3), float(client)), np.full(3, client)
"""


def loaded(folder, guard=""):
    path = folder / "plan_elsewhere.py"
    path.write_text(MODULE.format(guard=guard))
    sys.modules.pop("plan_elsewhere", None)
    return origins.load(origins.Origin("plan_elsewhere", str(path)))


def test_a_loader_in_a_file_that_no_import_path_leads_to(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    people = crew.muster.Population.lazy(range(crew.CLIENTS), loaded(tmp_path).load, 3)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(tmp_path)])
    workers, sent = made(people=people)
    try:
        found = plain(workers.perform(sent, pieces()))
    finally:
        workers.close()
    assert found == plain(LocalExecutor(crew.PLAN, "loop", people).perform(sent, pieces()))


@pytest.mark.parametrize("error", ["RuntimeError", "SystemExit"])
def test_a_module_that_fails_in_a_worker_is_shown(tmp_path, monkeypatch, error):
    monkeypatch.setattr(sys, "path", list(sys.path))
    guard = f"if 'pytest' not in sys.modules:\n    raise {error}('only here')"
    people = crew.muster.Population.lazy(range(crew.CLIENTS), loaded(tmp_path, guard).load, 3)
    workers, sent = made(people=people)
    try:
        with pytest.raises(WorkerError, match=rf"cannot load the plan:(.|\n)*{error}: only here"):
            list(workers.perform(sent, pieces()))
    finally:
        workers.close()


def test_a_worker_never_imports_main(tmp_path):
    """A script without the usual guard at its end trains all the same."""
    (tmp_path / "script.py").write_text(
        "import numpy as np, muster\n"
        "from muster import algorithms, tasks\n"
        "print('begun')\n"
        "plan = muster.Plan(tasks.numpy.SoftmaxRegression(2, 2), algorithms.FedAvg(),\n"
        "    muster.Local(epochs=1), rounds=1)\n"
        "rows = {i: (np.ones((3, 2)), np.arange(3) % 2) for i in range(4)}\n"
        "people = muster.Population.from_arrays(rows)\n"
        "print(muster.simulate(plan, people, path='run', workers=2).facts['workers'])\n"
    )
    said = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert (said.stdout, said.stderr) == ("begun\n2\n", "")


@pytest.mark.parametrize("plan", victim.PLANS)
def test_any_number_of_workers_gives_one_model(tmp_path, plan):
    digests = set()
    for workers in (1, 2, 3):
        run = victim.train(tmp_path / str(workers), plan, workers=workers)
        digests.add((run.trained[-1]["model"], str(run.metrics)))
    assert len(digests) == 1


def test_the_pool_is_a_runtime():
    before = psutil.Process().children()

    def runtime(plan, population, store, absent):
        sent = start(plan).sent()
        executor = Pool(pickle.dumps(plan), "matrix", population.shared(), sent, 2)
        choice = Choice("matrix", 4, False, "")
        return Simulation(plan, population, store, choice, executor, absent)

    check_clients(runtime)
    assert psutil.Process().children() == before
