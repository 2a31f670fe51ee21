# SPDX-License-Identifier: Apache-2.0
"""A client attends: nothing that is lost, doubled or killed changes an update or a memory."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from tests.federation.site import hub as hubs
from tests.federation.site.hub import Hub
from tests.federation.site.scene import (
    LOCAL,
    PLANS,
    Killed,
    attend,
    by_hand,
    frozen_plan,
    kept,
    plan,
    same,
    spoil,
)

from muster import Every, PerExample
from muster.errors import PlanError, RunError
from muster.federation.protocol.frozen import digest_of
from muster.federation.protocol.message import (
    Decline,
    Evaluate,
    Measured,
    TrainAssignment,
    TrainingFailure,
)
from muster.federation.site import transfers
from muster.federation.site.policy import Policy
from muster.federation.site.store import LABELS
from muster.federation.site.trainer import Habits
from muster.rounds import start
from muster.security.refusal import RefusalReason, Refused
from muster.vectors import leaves


@pytest.mark.parametrize("name", PLANS)
def test_updates_have_the_bits_of_the_loop_and_memory_follows_the_accepted(name, tmp_path):
    plan, accepted = PLANS[name], {2: False}
    hub = Hub(plan, rounds=3, accepted=accepted)
    assert attend(plan, hub, tmp_path).rounds == 3
    outcomes, memory = by_hand(plan, accepted, 3)
    for round, outcome in enumerate(outcomes, 1):
        update, body = hub.bodies[round]
        template = {"payload": {k: v[0] for k, v in outcome.payload.items()}}
        template["buffers"] = outcome.buffers[0]
        found = hubs.codec_tensors.decode(body, template)
        for field, value in outcome.payload.items():
            assert np.array_equal(found["payload"][field], value[0])
        assert update.weight == outcome.weights[0]
        assert update.metrics == {k: float(v[0]) for k, v in outcome.metrics.items()}
    if plan.remembers:
        assert same(kept(plan, tmp_path), dict(leaves(memory)))
    assert hub.settled == [1, 2, 3]


def fetched(hub):
    """How often each body was downloaded."""
    return Counter(path.rpartition("/")[2] for _, path in hub.requests if "/models/" in path)


def test_what_nobody_trains_is_fetched_once_a_run_and_held(tmp_path):
    plan = frozen_plan()
    hub = Hub(plan, rounds=4, evaluates={2})
    still = digest_of(start(plan).frozen)

    def moved(request, answer):
        sent = start(plan).sent()
        x = np.full_like(sent.algorithm.x, len(hub.requests) / 100)
        hub.model = hub.publish(sent._replace(algorithm=sent.algorithm._replace(x=x)))
        return answer(request)

    hub.faults = dict.fromkeys(range(2, 40, 4), moved)  # the server's model is another by then
    assert attend(plan, hub, tmp_path).rounds == 4
    assert fetched(hub)[still] == 1 and len(fetched(hub)) > 2
    assert [p.name for p in tmp_path.glob("frozen-*")] == [f"frozen-{still}"]
    hub.rounds = 5
    assert attend(plan, hub, tmp_path).rounds == 5  # another life
    assert fetched(hub)[still] == 1


def test_what_nobody_trains_is_compared_each_time_and_fetched_anew_where_damaged(tmp_path):
    plan = frozen_plan()
    hub, before = Hub(plan, rounds=1), Hub(plan, rounds=2)
    attend(plan, before, tmp_path / "undisturbed")
    attend(plan, hub, tmp_path)
    (held,) = tmp_path.glob("frozen-*")
    spoil(held)
    hub.rounds = 2
    attend(plan, hub, tmp_path)
    assert fetched(hub)[held.name.removeprefix("frozen-")] == 2
    assert [hub.bodies[r][1] for r in (1, 2)] == [before.bodies[r][1] for r in (1, 2)]


def test_others_that_nobody_trains_are_fetched_and_take_the_place_of_those_before(tmp_path):
    plan = frozen_plan()
    hub = Hub(plan, rounds=1)
    attend(plan, hub, tmp_path)
    sent = start(plan).sent()
    hub.model, hub.rounds = hub.publish(sent._replace(frozen=sent.frozen + 1)), 2
    attend(plan, hub, tmp_path)
    assert [p.name for p in tmp_path.glob("frozen-*")] == [f"frozen-{digest_of(sent.frozen + 1)}"]
    assert hub.bodies[1][1] != hub.bodies[2][1]


def test_a_body_that_is_none_of_the_plan_s_fails_as_ever(tmp_path):
    hub = Hub(frozen_plan(), rounds=1)
    hub.model = hub.publish(start(frozen_plan(width=65)).sent())
    attend(hub.plan, hub, tmp_path)
    assert [type(one) for one in hub.said] == [TrainingFailure]
    assert hub.said[0].stage == "model" and "the shape of" in hub.said[0].text


def undisturbed(plan, tmp_path, **options):
    """Bodies and memory of a run without faults."""
    hub = Hub(plan, **options)
    attend(plan, hub, tmp_path / "undisturbed")
    return hub, kept(plan, tmp_path / "undisturbed")


FAULTS = [hubs.lost, hubs.unheard, hubs.doubled, hubs.broken, hubs.torn, hubs.busy]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.__name__)
def test_every_message_may_be_lost_doubled_or_torn_once(fault, tmp_path):
    plan, options = PLANS["scaffold"], {"rounds": 2, "accepted": {1: True, 2: False}}
    calm, memory = undisturbed(plan, tmp_path, evaluates={1}, **options)
    for number in range(len(calm.requests)):
        hub = Hub(plan, evaluates={1}, **options)
        hub.faults[number] = fault
        attend(plan, hub, tmp_path / str(number))
        assert hub.bodies == calm.bodies
        assert same(kept(plan, tmp_path / str(number)), memory)


@pytest.mark.parametrize("name", ["scaffold", "private", "quantize"])
@pytest.mark.parametrize("label", LABELS)
def test_a_kill_at_any_label_changes_no_bit(name, label, tmp_path, monkeypatch):
    monkeypatch.setattr(transfers, "PIECE", 250)
    plan, options = PLANS[name], {"rounds": 3, "accepted": {2: False}}
    calm, memory = undisturbed(plan, tmp_path, **options)
    habits = Habits(every=0.0)
    for count in (1, 2, 5):
        hub, folder = Hub(plan, **options), tmp_path / f"killed-{count}"
        left = count

        def trap(passed):
            nonlocal left
            left -= passed == label
            if passed == label and not left:
                raise Killed

        killed = False
        try:
            attend(plan, hub, folder, at=trap, habits=habits)
        except Killed:
            killed = True
            attend(plan, hub, folder, habits=habits)
        assert killed or left > 0
        assert hub.bodies == calm.bodies
        assert same(kept(plan, folder), memory)
        assert not [p.name for p in folder.iterdir() if p.name.startswith(("update-", "step-"))]


def test_every_label_is_passed(tmp_path, monkeypatch):
    monkeypatch.setattr(transfers, "PIECE", 250)
    passed = set()
    hub = Hub(PLANS["scaffold"], rounds=1)
    attend(PLANS["scaffold"], hub, tmp_path, at=passed.add, habits=Habits(every=0.0))
    assert passed == set(LABELS)


def test_a_kept_update_is_sent_again_and_never_retrained(tmp_path):
    plan, trained = PLANS["plain"], []

    def trap(label):
        trained.append(label == "site: in step")
        if label == "site: before upload":
            raise Killed

    hub = Hub(plan, rounds=1)
    with pytest.raises(Killed):
        attend(plan, hub, tmp_path, at=trap)
    assert any(trained) and not hub.bodies
    again = []
    attend(plan, hub, tmp_path, at=again.append)
    assert "site: in step" not in again and list(hub.bodies) == [1]


def test_a_damaged_update_is_made_again(tmp_path):
    plan = PLANS["scaffold"]

    def trap(label):
        if label == "site: before upload":
            raise Killed

    calm, _ = undisturbed(plan, tmp_path, rounds=1)
    hub, folder = Hub(plan, rounds=1), tmp_path / "damaged"
    with pytest.raises(Killed):
        attend(plan, hub, folder, at=trap)
    (path,) = folder.glob("update-*")
    spoil(path)
    attend(plan, hub, folder)
    assert hub.bodies == calm.bodies


def test_a_round_with_another_model_is_declined_and_what_is_kept_stays(tmp_path):
    plan = PLANS["scaffold"]

    def trap(label):
        if label == "site: before upload":
            raise Killed

    hub = Hub(plan, rounds=1)
    with pytest.raises(Killed):
        attend(plan, hub, tmp_path, at=trap)
    old = hub.model
    other = start(replace(plan, seed=1)).sent()
    hub.model = b"".join(hubs.codec_tensors.encode(other))
    assert hub.model != old
    passed = []
    attend(plan, hub, tmp_path, at=passed.append)
    (decline,) = [m for m in hub.said if isinstance(m, Decline)]
    assert "was begun with another model; an assignment is done once" in decline.text
    assert "site: in step" not in passed and hub.settled == [1]


@pytest.mark.parametrize(
    "reason", [RefusalReason.LATE, RefusalReason.CLOSED, RefusalReason.MALFORMED]
)
def test_a_refused_update_leaves_the_memory_until_its_fate_is_heard(reason, tmp_path):
    plan = PLANS["scaffold"]
    hub = Hub(plan, rounds=2, accepted={1: reason is not RefusalReason.LATE})
    hub.refusals[1] = reason
    attend(plan, hub, tmp_path)
    _, memory = by_hand(plan, hub.accepted, 2)
    assert same(kept(plan, tmp_path), dict(leaves(memory)))


def test_a_task_for_a_new_round_waits_for_the_fate_of_the_old(tmp_path):
    plan = PLANS["scaffold"]
    hub = Hub(plan, rounds=2, accepted={1: False})
    honest, early = hub.poll, []

    def poll(question):
        if question.pending == 1 and len(early) < 3:
            early.append(question)
            return TrainAssignment(hub.run, 2, hub.digest, hub.lease)
        return honest(question)

    hub.poll = poll
    attend(plan, hub, tmp_path)
    _, memory = by_hand(plan, hub.accepted, 2)
    assert len(early) == 3 and hub.settled == [1, 2]
    assert same(kept(plan, tmp_path), dict(leaves(memory)))


def test_a_server_that_was_put_back_is_followed_under_a_higher_attempt(tmp_path):
    """By who remembers nothing; who does, or whoever is not told so, stays where it is."""
    plain, scaffold = replace(PLANS["plain"], rounds=9), PLANS["scaffold"]
    attend(plain, Hub(plain, rounds=2), tmp_path / "plain")
    silent = Hub(plain, rounds=3)
    attend(plain, silent, tmp_path / "plain")
    assert list(silent.bodies) == [3]
    assert [m.round for m in silent.said if isinstance(m, Decline)] == [1, 2]
    put_back = Hub(plain, rounds=3, attempt=2)
    again = Habits(policy=Policy(repeated_rounds=3))
    attend(plain, put_back, tmp_path / "plain", habits=again)
    assert put_back.settled == [1, 2, 3] and len(put_back.bodies) == 3
    attend(scaffold, Hub(scaffold, rounds=2), tmp_path / "scaffold")
    with pytest.raises(RunError, match="was put back to round 1"):
        attend(scaffold, Hub(scaffold, rounds=3, attempt=2), tmp_path / "scaffold")


def test_an_update_of_an_attempt_before_is_given_up_with_its_round(tmp_path):
    """The server has lost that round before this site heard of its fate."""
    plan = PLANS["scaffold"]

    def trap(label):
        if label == "site: before upload":
            raise Killed

    with pytest.raises(Killed):
        attend(plan, Hub(plan, rounds=2), tmp_path, at=trap)
    calm, memory = undisturbed(plan, tmp_path, rounds=2)
    put_back = Hub(plan, rounds=2, attempt=2)
    attend(plan, put_back, tmp_path, habits=Habits(policy=Policy(repeated_rounds=1)))
    assert [u.attempt for u, _ in put_back.bodies.values()] == [2, 2]
    assert [body for _, body in put_back.bodies.values()] == [b for _, b in calm.bodies.values()]
    assert same(kept(plan, tmp_path), memory)


def test_another_run_takes_over_an_empty_folder_and_no_other(tmp_path):
    habits = Habits(new_run=True)
    for name, fits in (("plain", True), ("scaffold", False)):
        attend(PLANS[name], Hub(PLANS[name], rounds=1), tmp_path / name)
        other = Hub(PLANS[name], rounds=1)
        other.run = "r2"
        if fits:
            assert attend(PLANS[name], other, tmp_path / name, habits=habits).run == "r2"
        else:
            with pytest.raises(RunError, match="give another folder"):
                attend(PLANS[name], other, tmp_path / name, habits=habits)


def test_another_plan_is_shown_field_by_field(tmp_path):
    ours = plan(rounds=3)
    hub = Hub(plan(seed=4, rounds=9))
    with pytest.raises(PlanError, match="seed is 0 here and 4 there") as caught:
        attend(ours, hub, tmp_path)
    assert "rounds" not in str(caught.value)


def test_an_equal_plan_with_another_fingerprint_is_said(tmp_path):
    hub = Hub(PLANS["plain"])
    hub.fingerprint = "0" * 64
    with pytest.raises(PlanError, match="reads the same here and has another fingerprint"):
        attend(PLANS["plain"], hub, tmp_path)


def test_a_server_that_forgot_the_site_hears_hello_again(tmp_path):
    hub = Hub(PLANS["plain"], rounds=1)

    def forgetful(request, answer):
        hub.enrolled = False
        return answer(request)

    hub.faults[3] = forgetful
    attend(PLANS["plain"], hub, tmp_path)
    assert [path for _, path in hub.requests].count("/v1/hello") == 2
    assert list(hub.bodies) == [1]


@pytest.mark.parametrize("reason", [RefusalReason.REVOKED, RefusalReason.WRONG_VERSION])
def test_a_site_that_is_not_wanted_ends(reason, tmp_path):
    hub = Hub(PLANS["plain"])

    def refuse(request, answer):
        verdict = hubs.Ack(False, reason, "go away")
        return hubs.httpx.Response(403, content=hubs.to_json(verdict))

    hub.faults[1] = refuse
    with pytest.raises(Refused, match="go away"):
        attend(PLANS["plain"], hub, tmp_path)


def test_a_policy_declines_and_counts_over_restarts(tmp_path):
    hub = Hub(PLANS["plain"], rounds=3)
    habits = Habits(policy=Policy(rounds_per_day=2), wall=lambda: 1.7e9)

    def trap(label):
        if label == "site: after download":
            raise Killed

    with pytest.raises(Killed):
        attend(PLANS["plain"], hub, tmp_path, at=trap, habits=habits)
    attend(PLANS["plain"], hub, tmp_path, habits=habits)
    assert sorted(hub.bodies) == [1, 2]
    (decline,) = [m for m in hub.said if isinstance(m, Decline)]
    assert decline.round == 3 and "2 rounds a day" in decline.text
    later = Hub(PLANS["plain"], rounds=4)
    later.round = 4
    attend(PLANS["plain"], later, tmp_path, habits=replace(habits, wall=lambda: 1.7e9 + 9e4))
    assert list(later.bodies) == [4]


def test_evaluate_says_which_model(tmp_path):
    hub = Hub(PLANS["plain"], rounds=1, evaluates={1})
    attend(PLANS["plain"], hub, tmp_path)
    asked = Evaluate(hub.run, 1, hub.digest, 1.0, True)
    assert [m.model for m in hub.said if isinstance(m, Measured)] == [asked.model]


def test_what_the_plan_hides_no_server_is_told(tmp_path):
    """Whatever it asks for."""
    local = replace(LOCAL, examples=PerExample(1.0, 1.1))
    hidden = plan(local=local, evaluate=Every(clients=0))
    hub = Hub(hidden, rounds=1, evaluates={1})
    attend(hidden, hub, tmp_path)
    assert not [m for m in hub.said if isinstance(m, Measured)]
    (decline,) = [m for m in hub.said if isinstance(m, Decline)]
    assert "keeps metrics with the clients" in decline.text
    assert hub.bodies[1][0].metrics == {}


def test_whoever_watches_hears_what_the_line_has_carried(tmp_path):
    hub, seen = Hub(PLANS["plain"], rounds=2), []
    attend(PLANS["plain"], hub, tmp_path, habits=Habits(watch=seen.append))
    (carried,) = [event for event in seen if event["event"] == "traffic"]
    bodies = sum(len(body) for _, body in hub.bodies.values())
    assert bodies < carried["sent"] < 10 * bodies
    assert len(hub.model) < carried["received"] < 10 * len(hub.model)
