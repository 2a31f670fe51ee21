# SPDX-License-Identifier: Apache-2.0
"""A server that chooses the model learns from no failure what noise is to hide.

The attack: a finite model, in which one column of the first layer is 1e38. Only a row whose feature
lies beyond a threshold makes a gradient that is not finite; a site that fails there, in place of
answering, says that there is such a row, at any epsilon.
"""

from dataclasses import replace

import numpy as np
import pytest
from tests.adversary.rogue import Rogue
from tests.federation.site import scene

import muster
from muster import Every, algorithms, optimizers, pipeline, privacy, tasks
from muster.federation.protocol import codec_tensors
from muster.federation.protocol.template import update_template
from muster.federation.site.policy import Policy
from muster.federation.site.trainer import Habits
from muster.rounds import start

NOISE = 50.0
PLAN = muster.Plan(
    task=tasks.numpy.MLP([5, 6, 3]),
    algorithm=algorithms.FedAvg(),
    weighting="equal",
    local=muster.Local(steps=2, batch=None, optimizer=optimizers.SGD(0.1)),
    rounds=3,
    evaluate=Every(clients=0),
)
PRIVATE = {
    "rows": (
        replace(
            PLAN, local=replace(PLAN.local, examples=privacy.PerExample(clip=1.0, multiplier=NOISE))
        ),
        Policy(budget_epsilon=500.0, budget_delta=1e-3),
    ),
    "forced": (PLAN, Policy(clip=1.0, noise=NOISE, budget_epsilon=500.0, budget_delta=1e-3)),
    "local": (
        replace(PLAN, pipeline=(pipeline.Clip(1.0), pipeline.LocalNoise(4.0, 1e-3))),
        Policy(),
    ),
}


def spoiled(plan, number):
    """The plan's start with one number in all weights of the first feature."""
    sent = start(plan).sent()
    x = np.array(sent.algorithm.x)
    named = plan.task.layout.named(np.arange(len(x)))
    x[named["layers.0.weight"][:, 0]] = number
    return sent._replace(algorithm=sent.algorithm._replace(x=x))


def people(extreme):
    draw = np.random.default_rng(5)
    x = draw.normal(size=(20, 5)).astype("float32").clip(-2, 2)
    x[7, 0] = 5.0 if extreme else 0.0
    return x, draw.integers(0, 3, 20)


@pytest.mark.parametrize("number", [1e38, 3e38, np.inf, np.nan])
@pytest.mark.parametrize("kind", PRIVATE)
def test_a_site_answers_alike_whatever_its_rows_make_of_a_model(kind, number, tmp_path):
    plan, policy = PRIVATE[kind]
    heard = {}
    for extreme in (False, True):
        rogue = Rogue(plan, [])
        rogue.model = (
            rogue.publish(spoiled(plan, number))
            if np.isfinite(number)
            else odd(rogue, plan, number)
        )
        rogue.script = [rogue.task()]
        folder = tmp_path / f"{extreme}"
        with np.errstate(all="ignore"):
            scene.attend(plan, rogue, folder, data=people(extreme), habits=Habits(policy=policy))
        heard[extreme] = (
            [
                (type(one), getattr(one, "stage", ""), getattr(one, "text", ""))
                for one in rogue.answers
            ],
            [len(body) for body in rogue.bodies()],
            [update.metrics for update, _ in rogue.updates],
        )
        for _, body in rogue.updates:
            tree = codec_tensors.decode(body, update_template(plan), finite=True)
            assert tree["payload"]
    assert heard[False] == heard[True]
    assert bool(heard[True][1]) == bool(np.isfinite(number)), "an update, where the model is one"


def odd(rogue, plan, number):
    """A model that is none, which a server must not encode but can send."""
    body = bytearray(b"".join(codec_tensors.encode(start(plan).sent())))
    body[-8:-4] = np.float32(number).tobytes()
    rogue.models[codec_tensors.digest([bytes(body)])] = bytes(body)
    return codec_tensors.digest([bytes(body)])
