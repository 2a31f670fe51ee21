# SPDX-License-Identifier: Apache-2.0
"""A member that says again what it once said: after a restart of the server, and to another run's.

Every request and message of the protocol, forwards and backwards, into rounds of any kind: nothing
old decides a seat, enters a sum, or is in the log once more.
"""

from dataclasses import replace

import pytest

pytest.importorskip("sqlalchemy")
pytest.importorskip("cryptography")

from tests.adversary.lies import Lie
from tests.adversary.members import LIAR, NAMES, Hub, honest, sums_of
from tests.adversary.requests import FIELDS
from tests.adversary.trained import Door, Trainers, put_of, update_of
from tests.federation.coordinator.masked import plan_of

from muster.federation.protocol.message import (
    Ack,
    Decline,
    Hello,
    Measured,
    Message,
    Poll,
    Progress,
    ResumeAt,
    TrainingFailure,
    UpdateHeader,
    from_json,
    to_json,
)
from muster.secagg import messages
from muster.secagg.messages import CLIENT_KINDS, Advert, OpenedShares, Quit
from muster.security.refusal import Refused

MASKED = plan_of(layers=(4, 3), rounds=100_000)
OPEN = replace(MASKED, pipeline=())
SAID = {Hello, Poll, UpdateHeader, Decline, TrainingFailure, Progress, Measured}  # of a member
SECURE = {name for name in FIELDS if "secure" in name or "members" in name}


def said(hub):
    """Return the words of the liar so far: method, target, body, headers."""
    return [told[1:] for told in hub.asked if told[0] == LIAR]


def addresses(told):
    """Which requests of the protocol those are."""
    found = set()
    for method, target, *_ in told:
        parts = target.partition("?")[0].split("/")
        for name in FIELDS:
            own, _, address = name.partition(" ")
            places = address.split("/")
            fits = len(parts) == len(places) and all(
                place == part or place.startswith("{")
                for part, place in zip(parts, places, strict=True)
            )
            if own == method and fits:
                found.add(name)
    return found


def kinds(told):
    """Which messages of the wire those hold, and which kinds of words of a secure sum."""
    found = set()
    for _, target, body, _ in told:
        try:
            found.add(type(from_json(body, *Message.__subclasses__())))
        except Refused:
            if "/v1/secure/" in target and body:
                found.add(messages.KINDS[body[4]])
    return found


def measured(hub, asked):
    """The honest answer of the liar to an evaluation."""
    return to_json(Measured(hub.run, asked.round, asked.model, sums_of(hub.plan)))


def life(hub):
    """Rounds in which the liar says, as it should, all that a member says in the clear."""
    for name in set(FIELDS) - SECURE:
        if "{" not in name and name.startswith("GET"):
            hub.ask(LIAR, *name.split(" "))

    def trains(task):
        hub.ask(LIAR, "GET", f"/v1/models/{task.model}?round={task.round}")
        hub.say(LIAR, "/v1/answers", to_json(Progress(hub.run, task.round, 1)))
        hub.deliver(LIAR, task)

    def declines(task):
        hub.say(LIAR, "/v1/answers", to_json(Decline(hub.run, task.round, "no")))

    def fails(task):
        hub.say(
            LIAR, "/v1/answers", to_json(TrainingFailure(hub.run, task.round, "train", "it failed"))
        )

    for lie in (trains, declines, fails):
        hub.training(lie)
    hub.evaluation(lambda asked: [measured(hub, asked)])
    hub.commit()


@pytest.fixture
def hub(tmp_path):
    made = Trainers(tmp_path / "hub", OPEN)
    life(made)
    yield made
    made.close()


def test_all_that_a_member_says_in_the_clear_is_said(hub):
    """Else it would not be said again: the completeness of what follows."""
    assert addresses(said(hub)) == set(FIELDS) - SECURE
    assert kinds(said(hub)) == SAID


