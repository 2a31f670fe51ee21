# SPDX-License-Identifier: Apache-2.0
"""Law 6 over a network: servers and sites that are killed at any instant, and come back."""

import random

import pytest
from tests.chaos import actor, history, seams
from tests.chaos.federation import Federation
from tests.chaos.test_kill import KILLS, PARTS

from muster.federation.coordinator.clients import LABELS as ROUND
from muster.federation.site.store import LABELS as VAULT
from muster.store.sqlite import LABELS as COMMIT

LAST = actor.ROUNDS
ONCE = (
    "server: before its facts",
    "server: before the end is told",
    "site: before hello",
    "site: heard the end",
)
CHECKPOINTS = {"every": 0.0}  # a checkpoint after every few steps

# label, the how-manieth time, plan, what that process is told
SERVER = [
    *((label, count, "scaffold", {}) for label in ROUND[:4] for count in (1, LAST)),
    *((label, 2, "private", {}) for label in ROUND),
    *((label, count, "scaffold", {}) for label in COMMIT for count in (1, LAST)),
    *((label, 3, "quantize", {}) for label in COMMIT[1:4]),
    *((label, 1 if label in ONCE else 4, "scaffold", {}) for label in seams.SERVER),
]
SITE = [
    *((label, 6, "scaffold", CHECKPOINTS) for label in VAULT),
    *((label, 1, "private", CHECKPOINTS) for label in VAULT),
    *(
        (label, 1 if label in ONCE else 5, "quantize", {})
        for label in seams.SITE
        if label != "site: half a memory"
    ),
    ("site: half a memory", 5, "scaffold", {}),
]
PIECES = {"faults": {"small pieces": 200}}  # several requests for one update


def named(deaths):
    """Return their names for pytest."""
    return [
        f"{label.replace(': ', '-').replace(' ', '-')}-{n}-{plan}" for label, n, plan, _ in deaths
    ]


@pytest.mark.parametrize(("label", "count", "plan", "told"), SERVER, ids=named(SERVER))
def test_the_server_is_killed_at_a_label(label, count, plan, told):
    with Federation(plan) as federation:
        federation.begin({"trap": (label, count), **told}, PIECES).finish()
        assert federation.deaths == 1, "the trap was not reached"
        history.same(federation)


@pytest.mark.parametrize(("label", "count", "plan", "told"), SITE, ids=named(SITE))
def test_a_site_is_killed_at_a_label(label, count, plan, told):
    with Federation(plan) as federation:
        federation.begin(None, {"trap": (label, count), **PIECES, **told}).finish()
        assert federation.deaths == 1, "the trap was not reached"
        history.same(federation)


def draw(part):
    """How the federation of a part looks, and its kills: how many events on, how long after."""
    dice = random.Random(part)
    plan = dice.choice(("scaffold", "quantize", "private"))
    sites = (actor.CLIENTS,) if dice.random() < 0.5 else (actor.CLIENTS[:2], actor.CLIENTS[2:])
    kills = len(range(part, KILLS, PARTS))
    return plan, sites, [(dice.randrange(40), dice.random() * 0.02, dice) for _ in range(kills)]


@pytest.mark.parametrize("part", range(PARTS))
def test_killed_at_random(part):
    plan, sites, kills = draw(part)
    while kills:
        with Federation(plan, sites) as federation:
            federation.begin(None, PIECES)
            while kills and not federation.over:
                disturb(federation, *kills.pop())
            federation.finish()
            history.same(federation)


def disturb(federation, events, later, dice):
    """Kill the server or a site process some events from now, and a little after that."""
    while events and not federation.over:
        one, _ = federation.step()
        assert one is not None, federation.report()
        events -= 1
    federation.step(seconds=later)
    if not federation.over:
        dice.choice(federation.actors).kill()
