# SPDX-License-Identifier: Apache-2.0
"""While a client works the server hears of it; failures and full disks end nothing."""

import errno
import os
import threading
from dataclasses import replace

import numpy as np
from tests.federation.site.hub import Hub, httpx
from tests.federation.site.scene import PLANS, attend, by_hand, plan, rows

from muster import keys, optimizers, tasks
from muster.federation.protocol.message import Ack, Measured, Progress, TrainingFailure, to_json
from muster.federation.site.policy import Policy
from muster.federation.site.trainer import Habits
from muster.ports import Disk
from muster.rounds import start
from muster.security.refusal import RefusalReason

SLOW = {"go": threading.Event()}


def test_evaluation_takes_the_memory_that_counts(tmp_path):
    plan = PLANS["private"]
    found = {}
    for counted in (True, False):
        hub = Hub(plan, rounds=1, accepted={1: counted}, evaluates={1})
        attend(plan, hub, tmp_path / str(counted), test=rows(7, seed=3))
        (measured,) = [m for m in hub.said if isinstance(m, Measured)]
        assert measured.metrics["rows"] == 7
        found[counted] = measured.metrics["loss"]
    (outcome,), _ = by_hand(plan, {}, 1)
    sent = start(plan).sent()
    blank = plan.fresh_memory(*plan.task.init(keys.key(plan.seed).at("init")))
    for counted, memory in ((True, outcome.memories[0]), (False, blank)):
        w = plan.sharing.merge(sent.algorithm.x, memory.private)
        assert found[counted] == plan.task.evaluate(w, None, *rows(7, seed=3))["loss"]


def test_what_cannot_be_trained_is_a_failure_and_the_round_goes_on(tmp_path):
    x, y = rows()
    hub = Hub(PLANS["plain"], rounds=2)
    events = []
    attend(PLANS["plain"], hub, tmp_path, data=(x, y + 7), habits=Habits(watch=events.append))
    failures = [m for m in hub.said if isinstance(m, TrainingFailure)]
    assert [(f.round, f.stage) for f in failures] == [(1, "data"), (2, "data")]
    last = failures[0].text.splitlines()[-1]
    assert "labels hold #, but # classes" in last and not any(c.isdigit() for c in last)
    assert [e["stage"] for e in events if e["event"] == "failed"] == ["data", "data"]


def test_an_update_that_is_not_finite_fails_at_report(tmp_path):
    hub = Hub(plan(local=replace(PLANS["plain"].local, optimizer=optimizers.SGD(1e30))), rounds=1)
    attend(hub.plan, hub, tmp_path)
    (failure,) = [m for m in hub.said if isinstance(m, TrainingFailure)]
    assert failure.stage == "report"


def begin():
    """A model of one's own."""
    return {"w": np.zeros(3)}


def fit(model, data, config):
    """Training that takes until the server has heard of it twice."""
    SLOW["go"].wait(60)
    return {"w": model["w"] + 1}


def judge(model, data):
    """A measure of one's own."""
    return {"loss": 0.0}


def test_work_without_steps_is_alive_as_long_as_the_process(tmp_path):
    SLOW["go"].clear()
    own = plan(task=tasks.custom.Custom(begin, fit, judge))
    hub = Hub(own, rounds=1)
    hub.lease = 0.03

    def watch(event):
        if event["event"] == "progress" and sum(isinstance(m, Progress) for m in hub.said) >= 2:
            SLOW["go"].set()

    attend(own, hub, tmp_path, habits=Habits(watch=watch))
    told = [m.steps for m in hub.said if isinstance(m, Progress)]
    assert told[:2] == [1, 2] and list(hub.bodies) == [1]


def test_steps_are_told_while_they_grow(tmp_path):
    hub = Hub(PLANS["plain"], rounds=1)
    hub.lease = 0.03
    events = []

    def at(label):
        if label == "site: in step":
            before = len(events)
            for _ in range(2000):
                if len(events) > before:
                    return
                threading.Event().wait(0.005)

    attend(PLANS["plain"], hub, tmp_path, at=at, habits=Habits(watch=events.append))
    told = [m.steps for m in hub.said if isinstance(m, Progress)]
    assert told == sorted(set(told)) and len(told) > 1


def test_steps_tell_no_rows_that_the_policy_hides(tmp_path):
    """Beats in their place: so many epochs of steps are so many rows."""
    equal = plan(weighting="equal")
    hub = Hub(equal, rounds=1)
    hub.lease, events = 0.03, []

    def at(label):
        before = len(events)
        for _ in range(2000 if label == "site: in step" else 0):
            if len(events) > before:
                return
            threading.Event().wait(0.005)

    habits = Habits(watch=events.append, policy=Policy(rows="hidden"))
    attend(equal, hub, tmp_path, at=at, habits=habits)
    told = [m.steps for m in hub.said if isinstance(m, Progress)]
    assert told == list(range(1, 1 + len(told))) and len(told) > 1
    shown = [e["step"] for e in events if e["event"] == "progress"]
    assert max(shown) > len(told), "the test has no power"


def test_a_round_that_is_over_is_broken_off(tmp_path):
    hub = Hub(PLANS["plain"], rounds=2)
    hub.lease = 0.03
    honest, passed = hub.answer, threading.Event()

    def answer(request):
        if request.url.path == "/v1/answers" and not passed.is_set():
            hub.round += 1
            passed.set()
            return httpx.Response(409, content=to_json(Ack(False, RefusalReason.STALE, "over")))
        return honest(request)

    hub.answer = answer

    def at(label):
        if label == "site: in step":
            passed.wait(60)

    attend(PLANS["plain"], hub, tmp_path, at=at)
    assert list(hub.bodies) == [2]


def test_a_full_disk_keeps_finished_work_waiting_and_loses_none(tmp_path):
    left = [12]

    def write(file, data, at):
        left[0] -= 1
        if left[0] in (0, 1, 2):
            raise OSError(errno.ENOSPC, "No space left on device")
        return os.pwrite(file, data, at)

    hub, events, labels = Hub(PLANS["scaffold"], rounds=2), [], []
    calm = Hub(PLANS["scaffold"], rounds=2)
    attend(PLANS["scaffold"], calm, tmp_path / "calm")
    attend(
        PLANS["scaffold"],
        hub,
        tmp_path / "full",
        disk=Disk(write=write, sync=int),
        at=labels.append,
        habits=Habits(watch=events.append),
    )
    assert [e for e in events if e["event"] == "full"]
    assert hub.bodies == calm.bodies
