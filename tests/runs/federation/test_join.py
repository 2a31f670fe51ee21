# SPDX-License-Identifier: Apache-2.0
"""Sites join a real server on loopback: the bits of the loop engine, and a stop that loses none."""

import asyncio
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest

import muster
from muster import algorithms, metrics, optimizers, pipeline, tasks
from muster.errors import DataError, RunError
from muster.federation.site.trainer import Habits
from muster.runs import planfile
from muster.runs.federation.conduct import ServerSettings
from muster.runs.federation.join import Joining, LocalClient, attend_many, join, site_rows
from muster.runs.federation.serve import ListenSettings, ServedFederation, serve
from muster.runs.run import Run
from muster.security import audit

PLAN = muster.Plan(
    task=tasks.numpy.MLP([5, 6, 3]),
    algorithm=algorithms.Scaffold(),
    rounds=3,
    local=muster.Local(epochs=2, batch=8, optimizer=optimizers.SGD(0.2)),
)
NAMES = ("a", "b", "c")


def people():
    """Three clients."""
    draw = np.random.default_rng(7)
    rows = {n: (draw.normal(size=(9, 5)).astype("float32"), draw.integers(0, 3, 9)) for n in NAMES}
    return muster.Population.from_arrays(rows)


class Server:
    """A server in a thread, on plain HTTP."""

    def __init__(self, folder, plan=PLAN):
        self.folder, self.plan, self.stop = folder, plan, threading.Event()
        self.heard, self.address, self.why = threading.Event(), "", ""
        self.thread = threading.Thread(target=self.run)

    def run(self):
        try:
            federation = ServedFederation(
                self.plan, self.folder, None, ServerSettings(enough=len(NAMES))
            )
            where = ListenSettings("127.0.0.1:0")
            self.why = serve(federation, where, ready=self.ready, stop=self.stop)
        finally:
            self.heard.set()

    def ready(self, port):
        self.address = f"http://127.0.0.1:{port}"
        self.heard.set()

    def __enter__(self):
        self.thread.start()
        assert self.heard.wait(60) and self.address
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()


def seats(folder):
    return [LocalClient(name, people()[name], folder / name) for name in NAMES]


def test_sites_have_the_bits_of_the_loop_and_audit_themselves(tmp_path):
    alone = muster.simulate(PLAN, people(), path=tmp_path / "alone", engine="loop")
    with Server(tmp_path / "served") as server:
        ended = attend_many(PLAN, seats(tmp_path), server.address)
        server.thread.join(60)
    assert server.why == "done" and {e.rounds for e in ended.values()} == {3}
    served = Run(tmp_path / "served", PLAN)
    assert np.array_equal(served.parameters, alone.parameters)
    found = [e["action"] for e in audit.entries(tmp_path / "a" / "audit.jsonl")]
    assert found == [
        "genesis",
        "enrolled",
        *["task", "update", "verdict", "evaluate", "settled"] * 3,
        "ended",
    ]


def test_sums_of_metrics_at_sites_are_those_of_the_simulation(tmp_path):
    plan = replace(PLAN, metrics=[metrics.F1("macro"), metrics.TopK(2)], rounds=1)
    tests = {name: people()[name] for name in ("a", "b")}
    rows = {name: people()[name] for name in NAMES}
    population = muster.Population.from_arrays(rows, tests)
    alone = muster.simulate(plan, population, path=tmp_path / "alone", engine="loop")
    with Server(tmp_path / "served", plan) as server:
        places = [LocalClient(n, rows[n], tmp_path / n, population.test(n)) for n in NAMES]
        attend_many(plan, places, server.address)
        server.thread.join(60)
    served = Run(tmp_path / "served", plan)
    assert served.metrics == alone.metrics and set(alone.metrics) == {"loss", "f1 macro", "top 2"}
    assert served.measured == alone.measured == "the clients' own test rows"
    assert served.directions == alone.directions
    assert served.trained[-1]["clients"] == alone.trained[-1]["clients"]
    on = "their own test rows (2 clients), or the rows they trained on (1)"
    assert served.trained[-1]["clients"]["on"] == on


def test_a_site_declines_metrics_that_are_no_sums(tmp_path):
    plan = replace(PLAN, metrics=[metrics.ByRow(mean, lower_is_better=False)], rounds=1)
    with Server(tmp_path / "served", plan) as server:
        attend_many(
            plan, [LocalClient(n, people()[n], tmp_path / n) for n in NAMES], server.address
        )
        server.thread.join(60)
    (record,) = Run(tmp_path / "served", plan).trained
    assert record["accepted"] == [] and "one number for each row" in record["failed"][0]["error"]


def mean(outputs, y):
    return (outputs.argmax(1) == y).mean()


