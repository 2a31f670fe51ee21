# SPDX-License-Identifier: Apache-2.0
"""Noise of real secrets over real processes that are killed: drawn once, charged once, and gone."""

from dataclasses import replace

import numpy as np
import pytest
from tests.chaos import confession, seams
from tests.chaos.actor import CLIENTS, DELTA, PLANS
from tests.chaos.federation import Federation
from tests.chaos.test_secure_kill import ALONE, LEASE, PAIRS, SERVER, SITE, Hidden

from muster.federation.coordinator.clients import LABELS as ROUND
from muster.federation.protocol.codec_tensors import decode
from muster.federation.protocol.template import update_template
from muster.federation.site.policy import Policy
from muster.federation.site.secagg import STOPS
from muster.federation.site.store import LABELS as VAULT
from muster.privacy import PrivacyLedger
from muster.security import audit
from muster.store.sqlite import LABELS as COMMIT

PASSED = "guard: the secret is gone"  # once when a life begins
LABELS = (*seams.GUARD, *ROUND, *COMMIT, "server: before the sites know")
KEPT = tuple(label for label in VAULT if "update kept" in label)
OPENED = tuple(label for label in SITE if label.endswith("session is opened"))
STEPS = tuple(  # as they come by
    label for step in STOPS for label in SITE if f" {step.value} is " in label
)
CLOSED = tuple(label for label in SITE if label not in OPENED + STEPS)
SETTLED = ("site: in settle", "site: after settle")
OWN = Policy(budget_epsilon=500.0, budget_delta=DELTA)


class Watched(Federation):
    """After each death of a server: what was shown is charged, and has its secret."""

    def died(self, one, **more):
        if one.process.exitcode == -9 and not one.role.clients:
            confession.look(self)
        super().died(one, **more)


class Masked(Watched, Hidden):
    """The same, of a sum that is masked, with a share of the noise from each site."""

    def __init__(self, sites, plan="shares", **role):
        super().__init__(sites, **role)
        self.role = replace(self.role, plan=plan, secret=True, policy=OWN)


def lives(labels):
    """A trap for each life: the first time that it comes by, but for what it begins with."""
    return [(label, 2 if label in seams.GUARD and "go" in label else 1) for label in labels]


@pytest.mark.parametrize(("plan", "labels"), [("noise", LABELS), ("banded", LABELS[::-1])])
def test_a_server_that_is_killed_at_every_label_draws_its_noise_once(plan, labels):
    with Watched(plan, secret=True) as federation:
        federation.traps["server"] = lives(labels)
        federation.gather(trap=federation.trap_of("server"))
        federation.finish()
        assert federation.deaths == len(labels), "a trap was not reached"
        records, said = confession.sound(federation)
    assert len(set(said.secrets.values())) == len(records) == PLANS[plan].rounds


def test_a_server_that_is_killed_at_the_end_still_erases_its_last_rows():
    with Watched("banded", secret=True) as federation:
        federation.traps["server"] = [(label, 1) for label in seams.SEAL]
        federation.gather(trap=federation.trap_of("server"))
        federation.finish()
        assert federation.deaths == len(seams.SEAL), "a trap was not reached"
        records, said = confession.sound(federation)
        with confession.reading(federation) as store:
            state, facts = store.latest()[1], store.facts()
    assert len(set(said.secrets.values())) == len(records) == PLANS["banded"].rounds
    assert facts["sealed"] is True
    assert not any(rows.any() for name, rows in state.items() if name.startswith("stages"))


