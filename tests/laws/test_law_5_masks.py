# SPDX-License-Identifier: Apache-2.0
"""Law 5 rests on this: quantized updates are integers, so that their sum is exact.

Masks come with secure aggregation, which is not part of this version; a masked sum can only be
the plain sum, for every pattern of dropouts, because no order or grouping changes an integer.
"""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.aggregation.sums import add
from muster.keys import Keys, key
from muster.pipeline import Clip, Quantize
from muster.pipeline.stage import Contract, Field, Pipeline
from muster.types import Reply

CLIENTS, SIZE = 9, 11
STAGES = Pipeline.build((Clip(1.0), Quantize(12)), Contract((Field("delta", SIZE),), cap=4.0))


def encoded(seed):
    draw = np.random.default_rng(seed)
    rows = {"delta": draw.normal(size=(CLIENTS, SIZE)).astype(np.float32)}
    weights = draw.uniform(0, 4, CLIENTS)
    keys = Keys(key(seed), tuple(range(CLIENTS)))
    payload, _ = STAGES.encode(rows, (None, None), None, keys, weights)
    return [
        Reply((i,), {"delta": payload["delta"][i]}, 1.0, {}, np.zeros(0)) for i in range(CLIENTS)
    ]


def tree(replies, draw):
    """The sum over regions of regions, cut anywhere."""
    while len(replies) > 1:
        cut = int(draw.integers(1, len(replies) + 1))
        replies = [add(replies[:cut]), *replies[cut:]]
        draw.shuffle(replies)
    return replies[0]


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 1000), survivors=st.sets(st.integers(0, CLIENTS - 1), min_size=1))
def test_no_order_or_grouping_changes_the_sum_of_the_survivors(seed, survivors):
    replies = [encoded(seed)[i] for i in sorted(survivors)]
    plain = add(replies)
    grouped = tree(list(replies), np.random.default_rng(seed + 1))
    assert plain.payload["delta"].dtype.kind == "i"
    assert plain.payload["delta"].tobytes() == grouped.payload["delta"].tobytes()
    ends = [STAGES.decode(r, STAGES.init(), key(0))[0].payload["delta"] for r in (plain, grouped)]
    assert ends[0].tobytes() == ends[1].tobytes()


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000))
def test_a_mask_that_cancels_leaves_no_trace(seed):
    replies = encoded(seed)
    draw = np.random.default_rng(seed + 2)
    masks = draw.integers(-(2**62), 2**62, (CLIENTS, SIZE))
    masks[-1] = -masks[:-1].sum(0)  # wraps around, as every sum here does
    hidden = [
        Reply(r.clients, {"delta": r.payload["delta"] + mask}, 1.0, {}, np.zeros(0))
        for r, mask in zip(replies, masks, strict=True)
    ]
    assert add(hidden).payload["delta"].tobytes() == add(replies).payload["delta"].tobytes()