def test_a_stop_keeps_what_is_finished_and_joining_again_goes_on(tmp_path):
    alone = muster.simulate(PLAN, people(), path=tmp_path / "alone", engine="loop")
    stop = threading.Event()

    def watch(event):
        if event["event"] == "settled":
            stop.set()

    with Server(tmp_path / "served") as server:
        first = attend_many(PLAN, seats(tmp_path), server.address, stop=stop, watch=watch)
        assert None in first.values()
        attend_many(PLAN, seats(tmp_path), server.address)
        server.thread.join(60)
    assert np.array_equal(Run(tmp_path / "served", PLAN).parameters, alone.parameters)


def test_the_first_error_of_one_ends_all(tmp_path):
    asyncio.run(hold(tmp_path))


async def hold(folder):
    """Two members from one folder: the second is refused."""
    rows = people()["a"]
    seat = LocalClient("a", rows, folder)
    with pytest.raises(RunError, match="another process"):
        await asyncio.to_thread(attend_many, PLAN, [seat, seat], "http://127.0.0.1:9")


def test_one_client_joins_and_is_stopped_while_it_waits(tmp_path):
    async def life():
        stop = asyncio.Event()

        def watch(event):
            seen.append(event["event"])
            stop.set()

        how = Joining(stop=stop, watch=watch, habits=Habits(wait=1.0))
        return await join(PLAN, people()["a"], "http://127.0.0.1:9", tmp_path / "a", how=how)

    seen = []
    assert asyncio.run(life()) is None
    assert set(seen) == {"waiting"}  # a second try may begin before the stop is seen


FILE = """
import numpy as np
import muster
from muster import algorithms, tasks
plan = muster.Plan(tasks.numpy.MLP([2, 2]), algorithms.FedAvg(), muster.Local(epochs=1))

def local_data(path):
    return {rows}
"""
GOOD = "np.ones((3, 2)), np.array([0, 1, 0])"


@pytest.fixture
def written(tmp_path):
    """Write a plan file and a loader beside it."""

    def write(rows, loader=None):
        path = tmp_path / "plan.py"
        path.write_text(FILE.replace("{rows}", rows))
        (tmp_path / "mine.py").write_text(FILE.replace("{rows}", loader or GOOD))
        return planfile.load(path)

    yield write
    for name in ("plan", "loader_plan_mine"):
        sys.modules.pop(name, None)


def test_rows_come_from_the_plan_file_or_a_loader(written, tmp_path):
    x, y = site_rows(written(GOOD, "np.zeros((1, 2)), np.array([1])"), tmp_path)
    assert len(x) == len(y) == 3
    x, _ = site_rows(
        written(GOOD, "np.zeros((1, 2)), np.array([1])"), tmp_path, f"{tmp_path}/mine.py:local_data"
    )
    assert len(x) == 1


@pytest.mark.parametrize(
    "rows, said",
    [
        ("1 / 0", "ZeroDivisionError"),
        ("5", r"local_data\(\) in .* holds int"),
        ("np.ones((0, 2)), []", "is empty"),
        ("np.ones((3, 2)), np.array([0, 1, 7])", "labels hold 7"),
    ],
)
def test_rows_that_cannot_be_trained_on_are_said(rows, said, written, tmp_path):
    with pytest.raises(DataError, match=said):
        site_rows(written(rows), tmp_path)


@pytest.mark.parametrize(
    "loader, said",
    [
        ("mine.py", "write file.py:name"),
        ("gone.py:rows", "does not exist"),
        ("mine.py:gone", "no function gone"),
    ],
)
def test_a_loader_that_is_none_is_said(loader, said, written, tmp_path):
    file = written(GOOD)
    with pytest.raises(DataError, match=said):
        site_rows(file, tmp_path, f"{tmp_path}/{loader}")


def test_a_plan_file_without_local_data_is_said(tmp_path):
    path = tmp_path / "plan.py"
    path.write_text(FILE.replace("{rows}", GOOD).replace("local_data", "other"))
    with pytest.raises(DataError, match="no function local_data"):
        site_rows(planfile.load(path), tmp_path)
    sys.modules.pop("plan")


def test_a_plan_whose_sums_are_masked_needs_an_identity_to_sign_with(tmp_path):
    plan = muster.Plan(
        task=tasks.numpy.SoftmaxRegression(4, 3),
        algorithm=algorithms.FedAvg(),
        cap=9,
        local=muster.Local(epochs=1),
        evaluate=muster.Every(1, clients=0),
        pipeline=[pipeline.Clip(1.0), pipeline.Quantize(8), pipeline.SecureSum()],
    )
    rows = np.zeros((3, 4), "float32"), np.zeros(3, int)
    with pytest.raises(RunError, match=r"masks its sums, .* join over https with --identity"):
        asyncio.run(join(plan, rows, "http://127.0.0.1:1", tmp_path / "site"))
    with pytest.raises(RunError, match=r"masks its sums, .* serve with --identity"):
        serve(ServedFederation(plan, tmp_path / "run"), ListenSettings("127.0.0.1:0"))
