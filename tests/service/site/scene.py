# SPDX-License-Identifier: Apache-2.0
"""What the tests of a site share: plans, rows, and a client that attends at a hub."""

import asyncio

import numpy as np

import muster
from muster import algorithms, optimizers, pipeline, tasks
from muster.service.site.attend import Attendance
from muster.service.site.hand import Hand
from muster.service.site.line import Line, Patience
from muster.service.site.training import Training
from muster.service.site.vault import Vault
from muster.service.site.work import Habits
from muster.store.blobs import Disk

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


def rows(n=18, seed=0):
    """Rows of one client."""
    draw = np.random.default_rng(seed)
    return draw.normal(size=(n, 5)).astype("float32"), draw.integers(0, 3, n)


async def soon(seconds):
    """A sleep that takes no time."""
    await asyncio.sleep(0)


def hurried():
    """Patience without waiting."""
    return Patience(sleep=soon, random=float)


class Killed(BaseException):
    """What a test raises at a kill point."""


def spoil(path):
    """Let one bit of a file fall over."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def attend(plan, hub, folder, *, data=None, test=None, at=None, habits=None, name="a"):
    """One life of one client at a hub."""
    habits = habits or Habits()

    async def life():
        vault = Vault(folder, at=at, disk=Disk(sync=int))
        try:
            async with Hand() as hand:
                transport = hub.transport()
                where = "http://hub"
                async with Line(where, name, patience=hurried(), transport=transport) as line:
                    training = Training(plan, data or rows(), test)
                    client = Attendance(name, training, line, vault, hand, habits)
                    return await client.attend()
        finally:
            vault.close()

    return asyncio.run(life())
