# SPDX-License-Identifier: Apache-2.0
"""Sums have a fixed shape: partial sums may be taken anywhere without changing a bit."""

import math
from itertools import groupby

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.aggregation.sums import add, block_size, fold_blocks, summed
from muster.types import Reply


def reply(client, seed=0):
    rng = np.random.default_rng([seed, client])
    delta = rng.lognormal(0, 8, 3).astype(np.float32) * rng.choice([-1, 1], 3)
    weight = float(rng.lognormal(0, 3))
    return Reply(
        (client,),
        {"delta": delta.astype(np.float32)},
        weight,
        {"rows": 1.0, "loss": weight / 3},
        np.float32([weight]),
    )


def bits(reply):
    return (
        reply.clients,
        reply.payload["delta"].tobytes(),
        reply.weight,
        tuple(reply.metrics.items()),
        reply.buffers.tobytes(),
    )


@given(st.integers(1, 5000))
def test_there_are_at_most_32_blocks_and_no_smaller_ones(invited):
    size = block_size(invited)
    assert math.ceil(invited / size) <= 32
    assert size == 1 or math.ceil(invited / (size - 1)) > 32


def test_small_cohorts_have_blocks_of_one():
    assert [block_size(n) for n in (0, 1, 32, 33, 64, 65)] == [1, 1, 1, 2, 2, 3]


def test_adding_adds_every_part():
    a = Reply((1,), {"delta": np.array([1.0]), "norm": np.array([2.0])}, 3.0, {"loss": 4.0})
    b = Reply((2, 5), {"delta": np.array([10.0]), "norm": np.array([20.0])}, 30.0, {"loss": 40.0})
    total = add((a, b))
    assert total.clients == (1, 2, 5)
    assert {k: v.tolist() for k, v in total.payload.items()} == {"delta": [11], "norm": [22]}
    assert (total.weight, total.metrics, total.buffers) == (33.0, {"loss": 44.0}, None)
    assert a.payload["delta"].tolist() == [1.0]


def test_adding_goes_from_first_to_last():
    replies = [reply(i) for i in range(50)]
    total = replies[0].payload["delta"]
    for other in replies[1:]:
        total = total + other.payload["delta"]
    assert add(replies).payload["delta"].tobytes() == total.tobytes()
    assert bits(add(replies))[1] != bits(add(replies[::-1]))[1]


def test_one_reply_is_its_own_sum():
    assert add([reply(4)]) is not None
    assert bits(add([reply(4)])) == bits(reply(4))
    with pytest.raises(TypeError):
        add([])


def flat(replies, size):
    """The definition: clients in order within a block, blocks in order."""
    blocks = [add(list(part)) for _, part in groupby(replies, lambda r: r.clients[0] // size)]
    return add(blocks)


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 130), st.data())
def test_any_partition_gives_the_bits_of_the_flat_order(invited, data):
    size = block_size(invited)
    present = sorted(data.draw(st.sets(st.integers(0, invited - 1), min_size=1)))
    replies = [reply(client, invited) for client in present]

    def block(r):
        return r.clients[0] // size

    blocks = list(fold_blocks(replies, block))
    numbered = sorted({client // size for client in present})
    cuts = data.draw(st.integers(0, len(blocks)))  # the first so many blocks arrive as one run
    split = data.draw(st.integers(1, 4))
    pieces = [add(blocks[:cuts])] if cuts else []
    for i in range(cuts, len(blocks), split):  # the rest block by block, or client by client
        members = [r for r in replies if block(r) in numbered[i : i + split]]
        pieces += members if data.draw(st.booleans()) else list(fold_blocks(members, block))
    assert bits(add(list(fold_blocks(pieces, block)))) == bits(flat(replies, size))


def test_the_shape_matters():
    """The test above has power: folding in blocks is not the same as folding flat."""
    replies = [reply(client) for client in range(100)]
    assert bits(flat(replies, 4))[1] != bits(add(replies))[1]


@pytest.mark.parametrize("count", [1, 2, 9])
def test_replies_alone_in_their_blocks_need_no_copy_and_no_look_ahead(count):
    given = []

    def coming():
        for i in range(count):
            if given:  # what came before was added, and may go
                given[-1].payload["delta"][...] = np.nan
            given.append(reply(i))
            yield given[-1]

    wanted = add([reply(i) for i in range(count)])
    found = summed(coming(), lambda one: one.clients[0], alone=True)
    assert bits(found) == bits(wanted)
    assert bits(found) == bits(summed(map(reply, range(count)), lambda one: one.clients[0]))
