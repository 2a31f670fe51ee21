# SPDX-License-Identifier: Apache-2.0
"""One writer: what it tells is durable, what fails was told to nobody, and many share one sync."""

import threading
from dataclasses import replace

import numpy as np
import pytest
from tests.federation.coordinator.scenes import FACTS, OTHER, PRINT, RUN, UPDATE, work
from tests.store.scene import at_once

pytest.importorskip("sqlalchemy")

from sqlalchemy import event

from muster.errors import NoRoom, RunError
from muster.federation.coordinator import round_state as writing
from muster.federation.coordinator.commands import (
    AnnounceUpdate,
    AskTask,
    BeginWork,
    BodyArrived,
    CommitRound,
    GiveOrder,
    SayHello,
)
from muster.federation.coordinator.decide import Decision
from muster.federation.coordinator.events import Decided, Ordered, row_of
from muster.federation.coordinator.round_state import RoundState
from muster.federation.protocol.message import VERSIONS, Ack, Hello, Poll, TrainAssignment, Wait
from muster.security.refusal import RefusalReason, Refused
from muster.store.ledger import FederationStore
from muster.store.sql.journal import JournalTurn

NAMES = tuple(f"m{i:02}" for i in range(20))


class Scene:
    """A server whose members are asked to train, and whose writer can be held."""

    def __init__(self, folder, names=("a", "b")):
        self.ledger, self.now = FederationStore(folder), 100.0
        self.round_state = RoundState(self.ledger, FACTS, clock=lambda: self.now)
        for name in names:
            self.round_state.do(SayHello(name, Hello(VERSIONS, name, PRINT, 10)))
        self.round_state.do(BeginWork(work(cohort=names)))

    def held(self):
        """The writer is busy until the event is set."""
        busy, free = threading.Event(), threading.Event()

        def body(turn):
            busy.set()
            free.wait()

        self.ledger.write(body)
        busy.wait()
        return free

    def replayed(self):
        """The state of a server that starts now."""
        return RoundState(self.ledger, FACTS, clock=lambda: self.now).state

    def sound(self):
        """Restart = replay, and no more is shown than is durable."""
        state = self.round_state.state
        assert self.replayed().digest() == state.digest()
        assert state.position <= self.ledger.position()


@pytest.fixture
def scene(tmp_path):
    made = Scene(tmp_path)
    yield made
    made.ledger.close()


def poll(scene, name="a"):
    return scene.round_state.ask(AskTask(name, Poll(RUN, 0, 0.0)))


def told_before_it_is_durable(scene):
    """Return whether an update is acknowledged, or shown, while its event is on no disk."""
    free = scene.held()
    try:
        future = scene.round_state.submit(BodyArrived("a", UPDATE))
        shown = scene.round_state.seats["a"].standing != "invited"
        return shown or future.done() or isinstance(poll(scene), Wait)
    finally:
        free.set()
        assert future.result().answer == Ack(True)


def test_nothing_is_told_before_it_is_durable(scene):
    assert not told_before_it_is_durable(scene)
    assert isinstance(poll(scene), Wait), "it has arrived"
    scene.sound()


def acknowledges_early(monkeypatch):
    """The answer is given with the decision."""
    submit = RoundState.submit

    def early(self, command):
        future = submit(self, command)
        if not future.done():
            future.set_result(writing.decide(self.state, self.volatile, command, 0.0))
        return future

    monkeypatch.setattr(RoundState, "submit", early)


def shows_what_is_ahead(monkeypatch):
    """Polls are answered from the writer's own copy."""
    submit = RoundState.submit

    def ahead(self, command):
        found = writing.decide(self._state, self.volatile, command, 0.0)
        for one in found.events if isinstance(found, writing.Decision) else ():
            writing.apply(self._state.copy(), one)
            if isinstance(one, Decided):
                writing.apply(self._state, one)
                self._torn = True
                return self._after(submit, one)
        return submit(self, command)

    def after(self, submit, one):
        future = writing.Future()
        self.ledger.write(lambda turn: turn.append([row_of(one)], leads=False)).add_done_callback(
            lambda _: future.set_result(writing.Decision((one,), Ack(True)))
        )
        return future

    monkeypatch.setattr(RoundState, "submit", ahead)
    monkeypatch.setattr(RoundState, "_after", after, raising=False)


