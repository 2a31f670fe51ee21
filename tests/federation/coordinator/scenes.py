# SPDX-License-Identifier: Apache-2.0
"""A coordinator in each of the states that the table of commands tells apart."""

from dataclasses import replace

from muster.federation.coordinator.apply import apply
from muster.federation.coordinator.events import (
    Committed,
    Decided,
    Excluded,
    MemberEnrolled,
    Opened,
)
from muster.federation.coordinator.facts import FederationFacts
from muster.federation.coordinator.secagg_progress import SecAggProgress
from muster.federation.coordinator.state import CoordinatorState, Volatile
from muster.federation.protocol.message import UpdateHeader
from muster.store.records import Assignment, Member, OpenWork

RUN, PRINT, MODEL, BODY, OTHER = "run-1", "a" * 64, "b" * 64, "c" * 64, "d" * 64
METRICS = {"rows": 10.0, "loss": 4.0, "steps": 2.0, "drift": 0.5}
UPDATE = UpdateHeader(RUN, 1, BODY, 100, 10.0, METRICS)
LEASE = 15.0


def weigh(rows, times):
    """Everybody counts by rows and draws."""
    return float(rows * times)


FACTS = FederationFacts(RUN, PRINT, {}, weigh, None, 500, lease=LEASE)


class Server:
    """A state and what a server has seen; what is put in is in both, as a writer does it."""

    def __init__(self, facts=FACTS):
        self.state, self.volatile, self.now = CoordinatorState(facts), Volatile(), 100.0

    def put(self, *events):
        """These events, one after the other."""
        for event in events:
            apply(self.state, event).position += 1
            self.volatile.heed(event, self.state, self.now)
        return self


def work(round=1, kind="train", cohort=("a", "b"), model=MODEL, groups=()):
    """A piece of a round for clients of ten rows."""
    roster = tuple((client, 10) for client in cohort)
    return OpenWork(round, kind, cohort, (1,) * len(cohort), roster, model, 0.0, groups)


def arrived(client="a", update=UPDATE):
    """The assignment of an update that is here."""
    return Assignment(
        client,
        "arrived",
        digest=update.digest,
        size=update.size,
        weight=update.weight,
        metrics=update.metrics,
    )


def enrolled(*names):
    """A server whose members have these names."""
    return Server().put(*(MemberEnrolled(Member(name, name, 10)) for name in names))


def nothing_open():
    """Members, and no round."""
    return enrolled("a", "b")


def open_round():
    """Both are asked to train."""
    server = enrolled("a", "b").put(Opened(work()))
    clients = {"a": "a", "b": "b"}
    server.volatile.session = SecAggProgress(1, clients, 9, str, {"a": ("a", "b")})
    return server


def decided(standing, reason="", text="it"):
    """The same; an assignment has ended."""
    return open_round().put(Decided(1, 1, "train", Assignment("a", standing, reason, text)))


def has_arrived():
    """The update of one is here."""
    return open_round().put(Decided(1, 1, "train", arrived()))


def all_arrived():
    """Those of both are."""
    return has_arrived().put(Decided(1, 1, "train", arrived("b")))


def past_round():
    """Its round is committed, with its update."""
    return all_arrived().put(Committed(1, ("a",)))


def evaluated():
    """The model is measured by both."""
    return all_arrived().put(Opened(replace(work(kind="evaluate"), counted=("a",))))


def stranger():
    """The one who speaks has not said hello."""
    server = enrolled("b").put(Opened(work(cohort=("b",))))
    server.volatile.session = SecAggProgress(1, {"b": "b"}, 9, str, {"b": ("b",)})
    return server


def left_out():
    """The one who speaks has lied."""
    return enrolled("a", "b").put(Excluded("a", "it lied"), Opened(work(cohort=("b",))))


def lease_over():
    """Nobody has moved for longer than a lease."""
    server = open_round()
    server.now += LEASE + 1
    return server


def gone_back():
    """The run has gone back, and plays the round again."""
    server = enrolled("a", "b")
    server.state.facts = replace(server.state.facts, raised=(0,))
    return server.put(Opened(work(), 2))


STATES = {
    "nothing open": nothing_open,
    "open": open_round,
    "arrived": has_arrived,
    "all arrived": all_arrived,
    "late": lambda: decided("late"),
    "failed": lambda: decided("failed"),
    "declined": lambda: decided("declined"),
    "lease over": lease_over,
    "evaluated": evaluated,
    "of a past round": past_round,
    "of another attempt": gone_back,
    "left out": left_out,
    "unknown client": stranger,
}
