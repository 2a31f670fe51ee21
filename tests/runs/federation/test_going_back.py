# SPDX-License-Identifier: Apache-2.0
"""A federation goes back to a round it keeps: as its server runs, and when none does."""

import json
import threading
from dataclasses import replace

import numpy as np
import pytest

import muster
from muster import Keep, algorithms, optimizers, tasks
from muster.cli.app import main
from muster.cli.federation import control
from muster.errors import RunError
from muster.federation.site.policy import Policy
from muster.runs.drive import Options
from muster.runs.federation.conduct import ServerSettings
from muster.runs.federation.join import Joining, LocalClient, attend_many
from muster.runs.federation.serve import ListenSettings, ServedFederation, serve
from muster.runs.replay import replay
from muster.runs.run import Run
from muster.security import audit

NAMES = ("a", "b")
PLAN = muster.Plan(
    task=tasks.numpy.MLP([5, 6, 3]),
    algorithm=algorithms.FedAvg(),
    rounds=4,
    keep=Keep(every=1),
    local=muster.Local(epochs=2, batch=8, optimizer=optimizers.SGD(0.2)),
)


def people():
    draw = np.random.default_rng(7)
    rows = {n: (draw.normal(size=(9, 5)).astype("float32"), draw.integers(0, 3, 9)) for n in NAMES}
    return muster.Population.from_arrays(rows)


def played(home, plan=PLAN, watch=None):
    """The run in this home to its end, with its sites, which have a word for rounds again."""
    ready, address, failed = threading.Event(), [], []

    def told(port):
        address.append(f"http://127.0.0.1:{port}")
        ready.set()

    def served():
        options = Options() if watch is None else Options(watch=watch)
        terms = ServerSettings(enough=len(NAMES), lease=1.0)
        try:
            serve(
                ServedFederation(plan, home / "run", None, terms),
                ListenSettings("127.0.0.1:0"),
                options=options,
                ready=told,
            )
        except BaseException as error:
            failed.append(error)
            ready.set()

    def attended(name):
        seat = LocalClient(name, people()[name], home / name)
        attend_many(plan, [seat], address[0], how=Joining(Policy(repeated_rounds=9)))

    server = threading.Thread(target=served)
    server.start()
    assert ready.wait(60) and not failed, failed
    sites = [threading.Thread(target=attended, args=(name,)) for name in NAMES]
    for thread in sites:
        thread.start()
    for thread in (server, *sites):
        thread.join(60)
        assert not thread.is_alive()
    assert not failed, failed
    return Run(home / "run", plan)


def places(home, name):
    log = audit.entries(home / name / "audit.jsonl")
    told = [one["details"] for one in log if one["action"] == "task"]
    return [(one["round"], one["attempt"]) for one in told]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    return muster.simulate(
        PLAN, people(), path=tmp_path_factory.mktemp("straight") / "run", engine="loop"
    )


@pytest.mark.parametrize("paused", [True, False])
def test_as_its_server_runs(tmp_path, straight, paused):
    """In the middle of the third round, or between two."""
    folder, answers, once = tmp_path / "run", [], threading.Event()

    def order():
        told = {"round": 1, "by": "ann", "reason": "a scanner was off"}
        answers.append(control.ask(folder, "POST", "/rollback", told))
        if paused:
            control.ask(folder, "POST", "/want/run")

    giver = threading.Thread(target=order)

    def watch(record):
        if record["round"] == 2 and not once.is_set():
            once.set()
            if paused:
                control.ask(folder, "POST", "/want/pause")
            giver.start()

    run = played(tmp_path, watch=watch)
    giver.join(60)
    (answer,) = answers
    assert (answer["to"], answer["by"], answer["attempt"]) == (1, "ann", 2)
    assert run.rollbacks == [answer] and run.round == 4
    assert [record["accepted"] for record in run.trained] == [list(NAMES)] * 4, run.trained
    assert [r["round"] for _, r in run.superseded] == list(range(2, answer["from"] + 1))
    assert np.array_equal(run.parameters, straight.parameters)
    assert replay(folder, PLAN, people()).identical
    for name in NAMES:
        found = places(tmp_path, name)
        assert len(set(found)) == len(found), "an assignment is trained once"
        assert [place for place in found if place[1] == 2] == [(2, 2), (3, 2), (4, 2)]
    audit.verify(folder / "audit.jsonl")
    log = [e for e in audit.entries(folder / "audit.jsonl") if e["action"] == "rolled back"]
    ((actor, details),) = [(e["actor"], e["details"]) for e in log]
    assert actor == "operator" and details["reason"] == "a scanner was off"
    assert (details["to"], details["from"], details["attempt"]) == (1, answer["from"], 2)


def test_what_cannot_be_done_is_told_and_the_run_goes_on(tmp_path, straight):
    folder, told, once = tmp_path / "run", [], threading.Event()
    plan = replace(PLAN, keep=Keep(every=2))

    def order():
        for order in ({"round": 1, "by": "ann", "reason": ""}, {"round": -1}, {"round": "2"}):
            try:
                control.ask(folder, "POST", "/rollback", order)
            except RunError as error:
                told.append(str(error))
        control.ask(folder, "POST", "/want/run")

    giver = threading.Thread(target=order)

    def watch(record):
        if record["round"] == 2 and not once.is_set():
            once.set()
            control.ask(folder, "POST", "/want/pause")
            giver.start()

    run = played(tmp_path, plan, watch)
    giver.join(60)
    assert "keeps no model of round 1; it keeps those of: 0, 2;" in told[0]
    assert all("an order to go back has a round, by whom and a reason" in one for one in told[1:])
    assert run.round == 4 and not run.rollbacks and not run.superseded
    assert np.array_equal(run.parameters, straight.parameters)


def test_when_no_server_runs(tmp_path, straight, capsys):
    folder = tmp_path / "run"
    played(tmp_path)
    words = ["rollback", str(folder), "2", "--reason", "bad rows at b"]
    for more in (["--json"], []):
        with pytest.raises(SystemExit) as ended:
            main([*words, *more])
        if more:
            assert ended.value.code in (0, None)
            found = json.loads(capsys.readouterr().out)
            assert (found["to"], found["from"], found["attempt"]) == (2, 4, 2)
            assert found["running"] is False and found["by"]
    assert "stands after round 2 already" in capsys.readouterr().err
    assert (Run(folder).round, [r["round"] for _, r in Run(folder).superseded]) == (2, [3, 4])
    run = played(tmp_path)
    assert np.array_equal(run.parameters, straight.parameters)
    assert places(tmp_path, "a") == [(1, 1), (2, 1), (3, 1), (4, 1), (3, 2), (4, 2)]
    log = [e for e in audit.entries(folder / "audit.jsonl") if e["action"] == "rolled back"]
    assert [e["details"]["reason"] for e in log] == ["bad rows at b"]
    with pytest.raises(SystemExit):
        main(["show", str(folder)])
    shown = " ".join(capsys.readouterr().out.split())
    assert "rolled back to round 2 by" in shown and "bad rows at b" in shown
    assert "(superseded: round 3 to 4)" in shown


def test_what_sites_remember_goes_nowhere_back(tmp_path, capsys):
    plan = replace(PLAN, algorithm=algorithms.Scaffold(), rounds=2)
    played(tmp_path, plan)
    with pytest.raises(SystemExit):
        main(["rollback", str(tmp_path / "run"), "1"])
    assert "what its sites remember" in " ".join(capsys.readouterr().err.split())
    assert Run(tmp_path / "run").round == 2
