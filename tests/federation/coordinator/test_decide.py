# SPDX-License-Identifier: Apache-2.0
"""The table of commands and states, cell by cell: the events that follow, and what is answered."""

from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from tests.federation.coordinator.scenes import (
    BODY,
    LEASE,
    MODEL,
    OTHER,
    PRINT,
    RUN,
    STATES,
    UPDATE,
    arrived,
    open_round,
    work,
)

from muster.federation.coordinator.apply import apply
from muster.federation.coordinator.commands import (
    AnnounceUpdate,
    AskTask,
    Attempted,
    BeginWork,
    BodyArrived,
    BodyRefused,
    ClosePiece,
    Command,
    CommitRound,
    Conclude,
    DecideAssignments,
    Disposed,
    EndLeases,
    Exclude,
    GiveAnswer,
    GiveOrder,
    HearSecure,
    JoinSecure,
    OrderReturn,
    SayHello,
    ShowBytes,
    ShowSteps,
)
from muster.federation.coordinator.decide import Decision, decide
from muster.federation.coordinator.events import (
    Committed,
    Decided,
    Excluded,
    MemberEnrolled,
    Opened,
    Ordered,
    Said,
    WentBack,
)
from muster.federation.coordinator.lifecycle import Call
from muster.federation.coordinator.secagg_progress import SecAggProgress
from muster.federation.protocol.message import (
    VERSIONS,
    Ack,
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
    Wait,
    Welcome,
)
from muster.security.refusal import RefusalReason, Refused
from muster.store.records import Assignment, SecAggEvent

WORD = SecAggEvent("a", "11", b"x", digest=BODY)
SAID = {
    "hello": SayHello("a", Hello(VERSIONS, "a", PRINT, 10)),
    "hello with other rows": SayHello("a", Hello(VERSIONS, "a", PRINT, 11)),
    "poll": AskTask("a", Poll(RUN, 0, 0.0)),
    "poll that may wait": AskTask("a", Poll(RUN, 0, 9.0), 9.0),
    "poll with an update": AskTask("a", Poll(RUN, 1, 0.0)),
    "announce": AnnounceUpdate("a", UPDATE),
    "announce another": AnnounceUpdate("a", replace(UPDATE, digest=OTHER)),
    "announce without room": AnnounceUpdate("a", UPDATE, room=99),
    "body": BodyArrived("a", UPDATE),
    "another body": BodyArrived("a", replace(UPDATE, digest=OTHER)),
    "bad body": BodyRefused("a", UPDATE, "malformed", "it is none"),
    "disposed": Disposed("a", UPDATE),
    "decline": GiveAnswer("a", Decline(RUN, 1, "at night")),
    "failure": GiveAnswer("a", TrainingFailure(RUN, 1, "train", "ValueError")),
    "measured": GiveAnswer("a", Measured(RUN, 1, MODEL, {"rows": 2.0})),
    "bytes": ShowBytes("a", 1, 5),
    "steps": ShowSteps("a", Progress(RUN, 1, 7)),
    "attempted": Attempted(1, 1),
    "secure: join": JoinSecure("a", 1),
    "secure: ask": JoinSecure("a", 1, begun=False),
    "secure: message": HearSecure(1, WORD),
    "secure: step ends": HearSecure(1, SecAggEvent("", "0 shares")),
    "open": BeginWork(work()),
    "open the next": BeginWork(work(2)),
    "leases": EndLeases(1, "train"),
    "close": ClosePiece(1, "train", Call(2)),
    "decide": DecideAssignments(1, "train", (Assignment("a", "late", "secure"),)),
    "commit": CommitRound(1, ("a",)),
    "order": GiveOrder("pause"),
    "order to go back": OrderReturn(0),
    "exclude": Exclude("a", "it lied"),
    "conclude": Conclude("all rounds are done"),
}
TABLE = [
    [cell.strip() for cell in line.split("|")]
    for line in Path(__file__).with_name("commands.table").read_text().splitlines()
]
CELLS = {
    (row[0], state): cell
    for row in TABLE[1:]
    for state, cell in zip(TABLE[0][1:], row[1:], strict=True)
}
TOPICS = {
    MemberEnrolled: "enrolled",
    Opened: "opened",
    Decided: "decided",
    Said: "said",
    Committed: "committed",
    Ordered: "ordered",
    Excluded: "excluded",
}
ANSWERS = {
    Welcome: "welcome",
    TrainAssignment: "task",
    Evaluate: "evaluate",
    Settled: "settled",
    Wait: "wait",
    Ack: "ack",
    RunEnded: "ended",
    SecAggProgress: "session",
    type(None): "kept",
    str: "cause",
}


def cell(found):
    """Return what was found, as the table writes it."""
    if isinstance(found, Refused):
        return str(found.reason)
    if isinstance(found.answer, Refused):
        assert not found.events and found.sign is not None
        return str(found.answer.reason)
    events = "+".join(TOPICS[type(event)] for event in found.events) or "-"
    said = ANSWERS.get(type(found.answer), str(found.answer))
    renews = ["renews"] if found.sign is not None and found.sign.renews else []
    if type(found.answer) is bool:
        renews = []  # an update that is wanted: its own test says that it renews the lease
    return " ".join([events, said, *renews])


