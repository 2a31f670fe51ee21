# SPDX-License-Identifier: Apache-2.0
"""Every field of every message that asks a site for something, and of what it answers, may lie.

To a real site by a server: `TrainAssignment`, `Evaluate`, `Settled`, `Wait`, `RunEnded`, `Welcome`.
To a real server by a member: `Measured`, `Decline`, `TrainingFailure`, `Progress`, `Poll`, `Hello`.
"""

import json
from dataclasses import replace

import httpx
import pytest

pytest.importorskip("sqlalchemy")

from tests.adversary.members import LIAR, NAMES, Hub, sums_of
from tests.adversary.mutants import WHOLE, json_mutants, readable, uncovered
from tests.adversary.rogue import Rogue, Site
from tests.federation.coordinator.masked import plan_of
from tests.federation.site.scene import plan

from muster import Every
from muster.errors import MusterError
from muster.federation.protocol.claims import check_measured
from muster.federation.protocol.codec_json import rules
from muster.federation.protocol.message import (
    VERSIONS,
    Ack,
    Decline,
    Evaluate,
    Hello,
    Measured,
    Message,
    Poll,
    Progress,
    ResumeAt,
    RunEnded,
    Settled,
    TrainAssignment,
    TrainingFailure,
    UpdateHeader,
    Wait,
    Welcome,
    from_json,
    to_json,
)
from muster.metrics.sums import values
from muster.runs.measure import spread
from muster.security.refusal import RefusalReason, Refused

OPEN = plan(weighting="equal", rounds=7, evaluate=Every(3))
HIDDEN = replace(OPEN, evaluate=Every(clients=0))
ASKS = (TrainAssignment, Evaluate, Settled, Wait, RunEnded)
SAYS = (Measured, Decline, TrainingFailure, Progress, Poll, Hello)


def asked(rogue, kind):
    """A valid message of a kind."""
    return {
        TrainAssignment: rogue.task(1),
        Evaluate: rogue.evaluate(3),
        Settled: rogue.settled(1),
        Wait: Wait(0.0),
        RunEnded: RunEnded(rogue.run, 1, "over"),
        Welcome: Welcome(VERSIONS[-1], rogue.run, "a", 30.0),
    }[kind]


def meant(data, kind, hub):
    """Return whether bytes are a message of a kind, in which a member says what it may."""
    if not readable(data, kind):
        return False
    if kind is not Measured:
        return True
    try:
        check_measured(
            from_json(data, kind).metrics,
            hub.round_state.members[LIAR].rows,
            hub.round_state.facts.claims,
        )
    except Refused:
        return False
    return True


def test_every_kind_of_message_is_lied_about():
    """Verdicts and offers: in `test_sites_answers`; updates in the clear: in tests of transfers."""
    kinds = {kind for kind in Message.__subclasses__() if kind.__module__ == Message.__module__}
    kinds |= {
        kind for kind in Message.__subclasses__() if kind.__module__ == TrainAssignment.__module__
    }
    assert kinds == {*ASKS, *SAYS, Welcome, Ack, ResumeAt, UpdateHeader}


@pytest.mark.parametrize("kind", ASKS)
@pytest.mark.parametrize("given", [OPEN, HIDDEN], ids=["open", "hidden"])
def test_a_site_does_what_plan_and_policy_say_whatever_it_is_asked(kind, given, tmp_path):
    """A message that is none is asked for again; any other is done, declined, or ends the site."""
    site, rogue = Site(tmp_path, given), Rogue(given, [])
    lies = list(json_mutants(asked(rogue, kind)))
    assert not uncovered(lies, kind.__name__, [*rules(kind), WHOLE])
    junk = [lie for lie in lies if not readable(lie.data, kind)]
    rogue.script = [httpx.Response(200, content=lie.data) for lie in junk]
    rogue.script += [rogue.evaluate(3), rogue.task(4)]
    site.attend(rogue)
    assert [said.round for said in rogue.of(Measured)] == ([3] if given is OPEN else [])
    assert [update.round for update, _ in rogue.updates] == [4]
    for lie in lies:
        if lie in junk:
            continue
        rogue.script = [httpx.Response(200, content=lie.data), rogue.task(4)]
        try:
            site.attend(rogue)
        except MusterError:
            continue
    told = rogue.of(Measured)
    assert {said.round for said in told} <= ({3, 6, 7} if given is OPEN else set())
    bodies = {}
    for update, _ in rogue.updates:
        bodies.setdefault((update.run, update.round, update.attempt), set()).add(update.digest)
    assert all(len(digests) == 1 for digests in bodies.values()), "one answer to an assignment"
    assert {update.round for update, _ in rogue.updates} <= set(range(1, OPEN.rounds + 1))