@pytest.mark.parametrize("backwards", [False, True])
def test_after_a_restart_nothing_old_counts_in_a_new_round(backwards, hub):
    old = said(hub)[:: -1 if backwards else 1]
    hub.begin()

    def again(task=None):
        door = Door(hub)
        for method, target, body, headers in old:
            door.refused(f"{method} {target}", hub.ask(LIAR, method, target, body, headers))
            assert hub.round_state.seats[LIAR].standing == "invited", (method, target, body[:99])
        assert hub.stored()[2] == hub.notes

    def trains(task):
        again()
        hub.deliver(LIAR, task)

    assert hub.training(trains).seats[LIAR].standing == "arrived"

    def measures(asked):
        again()
        return [measured(hub, asked)]

    found = hub.evaluation(measures)
    assert found == dict.fromkeys(NAMES, sums_of(hub.plan))
    hub.commit()


def test_in_the_same_round_a_member_goes_on_where_it_was_before_the_restart(hub):
    """It says all of that round again, of which half an update was held."""

    class Stop(BaseException):
        """The server dies here."""

    body = hub.body(LIAR)
    update = update_of(hub.run, hub.round, body)
    first = len(hub.asked)

    def half(task):
        hub.say(LIAR, "/v1/answers", to_json(Progress(hub.run, task.round, 1)))
        assert hub.announce(LIAR, update) == ResumeAt(0)
        assert hub.put(LIAR, update, body[:100]) == ResumeAt(100)
        raise Stop

    with pytest.raises(Stop):
        hub.training(half)
    old = [told[1:] for told in hub.asked[first:] if told[0] == LIAR]
    hub.begin()

    def again(task):
        for method, target, data, headers in old * 2:
            assert hub.ask(LIAR, method, target, data, headers).status == 200
        assert hub.put(LIAR, update, body[100:], 100) == Ack(True)
        for method, target, data, headers in old:
            hub.ask(LIAR, method, target, data, headers)

    assert hub.training(again).seats[LIAR].digest == update.digest


def test_nothing_said_in_one_run_counts_in_another(hub, tmp_path):
    """The same plan and members, and a server of another run."""
    other = Trainers(tmp_path / "other", OPEN, run="other")
    old = [one for one in said(hub) if one[1] not in ("/v1/hello", "/v1/plan")]

    def trains(task):
        door = Door(other)
        for method, target, body, headers in old:
            answer = other.ask(LIAR, method, target, body, headers)
            assert door.refused(target, answer) or method == "GET", target
            assert other.round_state.seats[LIAR].standing == "invited"
        right = put_of(update_of("run", task.round, other.body(LIAR)))
        method, target, headers = right.sent()
        assert other.ask(LIAR, method, target, other.body(LIAR), headers).status == 404
        other.deliver(LIAR, task)

    assert other.training(trains).seats[LIAR].standing == "arrived"
    other.close()


def summed(hub, lie=honest):
    """A secure sum, checked and committed."""
    made = hub.sum(lie)
    try:
        made.check()
    finally:
        hub.commit(made.found.survivors if made.found else ())
    return made


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    """A server of secure sums, to which the liar has said everything."""
    made = Hub(tmp_path_factory.mktemp("masked"), MASKED)
    summed(made)
    for kind in (OpenedShares, Quit):
        summed(made, Lie(kind, lambda data: [data]))
    yield made
    made.close()


def test_all_that_a_member_says_in_a_secure_sum_is_said(masked):
    assert addresses(said(masked)) >= SECURE
    assert {messages.KINDS[number] for number in CLIENT_KINDS} <= kinds(said(masked))


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("where", ["after a restart", "in another run"])
def test_no_old_word_of_a_secure_sum_harms_another(where, backwards, masked, tmp_path):
    """Before its first right word; what it says then may stand, and cost it its own part."""
    old = said(masked)[:: -1 if backwards else 1]
    hub = masked
    if where == "in another run":
        hub = Hub(tmp_path, MASKED, run="other")
    else:
        hub.begin()

    def lie(message, member):
        if not isinstance(message, Advert):
            return honest(message)
        for method, target, body, headers in old:
            hub.ask(LIAR, method, target, body, headers)
        words = [body for method, target, body, _ in old if "/v1/secure/" in target and body]
        return [*((data, {}, {}) for data in words), *honest(message)]

    summed(hub, lie)
    summed(hub)
    if hub is not masked:
        hub.close()
