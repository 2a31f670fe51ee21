# SPDX-License-Identifier: Apache-2.0
"""The desk: idempotent, typed refusals, and nothing that a refusal changes."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from muster.federation.coordinator import decide as deciding
from muster.federation.coordinator.commands import BeginWork, DecideAssignments
from muster.federation.coordinator.decide import pace
from muster.federation.coordinator.round_state import FederationFacts, RoundState
from muster.federation.coordinator.service import FederationService, Upload
from muster.federation.coordinator.state import FAILURES, PRESENT
from muster.federation.protocol.limits import ENROLMENTS, kept_of_disk
from muster.federation.protocol.message import (
    VERSIONS,
    Decline,
    Evaluate,
    Hello,
    Measured,
    Poll,
    Progress,
    RunEnded,
    Settled,
    TrainAssignment,
    TrainingFailure,
    UpdateHeader,
    Wait,
)
from muster.security.refusal import RefusalReason, Refused
from muster.store.blobs import update_name
from muster.store.ledger import FederationStore
from muster.store.records import Assignment, Member, OpenWork

PRINT, MODEL, BODY = "a" * 64, "b" * 64, "c" * 64
RUN = "run-1"


class Clock:
    """A clock that a test moves."""

    now = 100.0

    def __call__(self):
        return self.now


def weigh(rows, times):
    return float(rows * times)


@pytest.fixture
def scene(tmp_path):
    made = Scene(tmp_path)
    yield made
    made.ledger.close()


class Scene:
    """A ledger, a hall and a desk; sites a and b are enrolled."""

    def __init__(self, folder):
        self.clock = Clock()
        self.ledger = FederationStore(folder)
        template = {"payload": {"delta": np.zeros(2, "float32")}}
        facts = FederationFacts(RUN, PRINT, {}, weigh, template, 500)
        self.round_state = RoundState(self.ledger, facts, clock=self.clock)
        self.service = FederationService(self.round_state, self.ledger)
        for name in ("a", "b"):
            self.do(self.service.welcome(name, Hello(VERSIONS, name, PRINT, 10)))

    def do(self, work):
        return asyncio.run(work)

    def open(self, round=1, kind="train", cohort=("a", "b"), counted=(), groups=()):
        roster = tuple((client, 10) for client in cohort)
        opened = OpenWork(
            round, kind, cohort, (1,) * len(cohort), roster, MODEL, 0.0, groups, tuple(counted)
        )
        self.round_state.do(BeginWork(opened))

    def commit(self, round, accepted):
        record = {"round": round, "accepted": list(accepted), "invited": ["a", "b"]}
        self.ledger.commit(round, {"x": np.zeros(1)}, record, accepted)
        self.round_state.settled(round, accepted)

    def poll(self, name, pending=0, wait=0.0):
        return self.do(self.service.poll(name, Poll(RUN, pending, wait)))

    def upload(self, update):
        """An update that was announced."""
        return Upload("", update, None, held=False)

    def arrive(self, name, update):
        return self.do(self.service.arrived(name, self.service.announce(name, update)))

    def state(self):
        return (
            self.round_state.opened,
            dict(self.round_state.seats),
            dict(self.round_state.members),
            self.ledger.rows(),
        )

    def decided(self, *assignments, round=1):
        """The engine decides."""
        self.round_state.do(DecideAssignments(round, "train", assignments))

    def refit(self, **changes):
        """A server that has started with other facts."""
        self.round_state = RoundState(
            self.ledger, replace(self.round_state.facts, **changes), clock=self.clock
        )
        self.service = FederationService(self.round_state, self.ledger)


METRICS = {"rows": 10.0, "loss": 4.0, "steps": 2.0, "drift": 0.5}
UPDATE = UpdateHeader(RUN, 1, BODY, 100, 10.0, METRICS)


def reason(call, *arguments):
    with pytest.raises(Refused) as caught:
        found = call(*arguments)
        if asyncio.iscoroutine(found):
            asyncio.run(found)
    return caught.value.reason


def test_an_update_counts_once_however_often_it_is_said(scene):
    scene.open()
    assert scene.poll("a") == TrainAssignment(RUN, 1, MODEL, 15.0)
    assert scene.arrive("a", UPDATE).accepted
    assert scene.service.announce("a", UPDATE).held
    again = replace(scene.service.announce("a", UPDATE), held=False)
    assert scene.do(scene.service.arrived("a", again)).accepted
    other = replace(UPDATE, digest="d" * 64)
    assert reason(scene.service.announce, "a", other) is RefusalReason.DUPLICATE
    assert scene.round_state.seats["a"].digest == BODY
    again = RoundState(scene.ledger, scene.round_state.facts)
    assert again.seats == scene.round_state.seats and again.seats["b"] == Assignment("b")
    assert isinstance(scene.poll("a", pending=1), Wait)
    scene.commit(1, ["a"])
    assert scene.poll("a", pending=1) == Settled(RUN, 1, True)
    assert scene.poll("b", pending=1) == Settled(RUN, 1, False)


def test_the_ledger_disposes_of_what_is_counted_and_of_rounds_that_are_over(scene):
    """Also where another server has decided or committed, of which this one has not heard."""
    scene.open()
    other = replace(UPDATE, digest="d" * 64)
    assert not scene.service.disposed("a", UPDATE)
    elsewhere = RoundState(scene.ledger, scene.round_state.facts)
    scene.do(FederationService(elsewhere, scene.ledger).arrived("a", scene.upload(UPDATE)))
    assert scene.round_state.seats["a"].standing == "invited"
    assert scene.service.disposed("a", UPDATE) and not scene.service.disposed("a", other)
    record = {"round": 1, "accepted": ["a"], "invited": ["a", "b"]}
    scene.ledger.commit(1, {"x": np.zeros(1)}, record, ["a"])
    assert scene.service.disposed("a", UPDATE) and scene.service.disposed("a", other)
    assert not scene.service.disposed("a", replace(UPDATE, round=2))


def test_a_held_update_is_known_while_the_round_is_evaluated(scene):
    scene.open()
    scene.arrive("a", UPDATE)
    scene.do(scene.service.answer("b", Decline(RUN, 1, "on battery")))
    scene.open(kind="evaluate", counted=("a",))
    assert scene.service.announce("a", UPDATE).held
    assert reason(scene.service.announce, "b", UPDATE) is RefusalReason.STALE
    assert scene.poll("a") == Evaluate(RUN, 1, MODEL, 15.0, True)
    assert scene.poll("b") == Evaluate(RUN, 1, MODEL, 15.0, False)
    assert scene.do(scene.service.answer("a", Measured(RUN, 1, MODEL, {"rows": 2.0}))).accepted
    assert scene.round_state.seats["a"].metrics == {"rows": 2.0}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"run": "other"}, RefusalReason.UNKNOWN_RUN),
        ({"round": 2}, RefusalReason.FOREIGN),
        ({"size": 501}, RefusalReason.TOO_LARGE),
        ({"weight": 11.0}, RefusalReason.MALFORMED),
        ({"attempt": 2}, RefusalReason.STALE),
        ({"metrics": {"rows": 10.0}}, RefusalReason.MALFORMED),
        ({"metrics": METRICS | {"rows": 0.0}}, RefusalReason.MALFORMED),
        ({"metrics": METRICS | {"drift": -1.0}}, RefusalReason.MALFORMED),
        ({"metrics": METRICS | {"more": 1.0}}, RefusalReason.MALFORMED),
    ],
)
def test_what_is_refused_changes_nothing(scene, change, why):
    scene.open()
    before = scene.state()
    assert reason(scene.service.announce, "a", replace(UPDATE, **change)) is why
    assert scene.state() == before


def test_a_site_may_keep_its_metrics(scene):
    scene.open()
    assert scene.arrive("a", replace(UPDATE, metrics={})).accepted
    assert scene.round_state.seats["a"].metrics == {}
    scene.open(kind="evaluate")
    nothing = Measured(RUN, 1, MODEL, {"loss": 1.0})
    assert reason(scene.service.answer, "a", nothing) is RefusalReason.MALFORMED
    assert scene.round_state.seats["a"].standing == "invited"


@pytest.mark.parametrize(
    ("groups", "told"), [((), (0, 0)), ((("a", "b"),), (2, 2)), ((("a",), ("b", "c")), (1, 2))]
)
def test_who_is_summed_with_others_is_told_how_many_they_are(scene, groups, told):
    scene.do(scene.service.welcome("c", Hello(VERSIONS, "c", PRINT, 10)))
    scene.open(groups=groups, cohort=("a", "b", "c"))
    assert (scene.poll("a").peers, scene.poll("b").peers) == told


def test_what_belongs_to_rounds_that_were_lost_is_of_no_use(scene):
    """The server was put back to a copy of round 2, and has raised its attempt."""
    for round in (1, 2):
        scene.open(round)
        scene.commit(round, ["a"])
    scene.refit(raised=(2,))
    assert scene.poll("a", pending=2) == Settled(RUN, 2, True, 1)
    scene.open(3)
    assert scene.poll("a", pending=3) == TrainAssignment(RUN, 3, MODEL, 15.0, attempt=2)
    lost = replace(UPDATE, round=3)
    assert reason(scene.service.announce, "a", lost) is RefusalReason.STALE
    for said in (
        Decline(RUN, 3, ""),
        TrainingFailure(RUN, 3, "train", ""),
        Measured(RUN, 3, MODEL),
    ):
        assert reason(scene.service.answer, "a", said) is RefusalReason.STALE
    assert reason(scene.service.stepped, "a", Progress(RUN, 3, 7)) is RefusalReason.STALE
    scene.service.stepped("a", Progress(RUN, 3, 7, 2))
    assert scene.arrive("a", replace(lost, attempt=2)).accepted
    scene.commit(3, ["a"])
    assert scene.poll("a", pending=3) == Settled(RUN, 3, False, 1), "that one was lost"
    again = scene.do(scene.service.poll("a", Poll(RUN, 3, 0.0, 2)))
    assert again == Settled(RUN, 3, True, 2)


@pytest.mark.parametrize(("members", "seconds"), [(2, 1.0), (2000, 1.0), (2001, 2.0), (9000, 8.0)])
def test_no_client_can_count_the_others_by_its_pace(scene, members, seconds):
    state, volatile = scene.round_state.state, scene.round_state.volatile
    state.members.update({str(i): Member(str(i), i, 1) for i in range(members - 2)})
    assert pace(state, volatile, 0.0) == seconds
    assert pace(state, volatile, 30.0) == 0.0
    state.facts = replace(state.facts, hides=True)
    assert pace(state, volatile, 30.0) == (seconds if members > 2000 else 0.0)


def test_who_is_not_invited_or_not_enrolled_gets_nowhere(scene):
    scene.open(cohort=("a",))
    before = scene.state()
    assert reason(scene.service.announce, "b", UPDATE) is RefusalReason.FOREIGN
    assert isinstance(scene.poll("b"), Wait)
    assert reason(scene.service.answer, "b", Decline(RUN, 1, "")) is RefusalReason.STALE
    assert reason(scene.service.poll, "c", Poll(RUN, 0, 0)) is RefusalReason.UNENROLLED
    assert reason(scene.service.announce, "c", UPDATE) is RefusalReason.UNENROLLED
    assert reason(scene.service.poll, "a", Poll("other", 0, 0)) is RefusalReason.UNKNOWN_RUN
    assert reason(scene.service.model, "0" * 64) is RefusalReason.UNKNOWN
    assert reason(scene.service.want, "explode") is RefusalReason.MALFORMED
    assert scene.state() == before


@pytest.mark.parametrize(
    ("hello", "why"),
    [
        (Hello((7,), "c", PRINT, 1), RefusalReason.WRONG_VERSION),
        (Hello(VERSIONS, "c", "0" * 64, 1), RefusalReason.WRONG_FINGERPRINT),
        (Hello(VERSIONS, "c", PRINT, 0), RefusalReason.MALFORMED),
    ],
)
def test_a_hello_that_does_not_fit(scene, hello, why):
    assert reason(scene.service.welcome, "c", hello) is why
    assert "c" not in scene.round_state.members and scene.ledger.position() == 2


def test_late_is_told_to_the_one_who_is_late(scene):
    scene.open()
    upload = scene.service.announce("a", UPDATE)
    gone = Assignment("a", "late", "lease", "no progress")
    scene.decided(gone)
    assert reason(scene.service.announce, "a", UPDATE) is RefusalReason.LATE
    assert reason(scene.service.arrived, "a", upload) is RefusalReason.LATE
    scene.commit(1, [])
    assert reason(scene.service.arrived, "a", upload) is RefusalReason.STALE
    assert reason(scene.service.announce, "a", UPDATE) is RefusalReason.STALE


def test_a_failure_is_shown_and_closes_the_seat(scene):
    scene.open()
    scene.do(
        scene.service.answer("a", TrainingFailure(RUN, 1, "train", "ValueError in fit, line 3"))
    )
    assert scene.service.status()["seats"][0]["text"] == "ValueError in fit, line 3"
    assert reason(scene.service.announce, "a", UPDATE) is RefusalReason.CLOSED


def test_a_lease_is_renewed_by_progress_in_this_round_alone(scene):
    scene.open()
    scene.clock.now += 10
    scene.service.progress("a", 1, 5)
    assert scene.round_state.leases() == {"a": 125.0, "b": 115.0}
    scene.service.progress("b", 9, 5)
    assert scene.round_state.leases()["b"] == 115.0
    scene.service.stepped("b", Progress(RUN, 1, 7))
    assert scene.round_state.leases()["b"] == 125.0
    scene.clock.now += 5
    scene.service.stepped("b", Progress(RUN, 1, 7))  # the same again is no progress
    assert scene.round_state.leases()["b"] == 125.0
    assert reason(scene.service.stepped, "b", Progress(RUN, 2, 1)) is RefusalReason.STALE
    scene.decided(Assignment("b", "late", "lease", "no progress"))
    assert reason(scene.service.stepped, "b", Progress(RUN, 1, 8)) is RefusalReason.LATE


def test_what_is_held_of_an_upload_needs_no_room(scene):
    scene.open()
    blob = update_name(1, "a", BODY)
    scene.ledger.blobs.append(blob, 0, bytes(60))
    scene.ledger.blobs.room = lambda: 40 + kept_of_disk(500)
    assert scene.service.announce("a", UPDATE).blob == blob
    assert reason(scene.service.announce, "b", UPDATE) is RefusalReason.NO_ROOM


def test_the_last_of_the_disk_is_kept_for_commits(scene):
    scene.open()
    scene.ledger.blobs.room = lambda: 100 + kept_of_disk(500)
    assert not scene.service.announce("a", UPDATE).held
    scene.ledger.blobs.room = lambda: 99 + kept_of_disk(500)
    assert reason(scene.service.announce, "a", UPDATE) is RefusalReason.NO_ROOM


def test_rows_that_change_and_change_write_a_bounded_log(scene):
    """Each enrolment is a line of the log: so few a day, and then again."""
    scene.refit()
    noted = []
    service = FederationService(
        scene.round_state, scene.ledger, lambda *said, **more: noted.append(said)
    )

    def hello(rows):
        return service.welcome("a", Hello(VERSIONS, "a", PRINT, rows))

    for rows in range(11, 11 + ENROLMENTS):
        scene.do(hello(rows))
    assert reason(hello, 99) is RefusalReason.TOO_OFTEN
    again = RoundState(scene.ledger, scene.round_state.facts)
    assert scene.round_state.members["a"].rows == again.members["a"].rows == 10 + ENROLMENTS
    assert scene.do(hello(10 + ENROLMENTS)).client == "a"  # the same again is no other
    assert len(noted) == ENROLMENTS
    scene.clock.now += 86400
    scene.do(hello(99))
    assert scene.round_state.members["a"].rows == 99 and len(noted) == ENROLMENTS + 1


def test_as_many_enrol_as_may(scene, monkeypatch):
    monkeypatch.setattr(deciding, "MEMBERS", 3)
    scene.do(scene.service.welcome("c", Hello(VERSIONS, "c", PRINT, 10)))
    fourth = Hello(VERSIONS, "d", PRINT, 10)
    assert reason(scene.service.welcome, "d", fourth) is RefusalReason.NO_ROOM
    assert scene.round_state.members.keys() == {"a", "b", "c"}
    scene.do(scene.service.welcome("a", Hello(VERSIONS, "a", PRINT, 11)))  # who is in may go on


def test_who_is_silent_is_away_and_who_fails_for_ever_is_left_out(scene):
    def here():
        return [member.client for member in scene.round_state.present()]

    assert here() == ["a", "b"]
    scene.clock.now += PRESENT * 15.0 + 1
    scene.poll("b")
    assert here() == ["b"]
    for _ in range(FAILURES):
        scene.round_state.volatile.judge([Assignment("b", "failed")], 0.0)
    assert here() == []
    assert reason(scene.service.poll, "b", Poll(RUN, 0, 0)) is RefusalReason.LEFT_OUT
    scene.do(scene.service.welcome("b", Hello(VERSIONS, "b", PRINT, 10)))
    assert here() == ["b"]


def test_who_declines_is_left_alone_for_a_lease(scene):
    rests = [Assignment("b", "declined"), Assignment("a", "arrived")]
    scene.round_state.volatile.judge(rests, scene.clock.now + 15.0)
    assert [member.client for member in scene.round_state.present()] == ["a"]
    scene.clock.now += 15.0
    assert [member.client for member in scene.round_state.present()] == ["a", "b"]


def test_a_poll_is_woken_by_news_and_ends_with_the_run(scene):
    async def wait():
        polled = asyncio.create_task(scene.service.poll("a", Poll(RUN, 0, 60.0)))
        await asyncio.sleep(0)
        await asyncio.to_thread(scene.open)
        task = await asyncio.wait_for(polled, 120)
        polled = asyncio.create_task(scene.service.poll("b", Poll(RUN, 0, 60.0)))
        await asyncio.sleep(0)
        return task, await polled

    task, other = scene.do(wait())
    assert task == other == TrainAssignment(RUN, 1, MODEL, 15.0)
    scene.arrive("a", UPDATE)
    scene.commit(1, ["a"])
    scene.round_state.end("all rounds are done")
    assert scene.poll("a", pending=1) == Settled(RUN, 1, True)  # first what is still owed
    assert scene.poll("a") == RunEnded(RUN, 1, "all rounds are done")
    assert scene.poll("a", pending=2) == RunEnded(RUN, 1, "all rounds are done")  # kept for later
    assert scene.round_state.volatile.told == {"a"}


def test_a_crowd_is_asked_to_keep_to_the_pace(scene):
    object.__setattr__(scene.round_state.facts, "pace", 0.5)
    assert scene.poll("a") == Wait(4.0)  # two members, a check-in in two seconds
    scene.round_state.close()
    assert scene.poll("a", wait=60.0) == Wait(1.0)


def test_what_an_operator_wants_is_durable(scene, tmp_path):
    assert scene.do(scene.service.want("pause"))["wanted"] == "pause"
    assert RoundState(scene.ledger, scene.round_state.facts).wanted == "pause"