def test_the_table_has_every_command_and_every_state():
    assert TABLE[0][1:] == list(STATES)
    assert [row[0] for row in TABLE[1:]] == list(SAID)
    assert {type(command) for command in SAID.values()} == set(get_args(Command))


@pytest.mark.parametrize("said", SAID)
@pytest.mark.parametrize("state", STATES)
def test_a_cell_of_the_table(said, state):
    server = STATES[state]()
    before = server.state.digest()
    assert cell(decide(server.state, server.volatile, SAID[said], server.now)) == CELLS[said, state]
    assert server.state.digest() == before, "to decide changes nothing"


@pytest.mark.parametrize("odd", [None, 7, "poll", (), {}, [1], object(), float("nan"), Poll])
def test_what_is_no_command_is_refused(odd):
    server = open_round()
    assert decide(server.state, server.volatile, odd, 0.0).reason is RefusalReason.MALFORMED


def test_an_update_that_is_wanted_renews_a_lease_and_one_without_room_too():
    server = open_round()
    for command in (SAID["announce"], SAID["announce without room"]):
        sign = decide(server.state, server.volatile, command, server.now).sign
        assert sign.renews
        server.volatile.take(sign, 110.0, LEASE)
        assert server.volatile.leases == {"a": 110.0 + LEASE, "b": 100.0 + LEASE}


def test_a_bare_poll_renews_nothing_and_the_same_steps_neither():
    server = open_round()

    def says(command):
        found = decide(server.state, server.volatile, command, server.now)
        if found.sign is not None:
            server.volatile.take(found.sign, server.now, LEASE)
        return server.volatile.leases["a"]

    server.now = 110.0
    assert says(AskTask("a", Poll(RUN, 0, 0.0))) == 125.0, "it has fetched its task"
    server.put(Decided(1, 1, "train", arrived()))
    server.now = 111.0
    assert says(AskTask("a", Poll(RUN, 0, 0.0))) == 125.0
    assert server.volatile.seen["a"] == 111.0
    other = open_round()
    other.now = 104.0
    mark = ShowSteps("a", Progress(RUN, 1, 7))
    sign = decide(other.state, other.volatile, mark, other.now).sign
    other.volatile.take(sign, other.now, LEASE)
    assert decide(other.state, other.volatile, mark, 200.0) == Decision((), Ack(True))


def test_steps_of_a_round_that_is_played_again_are_progress():
    server = open_round()
    for attempt in (1, 2):
        mark = ShowSteps("a", Progress(RUN, 1, 7, attempt))
        sign = decide(server.state, server.volatile, mark, server.now).sign
        assert sign is not None and sign.renews
        server.volatile.take(sign, server.now, LEASE)
        server.put(WentBack(0, (0,)), Opened(work(), 2))


def test_what_is_committed_is_told_with_the_attempt_in_which_it_was():
    server = STATES["of a past round"]()

    def told(name, **more):
        poll = AskTask(name, Poll(RUN, 1, 0.0, **more))
        return decide(server.state, server.volatile, poll, 0.0).answer

    assert told("a") == Settled(RUN, 1, True) and told("b") == Settled(RUN, 1, False)
    assert told("a", attempt=2) == Settled(RUN, 1, False, 2)


def test_the_same_piece_is_opened_once_and_another_is_refused():
    server = open_round()
    for other in (replace(work(), since=9.0), replace(work(), groups=(("a", "b"),))):
        assert decide(server.state, server.volatile, BeginWork(other), 0.0) == Decision()
    for other in (work(model=OTHER), work(cohort=("a",))):
        found = decide(server.state, server.volatile, BeginWork(other), 0.0)
        assert found.reason is RefusalReason.FOREIGN, found


def test_a_message_of_a_secure_sum_is_taken_once_and_numbered():
    server = open_round()
    for number, word in enumerate((WORD, replace(WORD, name="b"), replace(WORD, kind="12")), 1):
        found = decide(server.state, server.volatile, HearSecure(1, word), 0.0)
        assert found.answer == number
        server.put(*found.events)
    again = decide(server.state, server.volatile, HearSecure(1, WORD), 0.0)
    assert (again.events, again.answer, again.sign.renews) == ((), 1, False)
    other = decide(server.state, server.volatile, HearSecure(1, replace(WORD, digest=OTHER)), 0.0)
    assert other.reason is RefusalReason.DUPLICATE


def test_leases_are_looked_at_when_they_are_ended():
    """One that was renewed since whoever asks has looked is not ended."""
    server = STATES["lease over"]()
    server.volatile.leases["a"] = server.now + 1
    found = decide(server.state, server.volatile, EndLeases(1, "train"), server.now)
    assert [event.assignment.client for event in found.events] == ["b"]


def test_each_assignment_is_decided_once_within_a_command():
    server = open_round()
    twice = (Assignment("a", "late", "one"), Assignment("a", "failed", "two"), Assignment("b"))
    found = decide(server.state, server.volatile, DecideAssignments(1, "train", twice), 0.0)
    assert [event.assignment.reason for event in found.events] == ["one"]
    assert apply(server.state, found.events[0]).piece(1, "train").assignments["a"].reason == "one"