@pytest.mark.parametrize("plant", [acknowledges_early, shows_what_is_ahead])
def test_a_writer_that_tells_too_early_is_found(scene, monkeypatch, plant):
    plant(monkeypatch)
    assert told_before_it_is_durable(scene)


def test_many_callers_share_one_transaction(tmp_path):
    scene = Scene(tmp_path, NAMES)
    free, done = scene.held(), []
    event.listen(scene.ledger._transactions.engine, "commit", lambda _: done.append(1))
    said = [BodyArrived(name, UPDATE) for name in NAMES]
    futures = [scene.round_state.submit(one) for one in (*said, *said)]
    free.set()
    assert [future.result().answer for future in futures] == [Ack(True)] * 40
    assert len(done) <= 3, "of who held the writer, of all forty, and of the round's next step"
    rows = [row for row in scene.ledger.rows() if row.topic == "decided"]
    assert len(rows) == 20, "each is decided once"
    scene.sound()
    scene.ledger.close()


def test_no_answer_of_many_tells_of_what_is_not_durable(tmp_path, monkeypatch):
    """Each carries the position of the state that it tells of; the database has it by then."""
    scene, told, give = Scene(tmp_path, NAMES), [], writing._give

    def given(kept):
        if isinstance(kept.found, Decision):
            told.append((kept.found.position, scene.ledger.position()))
        give(kept)

    monkeypatch.setattr(writing, "_give", given)

    def work_of(which):
        for name in NAMES[which::4]:
            scene.round_state.do(SayHello(name, Hello(VERSIONS, name, PRINT, 11)))
            scene.round_state.do(BodyArrived(name, UPDATE))
            scene.round_state.do(BodyArrived(name, UPDATE))

    at_once(work_of, 4)
    assert len(told) == 60 and all(position <= durable for position, durable in told)
    assert max(position for position, _ in told) == scene.ledger.position()
    scene.sound()
    scene.ledger.close()


def test_the_first_of_two_that_wait_together_stands(scene):
    free = scene.held()
    bodies = [UPDATE, replace(UPDATE, digest=OTHER)]
    futures = [scene.round_state.submit(BodyArrived("a", body)) for body in bodies]
    free.set()
    assert futures[0].result().answer == Ack(True)
    with pytest.raises(Refused) as refused:
        futures[1].result()
    assert refused.value.reason is RefusalReason.DUPLICATE
    scene.sound()


