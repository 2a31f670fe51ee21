# SPDX-License-Identifier: Apache-2.0
"""A member whose update no honest client sends is left out by name, and the round goes on.

The attacks: one finite number of 3.4e38, with which the mean overflows and every site is told to
clean its data; an update fifty times as long as the plan's clip lets one be.
"""

from dataclasses import replace

import numpy as np
import pytest
from tests.adversary.liar import PLAN, ROWS, TRAINED, Server, history, in_parallel

from muster import pipeline
from muster.federation.protocol.codec_tensors import digest, encode
from muster.federation.protocol.template import update_template
from muster.runs import Run
from muster.vectors import tree_map

CLIPPED = replace(PLAN, pipeline=(pipeline.Clip(1.0),))
LEVELS = replace(PLAN, pipeline=(pipeline.Clip(1.0), pipeline.Quantize(8)), cap=ROWS)


def poisoned(plan, number):
    """The octets of an update with one number in it."""

    def spoiled(leaf):
        leaf = np.array(leaf)
        if leaf.size > 1:
            leaf.reshape(-1)[3] = number
        return leaf

    return b"".join(encode(tree_map(spoiled, update_template(plan))))


def sends(member, body):
    """A round in which a member sends these octets; then it measures as all do."""
    task = member.poll()
    said = {"digest": digest([body]), "size": len(body), "weight": float(ROWS)}
    assert member.update(task, **said, metrics=TRAINED)["kind"] == "offer"
    path = f"/v1/updates/{task['round']}/{digest([body])}?offset=0&size={len(body)}"
    return member.http.put(path, content=body).json()


@pytest.mark.parametrize(
    ("plan", "number", "words"),
    [
        (PLAN, 3.4e38, "with which a sum could overflow"),
        (PLAN, -3.4e38, "with which a sum could overflow"),
        (CLIPPED, 50.0 * ROWS, "its norm is 50, and the plan's pipeline lets none be above 1"),
        (CLIPPED, 3.4e38, "with which a sum could overflow"),
        (LEVELS, 127, ""),
        (LEVELS, 200, "a number of delta in it is 200"),
        (LEVELS, 2**40, "a number of delta in it is"),
    ],
)
def test_a_poisonous_update_is_left_out_with_its_reason_and_the_round_goes_on(
    plan, number, words, tmp_path
):
    with Server(tmp_path / "run", plan) as server, server.members() as members:
        ann, bob, eve = members
        honest = poisoned(plan, 0)
        in_parallel(
            lambda: sends(ann, honest),
            lambda: sends(bob, honest),
            lambda: sends(eve, poisoned(plan, number)),
        )
        in_parallel(*(one.measures for one in members))
        in_parallel(*(one.poll for one in members))
        assert server.ended() == "done"
    (record,) = history(server.folder)
    assert np.isfinite(Run(server.folder, plan).parameters).all()
    if not words:
        assert record["accepted"] == ["ann", "bob", "eve"]
        return
    assert record["accepted"] == ["ann", "bob"]
    (left,) = record["failed"]
    assert (left["client"], left["stage"]) == ("eve", "reply") and words in left["error"]