@pytest.mark.parametrize("kind", [Welcome])
def test_a_site_joins_what_it_can_whatever_it_is_welcomed_with(kind, tmp_path):
    site, rogue = Site(tmp_path, OPEN), Rogue(OPEN, [])
    honest = rogue.handle
    lies = list(json_mutants(asked(rogue, kind)))
    assert not uncovered(lies, kind.__name__, [*rules(kind), WHOLE])
    told = []

    def handle(request):
        if request.url.path == "/v1/hello" and told:
            return httpx.Response(200, content=told.pop(0).data)
        return honest(request)

    rogue.handle = handle
    told += [lie for lie in lies if not readable(lie.data, kind)]
    rogue.script = [rogue.task(1)]
    site.attend(rogue)
    assert not told and len(rogue.updates) == 1
    for number, lie in enumerate(lies):
        if readable(lie.data, kind):
            told.append(lie)
            other = Site(tmp_path / str(number), OPEN)
            try:
                other.attend(rogue)
            except MusterError:
                continue


# -- a member that lies to a server ----------------------------------------------------------------


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    made = Hub(tmp_path_factory.mktemp("hub"), replace(plan_of(), pipeline=()))
    yield made
    made.close()


def valid(hub, kind, asked):
    """A valid message of a member that is asked to measure."""
    place = {"run": "run", "round": asked.round}
    return {
        Measured: Measured(**place, model=asked.model, metrics=sums_of(hub.plan)),
        Decline: Decline(**place, text="no"),
        TrainingFailure: TrainingFailure(**place, stage="x", text="y"),
        Progress: Progress(**place, steps=1),
        Poll: Poll("run", 0, 0.0),
        Hello: Hello(VERSIONS, LIAR, hub.round_state.facts.fingerprint, 9),
    }[kind]


@pytest.mark.parametrize("kind", [Measured, Decline, TrainingFailure, Progress])
def test_whatever_a_member_answers_the_others_are_measured(kind, hub):
    """All that is refused, then each that is taken, in an evaluation of its own; then a restart."""
    taken, lies = [], []

    def junk(asked):
        lies.extend(json_mutants(valid(hub, kind, asked)))
        for lie in lies:
            (taken if meant(lie.data, kind, hub) else said).append(lie.data)
        return said

    said = []
    found = hub.evaluation(junk)
    assert not uncovered(lies, kind.__name__, [*rules(kind), WHOLE])
    assert all(
        answer.reason
        in (RefusalReason.MALFORMED, RefusalReason.NOT_FINITE, RefusalReason.TOO_LARGE)
        for answer in hub.answers
        if answer.status != 200
    )
    assert sum(answer.status != 200 for answer in hub.answers) == len(said) > 50
    checked(hub, found)
    for data in taken:
        checked(hub, hub.evaluation(lambda asked, data=data: [data, data]))


def checked(hub, found):
    """Check that the honest measured as they said it, and a record can be made of all."""
    for name in NAMES:
        if name != LIAR:
            assert found[name] == sums_of(hub.plan)
    own = [values(hub.plan.measured, sums) for sums in found.values()]
    told = spread(hub.plan.directions, list(found.values()), own)
    json.dumps(told, allow_nan=False)
    hub.commit()


@pytest.mark.parametrize("kind", [Poll, Hello])
def test_whatever_a_member_asks_it_has_an_answer(kind, hub):
    path = {Poll: "/v1/poll", Hello: "/v1/hello"}[kind]
    whole = valid(hub, kind, Evaluate("run", 1, "0" * 64, 1.0, False))
    lies = list(json_mutants(whole))
    assert not uncovered(lies, kind.__name__, [*rules(kind), WHOLE])
    for lie in lies:
        if b'"wait":1' in lie.data or b'"wait":0.5' in lie.data or b'"wait":7' in lie.data:
            continue  # it is kept waiting, as it asks
        answer = hub.ask(LIAR, "POST", path, lie.data)
        assert answer.status == 200 or answer.reason is not None
    hub.begin()
    assert hub.ask(LIAR, "POST", path, to_json(whole)).status == 200
