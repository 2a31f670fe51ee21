# SPDX-License-Identifier: Apache-2.0
"""Law 9: a coordinator is a function, total on every input, of the events that it wrote down.

`MUSTER_SEQUENCES` says how many sequences are played; `make chaos` asks for a million.
"""

import os
import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("sqlalchemy")

from tests.laws.commands import Broken, World

from muster.federation.coordinator import apply as applying
from muster.federation.coordinator import decide as deciding
from muster.federation.coordinator.commands import AskTask, BodyArrived, EndLeases, GiveAnswer
from muster.federation.coordinator.decide import Decision
from muster.federation.coordinator.events import Decided, Ordered
from muster.federation.coordinator.lifecycle import late
from muster.federation.protocol.message import Ack, Decline
from muster.security.refusal import RefusalReason
from muster.store import journal

SEQUENCES = int(os.environ.get("MUSTER_SEQUENCES", "10000"))
TOGETHER = 50  # sequences of one example: to draw one costs as much as to play it
LENGTH = 40  # commands of the longest
NEVER = {  # refused before a command is made: at the door, by the codec, or where bytes come in
    *(RefusalReason.REVOKED, RefusalReason.NOT_FINITE, RefusalReason.WRONG_DIGEST),
    *(RefusalReason.TOO_OFTEN, RefusalReason.UNKNOWN, RefusalReason.LEFT_OUT),
}


def played(seed, count=1):
    """Count what happened in so many sequences; a broken rule names the seed and the commands."""
    found = Counter()
    for one in range(seed, seed + count):
        draw = random.Random(one)
        world = World(draw)
        try:
            world.play(draw.randint(5, LENGTH))
        except Exception as error:
            said = "\n".join(f"  {command!r:.160}" for command in world.said)
            kind = Broken if isinstance(error, Broken) else type(error)
            raise Broken(f"sequence {one}: {kind.__name__}: {error}\n{said}") from error
        found += world.counts
    return found


@settings(
    max_examples=max(1, SEQUENCES // TOGETHER),
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
)
@given(st.integers(0, 1 << 48))
def test_random_commands_end_nothing_and_break_no_rule(seed):
    played(seed, TOGETHER)


def test_the_sequences_reach_every_event_and_every_refusal():
    """A rule that is never tried holds for nothing."""
    found = played(0, 600)
    events = {"MemberEnrolled", "Opened", "Decided", "Said", "Committed", "WentBack", "Ordered"}
    assert {*events, "Excluded"} <= found.keys()
    reasons = {str(reason) for reason in RefusalReason} - {str(reason) for reason in NEVER}
    assert reasons - found.keys() == set()
    assert found["Committed"] > 600 / 4, "most sequences come to a commit or two"


def twice(monkeypatch):
    """An update that comes twice is decided twice."""

    def decided(s, round, attempt, kind, one):
        held = s.piece(round, kind).assignments[one.client]
        return (Decided(round, attempt, kind, one),), held

    monkeypatch.setattr(deciding, "_decided", decided)


def poll_renews(monkeypatch):
    """A poll keeps its member's lease."""

    def poll(s, v, c, now):
        found = RULES[AskTask](s, v, c, now)
        return replace(found, sign=replace(found.sign, renews=True))

    monkeypatch.setitem(deciding._RULES, AskTask, poll)


def old_round(monkeypatch):
    """An update counts in the round that is open, whatever its own is."""

    def body(s, v, c, now):
        here = s.current.opened.round if s.current else c.update.round
        return RULES[BodyArrived](s, v, replace(c, update=replace(c.update, round=here)), now)

    monkeypatch.setitem(deciding._RULES, BodyArrived, body)


def ack_early(monkeypatch):
    """An update is acknowledged and nothing is written down."""
    monkeypatch.setitem(deciding._RULES, BodyArrived, lambda s, v, c, now: Decision((), Ack(True)))


def odd_message(monkeypatch):
    """A member that gives no reason ends its server."""

    def answer(s, v, c, now):
        if isinstance(c.message, Decline):
            ord(c.message.text[:1])
        return RULES[GiveAnswer](s, v, c, now)

    monkeypatch.setitem(deciding._RULES, GiveAnswer, answer)


def stale_list(monkeypatch):
    """The leases that end are those that would be over by the next tick."""

    def leases(s, v, c, now):
        piece = s.piece(c.round, c.kind)
        gone = late(piece.assignments, v.leases, now + 5.0) if piece else ()
        return deciding._all(s, c.round, c.kind, gone)

    monkeypatch.setitem(deciding._RULES, EndLeases, leases)


def lost_event(monkeypatch):
    """An event that is stored is sometimes not applied, as after a crash between both."""
    said = applying.apply

    def apply(state, event):
        lost = isinstance(event, Ordered) and state.position % 2
        return state if lost else said(state, event)

    monkeypatch.setattr(applying, "apply", apply)
    monkeypatch.setattr("tests.laws.commands.fold", honest_fold(said))


def honest_fold(said):
    """A replay that loses nothing."""

    def fold(state, events):
        for position, event in events:
            if position > state.position:
                said(state, event).position = position
        return state

    return fold


def forgotten(monkeypatch):
    """A commit takes the members of its round out of the journal with it."""
    true = journal.forgets

    def forgets(row):
        more = (journal.RowSpan("enrolled", last=0),) if row.topic == "committed" else ()
        return (*true(row), *more)

    monkeypatch.setattr("tests.laws.commands.forgets", forgets)


PLANTS = {
    twice: "I2",
    poll_renews: "a bare poll renews no lease",
    old_round: "D1",
    ack_early: "D1",
    odd_message: "TypeError",
    stale_list: "L2",
    lost_event: "fold of events = state",
    forgotten: "a bounded journal = the whole",
}


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_a_planted_fault_is_found(plant, monkeypatch):
    plant(monkeypatch)
    with pytest.raises(Broken, match=PLANTS[plant]):
        played(0, 2000)


RULES = dict(deciding._RULES)