def test_what_could_not_be_written_was_told_to_nobody_and_is_no_part_of_the_state(
    scene, monkeypatch
):
    before, append = scene.round_state.state.digest(), JournalTurn.append

    def full(self, rows, *, leads):
        append(self, rows, leads=leads)
        raise NoRoom("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(JournalTurn, "append", full)
        free = scene.held()
        futures = [scene.round_state.submit(BodyArrived(name, UPDATE)) for name in "ab"]
        free.set()
        for future in futures:
            with pytest.raises(NoRoom):
                future.result()
    assert scene.round_state.state.digest() == before
    assert isinstance(poll(scene), TrainAssignment), "it is asked still"
    scene.sound()
    assert scene.round_state.do(BodyArrived("a", UPDATE)).answer == Ack(True)
    assert scene.round_state.seats["b"].standing == "invited"
    scene.sound()


def test_what_cannot_be_written_takes_no_other_with_it(scene, monkeypatch):
    append = JournalTurn.append

    def picky(self, rows, *, leads):
        if any(row.key == 'train "b"' for row in rows):
            raise ValueError("no row can hold it")
        append(self, rows, leads=leads)

    monkeypatch.setattr(JournalTurn, "append", picky)
    free = scene.held()
    futures = [scene.round_state.submit(BodyArrived(name, UPDATE)) for name in "ab"]
    free.set()
    assert futures[0].result().answer == Ack(True)
    with pytest.raises(RunError, match="no row can hold it"):
        futures[1].result()
    scene.sound()


def test_a_commit_of_the_store_is_an_event_for_everybody(scene):
    for name in "ab":
        scene.round_state.do(BodyArrived(name, UPDATE))
    elsewhere = RoundState(scene.ledger, FACTS)
    record = {"round": 1, "accepted": ["a"], "invited": ["a", "b"]}
    scene.ledger.commit(1, {"x": np.zeros(1)}, record, ["a"])
    scene.round_state.settled(1, ["a"])
    scene.round_state.settled(1, ["a"])
    elsewhere.follow()
    assert scene.round_state.state.fates == elsewhere.state.fates == {1: frozenset("a")}
    assert scene.round_state.opened is elsewhere.opened is None
    assert scene.round_state.do(CommitRound(1, ("a",))).events == ()
    scene.sound()


def test_events_of_another_server_are_in_the_state_before_anything_is_decided(scene):
    """Its own copy is brought up to the journal inside the transaction that writes."""
    elsewhere = RoundState(scene.ledger, FACTS)
    elsewhere.do(BodyArrived("a", UPDATE))
    assert scene.round_state.seats["a"].standing == "invited", "it has not looked"
    with pytest.raises(Refused) as refused:
        scene.round_state.do(BodyArrived("a", replace(UPDATE, digest=OTHER)))
    assert refused.value.reason is RefusalReason.DUPLICATE
    assert scene.round_state.seats["a"].standing == "arrived", "now it has"
    elsewhere.follow()
    assert elsewhere.state.digest() == scene.round_state.state.digest()


def test_who_never_led_writes_what_members_say_and_nothing_of_the_engines(tmp_path, database):
    url = database + "?run=r"
    leads, follows = FederationStore(tmp_path / "1", url), FederationStore(tmp_path / "2", url)
    try:
        assert leads.lead(threading.Event())
        one, other = RoundState(leads, FACTS), RoundState(follows, FACTS)
        for name, server in (("a", one), ("b", other)):
            server.do(SayHello(name, Hello(VERSIONS, name, PRINT, 10)))
        other.follow()
        with pytest.raises(RunError, match="does not lead"):
            other.do(BeginWork(work()))
        one.follow()
        one.do(BeginWork(work()))
        other.follow()
        other.do(BodyArrived("a", UPDATE))
        one.do(BodyArrived("b", UPDATE))
        for server in (one, other):
            server.follow()
        assert one.state.digest() == other.state.digest()
        assert {seat.standing for seat in one.seats.values()} == {"arrived"}
        leads._lead.release()
        assert follows.lead(threading.Event())
        before = follows.rows()
        with pytest.raises(RunError, match="another has taken the lead"):
            one.do(BeginWork(work(kind="evaluate")))
        assert follows.rows() == before
    finally:
        leads.close()
        follows.close()


def test_who_asks_a_server_that_is_closed_hears_it(scene):
    scene.ledger.close()
    for _ in range(2):
        with pytest.raises(RunError, match="is closed; open it again"):
            scene.round_state.do(BodyArrived("a", UPDATE))


def test_what_is_to_be_written_down_is_submitted(scene):
    with pytest.raises(TypeError, match="submit it"):
        scene.round_state.ask(GiveOrder("pause"))
    assert scene.round_state.ask(AnnounceUpdate("a", UPDATE)) is True
    scene.round_state.order("pause")
    assert scene.round_state.wanted == scene.replayed().wanted == "pause"


def test_a_model_that_may_be_torn_is_told_to_nobody_before_it_is_written_again(scene):
    """After a restart: a model waits for no disk, as it can be made again."""
    again = RoundState(scene.ledger, FACTS, clock=lambda: scene.now)
    assert isinstance(again.ask(AskTask("a", Poll(RUN, 0, 0.0))), Wait)
    scene.now += 100.0
    again.show(1, "train")
    assert isinstance(again.ask(AskTask("a", Poll(RUN, 0, 0.0))), TrainAssignment)
    assert again.leases() == dict.fromkeys("ab", scene.now + FACTS.lease)


def test_an_odd_row_marks_its_client_and_ends_nothing(scene):
    odd = row_of(Ordered("x"))
    rows = [
        replace(odd, topic="decided", round=1, key='train "a"', body={"standing": 7}),
        replace(odd, topic="enrolled", key="c", body={"client": "c", "rows": "many"}),
        replace(odd, topic="unheard of"),
        replace(odd, topic="said", round=1, key="1 a", body={"word": [1]}),
    ]
    scene.ledger.write(lambda turn: turn.append(rows, leads=False)).result()
    scene.round_state.follow()
    seat = scene.round_state.seats["a"]
    assert (seat.standing, seat.reason) == ("failed", "record")
    assert scene.round_state.seats["b"].standing == "invited"
    assert "c" in scene.round_state.state.odd and "c" not in scene.round_state.members
    scene.sound()
