# SPDX-License-Identifier: Apache-2.0
"""A server that was put back to an older copy: its sites train again what it lost if it says so."""

import shutil
import threading
from dataclasses import replace

import numpy as np
import pytest

import muster
from muster import algorithms, optimizers, tasks
from muster.cli.app import main
from muster.federation.site.policy import Policy
from muster.runs.federation.conduct import ServerSettings
from muster.runs.federation.join import Joining, LocalClient, attend_many
from muster.runs.federation.serve import ListenSettings, ServedFederation, serve
from muster.runs.run import Run
from muster.security import audit

NAMES = ("a", "b")
PLAN = muster.Plan(
    task=tasks.numpy.MLP([5, 6, 3]),
    algorithm=algorithms.FedAvg(),
    rounds=4,
    local=muster.Local(epochs=2, batch=8, optimizer=optimizers.SGD(0.2)),
)


def people():
    draw = np.random.default_rng(7)
    rows = {n: (draw.normal(size=(9, 5)).astype("float32"), draw.integers(0, 3, 9)) for n in NAMES}
    return muster.Population.from_arrays(rows)


def played(home, plan=PLAN, policies=None):
    """The run in this home to its end, with its sites; its records."""
    ready, address, policies = threading.Event(), [], policies or {}

    def told(port):
        address.append(f"http://127.0.0.1:{port}")
        ready.set()

    def served():
        terms = ServerSettings(enough=len(NAMES), lease=1.0)
        serve(
            ServedFederation(plan, home / "run", None, terms),
            ListenSettings("127.0.0.1:0"),
            ready=told,
        )

    def attended(name):
        seat = LocalClient(name, people()[name], home / name)
        how = Joining(policies.get(name, Policy()))
        attend_many(PLAN, [seat], address[0], how=how)

    server = threading.Thread(target=served)
    server.start()
    assert ready.wait(60)
    sites = [threading.Thread(target=attended, args=(name,)) for name in NAMES]
    for thread in sites:
        thread.start()
    for thread in (server, *sites):
        thread.join(60)
        assert not thread.is_alive()
    return Run(home / "run", plan).trained


@pytest.fixture
def home(tmp_path):
    """A run of four rounds that was put back to a copy of its second."""
    played(tmp_path, replace(PLAN, rounds=2))
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    played(tmp_path)
    (tmp_path / "run").rename(tmp_path / "whole")
    (tmp_path / "copy").rename(tmp_path / "run")
    return tmp_path


def said(capsys):
    """Return the text that the terminal has shown, in one line."""
    return " ".join("".join(capsys.readouterr()).split())


def shell(*words):
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return ended.value.code or 0


def test_who_says_nothing_has_its_lost_rounds_trained_by_nobody(home):
    history = played(home)
    assert [record["accepted"] for record in history] == [["a", "b"]] * 2 + [[]] * 2
    assert "is settled here" in history[2]["declined"][0]["reason"]
    log = audit.entries(home / "a" / "audit.jsonl")
    assert "settled" in {e["details"]["rule"] for e in log if e["action"] == "declined"}


def test_a_higher_attempt_is_trained_with_the_sites_word_and_has_the_bits_it_had(home, capsys):
    """The plan has four rounds, and each site has trained four times: two again are its word."""
    assert shell("rollback", home / "run", 2, "--lost", 2) == 1
    assert "give the last round that was played, from 3 to" in said(capsys)
    assert shell("rollback", home / "run", 2, "--lost", 4, "--reason", "an old tape") == 0
    assert "rounds 3 to 4 are lost, and played again" in said(capsys)
    assert shell("show", home / "run") == 0
    assert "an old tape (lost by an older copy: round 3 to 4)" in said(capsys)
    history = played(home, policies={"a": Policy(repeated_rounds=2)})
    assert [record["accepted"] for record in history] == [["a", "b"]] * 2 + [["a"]] * 2
    assert "repeated_rounds in site.toml" in history[2]["declined"][0]["reason"]
    trained = [e["details"] for e in audit.entries(home / "a/audit.jsonl") if e["action"] == "task"]
    places = [(one["round"], one["attempt"]) for one in trained]
    assert places == [(1, 1), (2, 1), (3, 1), (4, 1), (3, 2), (4, 2)]
    server = [e["details"] for e in audit.entries(home / "run/audit.jsonl")]
    assert {(2, 2, 4)} == {(e["attempt"], e["to"], e["lost"]) for e in server if "lost" in e}
    assert [one["attempt"] for one in server if "attempt" in one and "port" in one] == [1, 2]


def test_plays_of_lost_rounds_are_counted_as_the_operator_says(home, capsys):
    assert shell("rollback", home / "run", 2, "--played", 3) == 1
    assert "give their last with --lost LAST" in said(capsys)
    assert shell("rollback", home / "run", 2, "--lost", 4, "--played", 3) == 0
    assert "they count as 3 releases" in said(capsys)
    assert Run(home / "run").rollbacks[-1]["attempt"] == 3


def test_the_same_rounds_again_give_the_same_model(home):
    assert shell("rollback", home / "run", 2, "--lost", 4) == 0
    played(home, policies=dict.fromkeys(NAMES, Policy(repeated_rounds=2)))
    whole, again = Run(home / "whole", PLAN), Run(home / "run", PLAN)
    assert np.array_equal(whole.parameters, again.parameters)


def test_a_site_that_keeps_its_metrics_counts_all_the_same(tmp_path):
    history = played(tmp_path, policies={"a": Policy(metrics="hidden")})
    assert all(record["accepted"] == ["a", "b"] for record in history)
    assert not any("train" in record for record in history), "a mean of some is none of all"
    assert {record["clients"]["count"] for record in history} == {1}
    shown = [[client for client, _ in record["norms"]] for record in history]
    assert shown == [["b"]] * 4, "how long its update was is a function of the very same rows"
    (tmp_path / "open").mkdir()
    told = played(tmp_path / "open")
    assert all("train" in record and record["clients"]["count"] == 2 for record in told)
    one, other = Run(tmp_path / "run", PLAN), Run(tmp_path / "open" / "run", PLAN)
    assert np.array_equal(one.parameters, other.parameters)
