# SPDX-License-Identifier: Apache-2.0
"""A server that does not lead follows when the run goes back, and leads from there."""

import asyncio
import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from tests.store.scene import begin, enrol

pytest.importorskip("sqlalchemy")

from muster.federation.coordinator.commands import BeginWork
from muster.federation.coordinator.facts import FederationFacts, raised
from muster.federation.coordinator.replica import mirror
from muster.federation.coordinator.round_state import Back, RoundState
from muster.federation.coordinator.service import FederationService
from muster.federation.protocol.message import Evaluate, Poll
from muster.runs.rollback import roll_back
from muster.security.refusal import RefusalReason, Refused
from muster.store.ledger import FederationStore
from muster.store.records import Member, OpenWork

PLAN = SimpleNamespace(secure=None)


def committed(ledger, *rounds):
    for round in rounds:
        record = {"round": round, "accepted": ["a"] if round else [], "invited": ["a"]}
        accepted = record["accepted"]
        ledger.commit(round, {"x": np.full(2, float(round))}, record, accepted, {0, 1, 2, 3})


def opened(round):
    return OpenWork(round, "train", ("a",), (1,), (("a", 5),), "0" * 64, 1.0)


def hall_of(ledger):
    facts = FederationFacts(
        "r", "f" * 64, {}, lambda rows, times: 1.0, None, 8, raised=raised(ledger)
    )
    return RoundState(ledger, facts)


async def until(holds, work):
    """Let a task work until something holds."""
    task = asyncio.create_task(work)
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0)
            assert not task.done(), task
    task.cancel()


def test_a_follower_sees_it_and_goes_on_from_there(tmp_path, database):
    url = database + "?run=r"
    leads, follows = FederationStore(tmp_path / "one", url), FederationStore(tmp_path / "two", url)
    try:
        assert leads.lead(threading.Event())
        leads.note(federation=True)
        enrol(leads, Member("a", "a", 5)).result()
        committed(leads, 0, 1, 2, 3)
        begin(leads, opened(4))
        round_state = hall_of(follows)

        def watch():
            return mirror(PLAN, follows, round_state, asyncio.Event(), 0.01, at=lambda label: None)

        asyncio.run(until(lambda: round_state.opened is not None, watch()))
        assert (round_state.committed, round_state.opened.round) == (3, 4)
        assert round_state.state.fates[3] == frozenset("a")
        leader = hall_of(leads)
        assert leader.state.digest() == round_state.state.digest()
        round_state.volatile.held["a"] = (4, "d" * 64)
        found = roll_back(leads, 1, by="ann")
        assert found["attempt"] == 2
        asyncio.run(until(lambda: round_state.facts.attempt == 2, watch()))
        assert (round_state.committed, round_state.opened, round_state.seats) == (1, None, {})
        assert round_state.volatile.held == {}
        assert round_state.state.fates == {0: frozenset(), 1: frozenset("a")}
        assert follows.superseded() == leads.superseded() != []
        leads.close()
        assert follows.lead(threading.Event())
        committed(follows, 2)
        assert (follows.latest()[0], follows.versions()) == (2, [0, 1, 2])
        assert [record["round"] for record in follows.history()] == [0, 1, 2]
    finally:
        leads.close()
        follows.close()


def test_every_server_says_the_same_of_an_evaluation(tmp_path, database):
    """A site measures once, with what its counted reply left it, whichever server it asks.

    One that was told two things of one evaluation would decline it.
    """
    url = database + "?run=r"
    leads, follows = FederationStore(tmp_path / "one", url), FederationStore(tmp_path / "two", url)
    try:
        assert leads.lead(threading.Event())
        for name in "ab":
            enrol(leads, Member(name, name, 5)).result()
        one = replace(opened(1), kind="evaluate", cohort=("a", "b"), times=(1, 1), counted=("b",))
        begin(leads, one)
        said = []
        for ledger in (leads, follows):
            round_state = hall_of(ledger)

            async def asked(round_state=round_state, ledger=ledger):
                watch = mirror(PLAN, ledger, round_state, asyncio.Event(), 0.01, at=lambda _: None)
                await until(lambda: round_state.opened is not None, watch)
                service = FederationService(round_state, ledger)
                polls = [service.poll(name, Poll("r", 0, 0.0)) for name in "ab"]
                return [await poll for poll in polls]

            said.append(asyncio.run(asked()))
        assert said[0] == said[1]
        assert [(type(one), one.counted) for one in said[0]] == [
            (Evaluate, False),
            (Evaluate, True),
        ]
    finally:
        leads.close()
        follows.close()


def test_one_who_has_lost_the_lead_takes_nothing_back(tmp_path, database):
    url = database + "?run=r"
    first, second = FederationStore(tmp_path / "one", url), FederationStore(tmp_path / "two", url)
    try:
        assert first.lead(threading.Event())
        committed(first, 0, 1, 2)
        first._lead.release()
        assert second.lead(threading.Event())
        with pytest.raises(Exception, match="does not lead"):
            roll_back(first, 1, by="ann")
        assert (second.latest()[0], second.superseded()) == (2, [])
    finally:
        first.close()
        second.close()


def test_orders_are_taken_where_rounds_are_played_and_one_at_a_time(tmp_path):
    ledger = FederationStore(tmp_path / "run")
    try:
        round_state = hall_of(ledger)
        with pytest.raises(Refused, match="ask the one that leads") as refused:
            round_state.ask_back(Back(0, "ann", ""))
        assert refused.value.reason is RefusalReason.CLOSED
        round_state.plays(True)
        round_state.ask_back(Back(0, "ann", ""))
        with pytest.raises(Refused) as refused:
            round_state.ask_back(Back(0, "bob", ""))
        assert refused.value.reason is RefusalReason.DUPLICATE and round_state.back.by == "ann"
    finally:
        ledger.close()


def test_what_was_open_is_void(tmp_path):
    ledger = FederationStore(tmp_path / "run")
    try:
        round_state = hall_of(ledger)
        enrol(ledger, Member("a", "a", 5)).result()
        committed(ledger, 0, 1, 2, 3)
        round_state.follow()
        round_state.do(BeginWork(opened(4)))
        assert round_state.leases().keys() == {"a"}
        ledger.note(federation=True)
        roll_back(ledger, 2, by="ann")
        round_state.follow()
        assert (round_state.opened, round_state.seats, round_state.leases()) == (None, {}, {})
        assert round_state.committed == 2
        assert (round_state.facts.attempt, round_state.facts.attempt_of(2)) == (2, 1)
    finally:
        ledger.close()
