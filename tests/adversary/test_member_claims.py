# SPDX-License-Identifier: Apache-2.0
"""A member that lies about its rows, its training and its measuring, to a real server.

Each lie is refused with a reason, nothing of it is stored, and the run goes on to its end.
"""

import math

import pytest
from tests.adversary.liar import (
    MEASURED,
    TRAINED,
    Server,
    history,
    in_parallel,
    stored,
)

TRAINING = {
    "no rows said": {"metrics": {k: v for k, v in TRAINED.items() if k != "rows"}},
    "rows of nobody": {"metrics": TRAINED | {"rows": 0.0}},
    "negative rows": {"metrics": TRAINED | {"rows": -12.0}},
    "half a row": {"metrics": TRAINED | {"rows": 11.5}},
    "more rows than enrolled": {"metrics": TRAINED | {"rows": 13.0}},
    "2^50 rows": {"metrics": TRAINED | {"rows": 2.0**50}},
    "a name that no plan has": {"metrics": TRAINED | {"perplexity": 1.0}},
    "other names": {"metrics": {"rows": 12.0, "accuracy": 3.0}},
    "negative steps": {"metrics": TRAINED | {"steps": -1.0}},
    "more steps than the plan takes": {"metrics": TRAINED | {"steps": 3.0}},
    "half a step": {"metrics": TRAINED | {"steps": 1.5}},
    "negative drift": {"metrics": TRAINED | {"drift": -1.0}},
    "drift beyond all sums": {"metrics": TRAINED | {"drift": 1.7e308}},
    "a negative loss": {"metrics": TRAINED | {"loss": -1.0}},
    "a loss beyond all sums": {"metrics": TRAINED | {"loss": 1.7e308}},
    "infinity": {"metrics": TRAINED | {"loss": math.inf}},
    "nan": {"metrics": TRAINED | {"loss": math.nan}},
    "text for a number": {"metrics": TRAINED | {"loss": "1"}},
    "a list of metrics": {"metrics": [1.0]},
    "another weight": {"weight": 13.0},
    "no weight": {"weight": 0.0},
    "a negative weight": {"weight": -12.0},
    "a weight without end": {"weight": math.inf},
    "a larger body": {"size": 1 << 40},
    "no body": {"size": 0},
    "another round": {"round": 2},
    "another run": {"run": "another"},
    "another attempt": {"attempt": 2},
    "a digest that is none": {"digest": "../../etc/passwd"},
}
MEASURING = {
    "nothing": {"metrics": {}},
    "rows alone": {"metrics": {"rows": 12.0}},
    "no rows said": {"metrics": {k: v for k, v in MEASURED.items() if k != "rows"}},
    "rows of nobody": {"metrics": MEASURED | {"rows": 0.0}},
    "negative rows": {"metrics": MEASURED | {"rows": -12.0}},
    "a tiny row": {"metrics": MEASURED | {"rows": 5e-324}},
    "half a row": {"metrics": MEASURED | {"rows": 12.5}},
    "2^50 rows": {"metrics": MEASURED | {"rows": 2.0**50, "loss": 1e9}},
    "a name that no plan has": {"metrics": MEASURED | {"perplexity": 1.0}},
    "a name less": {"metrics": {"rows": 12.0, "loss": 13.0}},
    "more hits than rows": {"metrics": MEASURED | {"accuracy/hits": 13.0}},
    "negative hits": {"metrics": MEASURED | {"accuracy/hits": -1.0}},
    "a negative loss": {"metrics": MEASURED | {"loss": -1.0}},
    "a loss beyond all sums": {"metrics": MEASURED | {"loss": 1.7e308}},
    "infinity": {"metrics": MEASURED | {"loss": math.inf}},
    "another model": {"model": "0" * 64},
    "another round": {"round": 2},
    "another run": {"run": "another"},
    "another attempt": {"attempt": 2},
}
HELLO = {
    "no rows": {"rows": 0},
    "negative rows": {"rows": -1},
    "2^50 rows": {"rows": 1 << 50},
    "2^49 rows": {"rows": 1 << 49},
    "rows in words": {"rows": "many"},
    "half a row": {"rows": 1.5},
    "truth for rows": {"rows": True},
    "the name of another": {"name": "ann"},
    "another plan": {"fingerprint": "0" * 64},
    "a version of its own": {"versions": [9999]},
}


def refused(said):
    """That this is a refusal, with a reason out of the list and a sentence."""
    return said["kind"] == "verdict" and not said["accepted"] and said["reason"] and said["text"]


def test_every_lie_is_refused_and_stores_nothing_and_the_run_goes_on(tmp_path):
    with Server(tmp_path / "run") as server, server.members(hello=False) as members:
        ann, bob, eve = members
        ann.hello(), bob.hello()
        before = stored(server.folder)
        for lie, more in HELLO.items():
            assert refused(eve.hello(**more)), lie
        assert stored(server.folder) == before
        eve.hello()

        task = eve.poll()
        assert task["kind"] == "task"
        before = stored(server.folder)
        for lie, more in TRAINING.items():
            assert refused(eve.update(task, **more)), lie
            assert stored(server.folder) == before, lie
        in_parallel(ann.trains, bob.trains, eve.trains)

        asked = eve.poll()
        assert asked["kind"] == "evaluate"
        before = stored(server.folder)
        for lie, more in MEASURING.items():
            assert refused(eve.measured(asked, **more)), lie
            assert stored(server.folder) == before, lie
        assert refused(eve.decline(asked, round=2))
        in_parallel(ann.measures, bob.measures, eve.measures)
        in_parallel(*(one.poll for one in members))
        assert server.ended() == "done"
    (record,) = history(server.folder)
    assert record["accepted"] == ["ann", "bob", "eve"]
    assert record["train"]["loss"] == pytest.approx(13 / 12)
    assert record["clients"]["accuracy"]["mean"] == pytest.approx(4 / 12)


def test_a_server_that_comes_back_holds_members_to_the_same(tmp_path):
    """The enrolment is read from the disk; a lie is one also in the next life."""
    with Server(tmp_path / "run") as server, server.members() as (ann, _, eve):
        task = eve.poll()
        ann.trains()
        assert refused(eve.update(task, metrics=TRAINED | {"rows": 13.0}))
    with Server(tmp_path / "run") as server, server.members() as (_, bob, eve):
        task = eve.poll()
        assert refused(eve.update(task, metrics=TRAINED | {"rows": 13.0}))
        assert refused(eve.update(task, weight=13.0))
        in_parallel(bob.trains, eve.trains)
        asked = eve.poll()
        assert refused(eve.measured(asked, metrics={"rows": 12.0}))
