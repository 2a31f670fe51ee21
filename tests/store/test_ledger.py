# SPDX-License-Identifier: Apache-2.0
"""A federation's store on either database: led by one, swept when opened, read by the others."""

import subprocess
import sys
import threading

import pytest
from tests.store.scene import (
    CLIENTS,
    DIGEST,
    arrived,
    begin,
    decide,
    enrol,
    opening,
    order,
    put,
    wanted,
)

pytest.importorskip("sqlalchemy")

from muster.errors import RunError
from muster.store import SQLiteStore
from muster.store.blobs import model_name, update_name
from muster.store.ledger import FederationStore
from muster.store.records import Assignment, Member, Transition
from muster.testing import check_store


def test_it_keeps_the_promises_of_a_store(place):
    check_store(place)


def test_transitions_and_what_is_wanted(place):
    ledger = place()
    assert (wanted(ledger), ledger.transitions()) == ("run", [])
    steps = [Transition(i + 0.5, i, "open", "late", "lease", c) for i, c in enumerate(CLIENTS)]
    ledger.record(*steps[:2])
    ledger.record()
    ledger.record(*steps[2:])
    before = ledger.position()
    order(ledger, "pause")
    ledger.close()
    ledger = place(clock=lambda: 99.0)
    assert wanted(ledger) == "pause" and ledger.position() > before
    assert ledger.transitions() == steps and ledger.transitions(3) == steps[1:]
    ledger.commit(1, {}, {}, ["a"])
    assert ledger.transitions(1) == [Transition(99.0, 1, "committing", "committed", "1 accepted")]


def test_a_step_that_could_not_be_recorded_is_not_forgotten(place):
    ledger = place()
    ledger.record(Transition(0.0, 1 << 80, "", "", ""))
    decide(ledger, 1, []).result()
    with pytest.raises(RunError, match="an earlier step was not recorded"):
        ledger.record()
    ledger.record(Transition(0.0, 1, "", "", ""))


def test_the_version_grows_with_every_change(place):
    ledger = place()
    seen = [ledger.position()]
    for change in (
        lambda: enrol(ledger, Member("a", "a", 1)).result(),
        lambda: begin(ledger, opening()),
        lambda: decide(ledger, 1, [Assignment("a", "late")]).result(),
        lambda: decide(ledger, 1, [Assignment(c, "late") for c in CLIENTS[1:]]).result(),
        lambda: order(ledger, "drain"),
        lambda: ledger.commit(1, {}, {}, []),
    ):
        change()
        seen.append(ledger.position())
    assert sorted(set(seen)) == seen
    ledger.note(a=1)
    assert ledger.position() == seen[-1]


def test_progress_is_told(place):
    ledger = place()
    assert ledger.progress() == {}
    ledger.beat({})
    ledger.beat({"a": 5, 1: 7})
    ledger.beat({"a": 3, "1": 9})
    assert ledger.progress() == {"a": 3, 1: 7, "1": 9}


@pytest.mark.parametrize("keep", [False, True])
def test_updates_go_with_their_commit(place, keep):
    ledger = place(keep_updates=keep)
    begin(ledger, opening())
    model = put(ledger.blobs, model_name(DIGEST))
    old, ahead = (put(ledger.blobs, update_name(round, "a", DIGEST)) for round in (1, 2))
    put(ledger.blobs, update_name(1, "b", DIGEST), finished=False)
    ledger.commit(1, {}, {}, ["a"])
    assert sorted(ledger.blobs.names("update-")) == ([old, ahead] if keep else [ahead])
    assert ledger.blobs.names("model-") == [model]


@pytest.mark.parametrize("keep", [False, True])
def test_what_belongs_to_nothing_is_swept_on_opening(place, keep):
    ledger = place()
    begin(ledger, opening(1))
    ledger.commit(1, {}, {}, [])
    begin(ledger, opening(2, model=DIGEST))
    blobs = ledger.blobs
    done = put(blobs, update_name(1, "a", DIGEST))
    half = put(blobs, update_name(2, "b", DIGEST), b"bo", finished=False)
    kept = [put(blobs, model_name(DIGEST)), put(blobs, update_name(2, "a", DIGEST)), half]
    kept.append(put(blobs, model_name("d" * 64, "frozen")))  # sites may be on their way to it
    put(blobs, model_name("c" * 64, "frozen"), finished=False)
    put(blobs, update_name(1, "b", DIGEST), finished=False)
    put(blobs, update_name(3, "b", DIGEST))
    put(blobs, model_name("e" * 64))
    put(blobs, model_name("f" * 64), finished=False)
    put(blobs, "foreign")
    ledger.close()
    ledger = place(keep_updates=keep)
    assert sorted(ledger.blobs.names("")) == sorted([*kept, done] if keep else kept)
    assert ledger.blobs.append(half, ledger.blobs.held(half), b"dy") == 4
    ledger.blobs.finish(half)
    assert bytes(ledger.blobs.whole(half)) == b"body"


