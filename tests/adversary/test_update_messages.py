# SPDX-License-Identifier: Apache-2.0
"""A member that lies about its update in the clear: announced, sent, or answered in its place.

Every field of every message and request in which a member of a training round says something, to a
real server. What is refused changes nothing; whatever is taken costs its sender alone.
"""

from dataclasses import replace

import pytest

pytest.importorskip("sqlalchemy")
pytest.importorskip("cryptography")

from tests.adversary.members import LIAR
from tests.adversary.mutants import WHOLE, json_mutants, readable, uncovered
from tests.adversary.requests import request_mutants
from tests.adversary.tensors import FIELDS, tensor_mutants
from tests.adversary.trained import ROWS, Door, Trainers, body_of, put_of, update_of
from tests.federation.coordinator.masked import plan_of

from muster.federation.protocol.codec_json import rules
from muster.federation.protocol.message import (
    Ack,
    Decline,
    Progress,
    ResumeAt,
    TrainingFailure,
    UpdateHeader,
    from_json,
)
from muster.security.refusal import RefusalReason

PLAN = replace(plan_of(rounds=100_000), pipeline=())
BODY = body_of(PLAN, 4)
TRAINED = {"rows": float(ROWS), "loss": 1.0, "steps": 3.0, "drift": 0.5}


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    made = Trainers(tmp_path_factory.mktemp("hub"), PLAN)
    yield made
    made.close()


def test_every_field_of_an_announcement_may_lie(hub):
    """A refused one is stored nowhere; of those taken the last stands, and is waited for."""
    counts = []

    def lie(task):
        lies = list(json_mutants(announced(hub, task.round)))
        assert not uncovered(lies, "UpdateHeader", [*rules(UpdateHeader), WHOLE])
        door = Door(hub)
        counts.extend(door.refused(one, hub.say(LIAR, "/v1/updates", one.data)) for one in lies)
        hub.deliver(LIAR, task)

    made = hub.training(lie)
    assert made.seats[LIAR].standing == "arrived"
    assert counts.count(True) > 150 > 30 > counts.count(False) > 1


def announced(hub, round):
    """The honest announcement of the liar."""
    return update_of("run", round, hub.body(LIAR), metrics=TRAINED)


def test_whatever_is_announced_and_taken_costs_its_sender_alone(hub):
    """Each announcement that is one, in a round of its own, with the honest octets behind it."""
    sample = list(json_mutants(announced(hub, hub.round)))
    for place in [(m.field, m.kind, m.what) for m in sample if readable(m.data, UpdateHeader)]:

        def lie(task, place=place):
            lies = json_mutants(announced(hub, task.round))
            data = next(m.data for m in lies if (m.field, m.kind, m.what) == place)
            if hub.say(LIAR, "/v1/updates", data).status == 200:
                hub.put(LIAR, from_json(data, UpdateHeader), hub.body(LIAR))

        hub.training(lie)


def test_every_field_of_the_request_that_sends_octets_may_lie(hub):
    """Whatever it is, the seat stays open, and the update goes on where it really is."""

    def lie(task):
        body = hub.body(LIAR)
        update = update_of("run", task.round, body)
        assert hub.announce(LIAR, update) == ResumeAt(0)
        framed = {"Content-Encoding": "identity", "Content-Length": str(len(body))}
        right = replace(put_of(update), headers=framed)
        lies = list(request_mutants(right))
        assert not uncovered(lies, right.name, [name for _, name in right.fields()])
        door = Door(hub)
        for one in lies:
            answer = hub.ask(LIAR, one.method, one.target, body[:64], one.headers)
            door.refused(one, answer)
            assert hub.round_state.seats[LIAR].standing == "invited", str(one)
            offer = hub.announce(LIAR, update)
            assert isinstance(offer, ResumeAt) and offer.offset <= 64 * 3, str(one)
        rest = body[offer.offset :]
        assert hub.put(LIAR, update, rest, offer.offset) == Ack(True)

    assert hub.training(lie).seats[LIAR].standing == "arrived"


def test_every_part_of_a_body_may_lie(hub):
    """Announced as it is, so that its digest and size are right."""
    lies = list(tensor_mutants(BODY, "body"))
    assert not uncovered(lies, "body", [*FIELDS, WHOLE])
    left, rounds = list(lies), 0
    while left:
        rounds += 1

        def lie(task, left=left):
            """One after the other, until one has decided the seat."""
            while left and hub.round_state.seats[LIAR].standing == "invited":
                body = left.pop().data
                update = update_of("run", task.round, body, size=max(len(body), 8))
                if isinstance(hub.announce(LIAR, update), ResumeAt):
                    hub.put(LIAR, update, body)

        hub.training(lie)
    assert rounds > 3
    hub.begin()  # whatever is stored of all that


@pytest.mark.parametrize("kind", [Decline, TrainingFailure, Progress])
def test_every_field_of_an_answer_in_a_training_may_lie(kind, hub):
    whole = {
        Decline: {"text": "no"},
        TrainingFailure: {"stage": "x", "text": "y"},
        Progress: {"steps": 1},
    }
    taken = []

    def junk(task):
        lies = list(json_mutants(kind("run", task.round, **whole[kind])))
        assert not uncovered(lies, kind.__name__, [*rules(kind), WHOLE])
        door = Door(hub)
        for lie in lies:
            if readable(lie.data, kind):
                taken.append((lie.field, lie.kind, lie.what))
            else:
                assert door.refused(lie, hub.say(LIAR, "/v1/answers", lie.data)), str(lie)

    hub.training(junk)
    for place in taken:

        def twice(task, place=place):
            lies = json_mutants(kind("run", task.round, **whole[kind]))
            data = next(m.data for m in lies if (m.field, m.kind, m.what) == place)
            for _ in range(2):
                hub.say(LIAR, "/v1/answers", data)

        hub.training(twice)
    hub.begin()


def test_octets_before_an_announcement_and_behind_the_end_are_refused(hub):
    """A request without its announcement, one of another round, one behind a verdict."""

    def lie(task):
        body = hub.body(LIAR)
        update = update_of("run", task.round, body)
        assert hub.put(LIAR, update, body).reason is RefusalReason.UNKNOWN
        hub.deliver(LIAR, task)
        assert hub.put(LIAR, update, body) == Ack(True), "said again, it is held"
        later = replace(update, round=task.round + 1)
        assert hub.put(LIAR, later, body).reason is RefusalReason.UNKNOWN
        assert hub.announce(LIAR, later).reason is RefusalReason.FOREIGN
        other = update_of("run", task.round, body_of(PLAN, 7))
        assert hub.announce(LIAR, other).reason is RefusalReason.DUPLICATE

    hub.training(lie)


def test_ever_new_updates_of_which_none_ends_take_the_room_of_one(hub):
    """Also in the next life of the server, which finds the last of them half there."""

    def begun(task):
        for number in range(20):
            body = body_of(PLAN, number)
            update = update_of("run", task.round, body)
            assert hub.announce(LIAR, update) == ResumeAt(0)
            assert hub.put(LIAR, update, body[:200]) == ResumeAt(200)
            assert len(hub.ledger.blobs.names("update-")) == 1

    class Stop(BaseException):
        """The server dies here."""

    def stops(task):
        begun(task)
        raise Stop

    with pytest.raises(Stop):
        hub.training(stops)
    hub.begin()

    def goes_on(task):
        begun(task)
        hub.deliver(LIAR, task)

    assert hub.training(goes_on).seats[LIAR].standing == "arrived"
