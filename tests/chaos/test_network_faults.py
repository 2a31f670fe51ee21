# SPDX-License-Identifier: Apache-2.0
"""Messages that come twice, late, in another order, in half, damaged or never; slow links."""

import os
from collections import Counter

import pytest
from tests.chaos import history
from tests.chaos.federation import Federation
from tests.chaos.proxy import FAULTS, Proxy, drawn

SEEDS = max(4, int(os.environ.get("MUSTER_KILLS", "20")) // 5)
PIECES = {"faults": {"small pieces": 200}}


@pytest.mark.parametrize("seed", range(SEEDS))
def test_messages_twice_late_in_another_order_in_half_or_never(seed):
    plan = ("scaffold", "quantize", "private")[seed % 3]
    with Federation(plan) as federation, Proxy(federation.port, drawn(seed)) as proxy:
        federation.through = proxy.port
        federation.begin(None, PIECES).finish()
        assert sum(one.fault is not None for one in proxy.seen) > 10
        history.same(federation)


@pytest.mark.parametrize("fault", FAULTS)
def test_every_kind_of_message_is_hurt(fault):
    done = Counter()

    def schedule(seen):
        """The first, the fourth and the ninth request of every kind that the fault can hurt."""
        upload, model = seen.what.startswith("PUT"), seen.what.startswith("GET")
        if (fault == "spoil request" and not upload) or (fault == "spoil answer" and not model):
            return None
        kind = seen.what.split("?")[0][:9], seen.body[:16] * (not upload)
        done[kind] += 1
        return fault if done[kind] in (1, 4, 9) else None

    with Federation("scaffold") as federation, Proxy(federation.port, schedule) as proxy:
        federation.through = proxy.port
        federation.begin(None, PIECES).finish()
        assert sum(one.fault == fault for one in proxy.seen) >= 3
        history.same(federation)


def test_messages_are_hurt_while_the_server_is_killed():
    with Federation("scaffold") as federation, Proxy(federation.port, drawn(99)) as proxy:
        federation.through = proxy.port
        federation.begin({"trap": ("round: closed", 2)}, PIECES)
        federation.finish()
        assert federation.deaths == 1
        history.same(federation)