@pytest.mark.parametrize("who", ["server", "sites"])
def test_shares_of_noise_are_drawn_once_whoever_is_killed_in_a_secure_sum(who):
    with Masked(PAIRS) as federation:
        if who == "server":
            labels = [label for label in SERVER if "closed" not in label]
            deaths = {"server": [(label, 1) for label in (*labels, "round: summed")]}
        else:
            labels = (*KEPT, *OPENED, *STEPS, *CLOSED, *SETTLED)
            last = (SETTLED[1], 2 * PLANS["shares"].rounds)  # nobody asks for that secret again
            deaths = {PAIRS[0]: [(label, 1) for label in labels], PAIRS[1]: [last]}
        count = sum(map(len, deaths.values()))
        federation.traps = deaths
        federation.told_to = {c: {"trap": federation.trap_of(c)} for c in deaths if c != "server"}
        federation.gather(trap=federation.trap_of("server"))
        federation.finish()
        assert federation.deaths == count, "a trap was not reached"
        records, said = confession.sound(federation)
        for client in CLIENTS:
            mine(federation, client, records)
    assert [len(record["accepted"]) for record in records] == [len(CLIENTS)] * len(records)
    assert len(set(said.own.values())) == len(CLIENTS) * len(records)
    noisy([*said.made.values()])


def noisy(updates):
    """Every update is longer than a clipped one can be: there is a share of the noise in it."""
    plan = PLANS["shares"]
    (release,) = plan.stages.releases()
    for body in updates:
        (levels,) = decode(body, update_template(plan))["payload"].values()
        assert np.linalg.norm(levels) > 2 * release.sensitivity


def mine(federation, client, records):
    """A site has charged each round once, and forgotten all secrets."""
    site_store, study = (
        federation.home / client / "vault",
        federation.home / client / "studies/default",
    )
    ledger = PrivacyLedger.from_json((study / "privacy.json").read_text())
    assert [entry.round for entry in ledger.entries] == [record["round"] for record in records]
    assert not [*site_store.glob("noise-*"), *site_store.glob("secure-*")]


@pytest.mark.parametrize(("plan", "counts"), [("shares", [4, 3]), ("all shares", [4, 0])])
def test_noise_of_fewer_than_it_was_made_for_is_never_opened(plan, counts):
    seat = ("site-3",)
    with Masked(ALONE, plan=plan, lease=LEASE) as federation:
        federation.told_to = {seat: {"trap": ("site: share is said", 2)}}
        federation.gather(enough=3, trap=("secure: seats are decided", 2))
        federation.until(server_died, again=False)
        federation.server()
        federation.round(2, again=False)
        federation.site(seat)
        federation.finish()
        records, said = confession.sound(federation)
        log = audit.entries(federation.folder / "audit.jsonl")
        opened = [e["details"]["survivors"] for e in log if e["action"] == "secure sum ended"]
    assert [len(record["accepted"]) for record in records[:2]] == counts
    assert [record["abandoned"] for record in records] == [False, not counts[1], False]
    assert opened == [len(record["accepted"]) for record in records]
    assert (said.shown[2, "train"] == said.shown[3, "train"]) == records[1]["abandoned"]


def server_died(one, said):
    """A server has ended."""
    return one.role.clients == () and said is None


def test_a_spent_budget_ends_the_run_until_it_is_larger():
    with Watched("two", secret=True) as federation:
        spends(federation, federation.begin, 2)


def spends(federation, begin, times=1):
    """Two rounds, and no third one under this budget, however often it is tried; then a larger."""
    for _ in range(times):
        begin()
        federation.finish()
        records, _ = confession.sound(federation)
        with confession.reading(federation) as store:
            facts = store.facts()
        assert (len(records), facts["spent"]) == (2, True)
        assert "past the budget of" in facts["stopped"]
        assert heard(federation) == dict.fromkeys(CLIENTS, facts["stopped"])
        federation.over = False
    federation.role = replace(federation.role, plan="three")
    begin()
    federation.finish()
    records, _ = confession.sound(federation)
    with confession.reading(federation) as store:
        assert (len(records), store.meta("spent"), store.meta("stopped")) == (3, False, None)


def heard(federation):
    """Return the last that each site heard of the end."""
    said = [say[1] for _, _, say in federation.log if say is not None and say[0] == "event"]
    return {event["site"]: event["text"] for event in said if event["event"] == "ended"}