def test_a_foreign_folder_is_no_harm(alone):
    for name in ("folder", "two words", "x.part"):
        (alone.folder / "blobs" / name).mkdir(parents=True)
    assert alone().blobs.names("") == ["folder", "x"]


def test_a_closed_ledger_says_so(place):
    ledger = place()
    future = enrol(ledger, Member("a", "a", 1))
    ledger.close()
    ledger.close()
    assert future.result() is None
    for call in (ledger.rows, lambda: enrol(ledger, Member("b", "b", 1)), ledger.history):
        with pytest.raises(RunError, match="is closed; open it again"):
            call()


def test_on_sqlite_the_folder_is_the_lead(alone):
    ledger, stop = alone(), threading.Event()
    assert not ledger.shared and ledger.lead(stop)
    with pytest.raises(RunError, match="is being trained by another process"):
        alone()
    stop.set()
    assert not ledger.lead(stop)


def test_a_follower_opens_and_commits_nothing(shared):
    follower = shared(lead=False)
    leader = shared()
    for write in (lambda: begin(follower, opening()), lambda: follower.commit(1, {}, {}, [])):
        with pytest.raises(RunError, match=r"does not lead .* which it never did"):
            write()
    begin(leader, opening())
    enrol(follower, Member("a", "a", 1)).result()
    decide(follower, 1, [arrived("a")]).result()
    assert leader.rows() == follower.rows() and len(leader.rows()) == 3
    assert leader.shared


def test_one_who_lost_the_lead_changes_nothing(shared, postgres):
    one, other = shared(), shared(lead=False)
    begin(one, opening())
    waits, stop = [], threading.Event()
    thread = threading.Thread(target=lambda: waits.append(other.lead(stop)))
    thread.start()
    one._lead._held.connection.dbapi_connection.close()  # the line to the database is cut
    thread.join()
    assert waits == [True]
    other.note(secret={"round": 1})
    before = other.rows(), other.position(), other.history(), other.transitions()
    writes = (
        lambda: begin(one, opening(kind="evaluate")),
        lambda: one.commit(1, {"x": 1.0}, {"round": 1}, []),
        lambda: decide(one, 1, [Assignment("a", "late")]).result(),
        lambda: one.note(secret=None),
    )
    for write in writes:
        with pytest.raises(RunError, match=r"does not lead .* another has taken the lead since"):
            write()
    assert before == (other.rows(), other.position(), other.history(), other.transitions())
    assert other.meta("secret") == {"round": 1}
    decide(other, 1, [Assignment("a", "late")]).result()
    other.commit(1, {}, {"round": 1}, [])
    other.close()
    assert one.lead(threading.Event())
    begin(one, opening(2))
    assert [record["round"] for record in one.history()] == [1]


def test_readers_and_the_simulation_read_what_it_writes(alone):
    ledger = alone()
    ledger.note(plan={"rounds": 3})
    ledger.commit(1, {"x": [1.0, 2.0], "large": [0.5] * 10_000}, {"round": 1}, [])
    reader = SQLiteStore(alone.folder, readonly=True)
    for round in (2, 3):
        facts, history, latest = reader.snapshot()
        assert (facts, len(history), latest[0]) == (
            {"schema": 2, "plan": {"rounds": 3}},
            round - 1,
            round - 1,
        )
        ledger.commit(round, {"x": [1.0, round]}, {"round": round}, [])
    reader.close()
    ledger.close()
    store = SQLiteStore(alone.folder)
    store.commit(4, {"x": [4.0]}, {"round": 4}, [])
    store.close()
    assert alone().latest()[1]["x"].tolist() == [4.0]


def test_importing_the_store_leaves_sqlalchemy_alone():
    code = "import muster.store, sys; print('sqlalchemy' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


def test_junk_of_members_is_gone_when_it_is_opened_again(tmp_path):
    """Of ever new bodies of which none ended one is left to each client, the longest."""
    ledger = FederationStore(tmp_path)
    begin(ledger, opening())
    lengths = {"1": 5, "2": 9, "3": 7}
    for kind in ("masked", "update"):
        for client in ("a", "b"):
            for digit, length in lengths.items():
                name = update_name(opening().round, client, digit * 64, kind)
                ledger.blobs.append(name, 0, bytes(length))
    ledger.close()
    ledger = FederationStore(tmp_path)
    left = [*ledger.blobs.names("masked-"), *ledger.blobs.names("update-")]
    ledger.close()
    assert len(left) == 4 and all(name.endswith("2" * 64) for name in left)
