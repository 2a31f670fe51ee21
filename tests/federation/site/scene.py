# SPDX-License-Identifier: Apache-2.0
"""A scene for the tests of a site: plans, rows, and a client that attends at a hub."""

import asyncio

import numpy as np
import pytest
from tests.federation.site.lines import line_over

import muster
from muster import algorithms, keys, optimizers, pipeline, tasks
from muster.federation.site.agent import SiteAgent
from muster.federation.site.server_client import Backoff
from muster.federation.site.store import SiteStore
from muster.federation.site.study import StudyRecord
from muster.federation.site.trainer import Habits
from muster.federation.site.training import Training
from muster.federation.site.training_thread import TrainingThread
from muster.local import Group, train
from muster.ports import Disk
from muster.rounds import start
from muster.vectors import leaves

MLP = tasks.numpy.MLP([5, 6, 3])
LOCAL = muster.Local(epochs=2, batch=4, optimizer=optimizers.SGD(0.2))


def plan(algorithm=None, task=MLP, local=LOCAL, **fields):
    """A small plan."""
    return muster.Plan(task, algorithm or algorithms.FedAvg(), local, **fields)


PLANS = {
    "plain": plan(),
    "scaffold": plan(algorithms.Scaffold()),
    "private": plan(share="layers.0.*"),
    "quantize": plan(
        weighting="equal",
        pipeline=[pipeline.AdaptiveClip(start=0.5), pipeline.Quantize(8, range=2.0, feedback=True)],
    ),
}


def frozen_plan(inputs=5, width=64, **fields):
    """A plan of a model with a body that nobody trains, in front of a small head."""
    nn = pytest.importorskip("torch").nn

    def make_model():
        body = nn.Linear(inputs, width).requires_grad_(False)
        return nn.Sequential(body, nn.ReLU(), nn.Linear(width, 3))

    return plan(task=pytest.importorskip("muster.tasks.torch").Classifier(make_model), **fields)


def rows(n=18, seed=0):
    """Rows of one client."""
    draw = np.random.default_rng(seed)
    return draw.normal(size=(n, 5)).astype("float32"), draw.integers(0, 3, n)


def by_hand(plan, accepted, rounds):
    """The outcomes of rounds on the first model, with the memory that the accepted ones leave."""
    data = rows()
    blank = plan.fresh_memory(*plan.task.init(keys.key(plan.seed).at("init")))
    memory, outcomes = blank, []
    for round in range(1, rounds + 1):
        known = (memory,) if plan.remembers else None
        sizes = np.array([len(data[0])])
        group = Group(("a",), (1,), *data, np.zeros(1, int), sizes, known)
        outcomes.append(train(plan, "loop", round, start(plan).sent(), group))
        if plan.remembers and accepted.get(round, True):
            memory = outcomes[-1].memories[0]
    return outcomes, memory


def kept(plan, folder):
    """The memory that counts in a folder."""
    site_store = SiteStore(folder, disk=Disk(sync=int))
    try:
        blank = plan.fresh_memory(*plan.task.init(keys.key(plan.seed).at("init")))
        found = site_store.memory(blank)
        return None if found is None else {k: np.array(v) for k, v in leaves(found)}
    finally:
        site_store.close()


def same(a, b):
    """Return whether two dicts of arrays have the same bits."""
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


async def soon(seconds):
    """A sleep that takes no time."""
    await asyncio.sleep(0)


def hurried():
    """Patience without waiting."""
    return Backoff(sleep=soon, random=float)


class Killed(BaseException):
    """A kill that a test raises at a kill point."""


def spoil(path):
    """Let one bit of a file fall over."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def attend(
    plan,
    hub,
    folder,
    *,
    data=None,
    test=None,
    at=None,
    habits=None,
    disk=None,
    study=None,
    patience=None,
):
    """One life of one client at a hub; its study's record is in its vault unless told otherwise."""
    habits = habits or Habits()

    async def life():
        site_store = SiteStore(folder, at=at, disk=disk or Disk(sync=int))
        record = None
        try:
            record = StudyRecord(study or folder / "study", habits.policy.study)
            line = line_over(hub.transport(), patience=patience or hurried())
            async with TrainingThread() as hand, line:
                training = Training(plan, data or rows(), test)
                client = SiteAgent("a", training, line, site_store, hand, habits, study=record)
                return await client.attend()
        finally:
            site_store.close()
            if record is not None:
                record.close()

    return asyncio.run(life())
