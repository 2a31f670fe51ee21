# SPDX-License-Identifier: Apache-2.0
"""Law 6 under a mask: a server and sites that are killed in every step of a secure sum."""

from datetime import UTC, datetime

import numpy as np
import pytest
from tests.chaos import actor, history
from tests.chaos.actor import CLIENTS, members
from tests.chaos.federation import Federation
from tests.chaos.test_network_kill import named

from muster.federation.coordinator.secagg import LABELS as SERVER
from muster.federation.protocol.codec_tensors import decode
from muster.federation.protocol.template import update_template
from muster.federation.site.secagg import LABELS as SITE
from muster.runs.replay import replay
from muster.secagg.ring import IntegerRing
from muster.security import audit, pki
from muster.store.ledger import FederationStore

PAIRS = (CLIENTS[:2], CLIENTS[2:])
THREES = (members("grouped")[:3], members("grouped")[3:])


def alone(plan="masked"):
    """A process for each client."""
    return tuple((client,) for client in members(plan))


ALONE = alone()
LEASE = 5.0  # two cores are slow at first
NOW = datetime.now(UTC)
PLAN = actor.PLANS["masked"]

# where a site may fall silent for good, and whether its vector is in the sum all the same
STAGES = (
    ("site: before advertise is kept", False),
    ("site: advertise is said", False),
    ("site: share is said", False),
    ("site: mask is kept", False),
    ("site: mask is said", True),
    ("site: before consent is kept", True),
    ("site: consent is said", True),
    ("site: before unmask is kept", True),
)


class Hidden(Federation):
    """A federation over TLS, of a plan whose sums are masked."""

    def __init__(self, sites=PAIRS, plan="masked", **role):
        super().__init__(plan, sites, identity=True, **role)
        authority = self.home / "authority"
        pki.init(authority, "chaos", NOW)
        for name in ("hub", *members(plan)):
            request, _ = pki.ask(self.home / name, name)
            grant = pki.Grant("https://127.0.0.1:8443", "server" if name == "hub" else "site")
            bundle = pki.approve(authority, request, grant, NOW).bundle
            pki.accept(bundle, self.home / name, NOW)


def same(federation):
    """State and history are those of the simulation; no secret is left anywhere."""
    return sound(federation, alike(federation))


def alike(federation):
    """State and history are those of the simulation."""
    found, wanted = history.outcome(federation), history.undisturbed(federation.role.plan)
    for ours, theirs in zip(found[1], wanted[1], strict=True):
        fields = (ours | theirs).keys() - {"population"}  # which one machine has once
        differ = {k: (ours.get(k), theirs.get(k)) for k in fields if ours.get(k) != theirs.get(k)}
        assert not differ, f"{differ}\n{federation.report()}"
    assert found[0] == wanted[0]
    return found


def sound(federation, found=None, dead=()):
    """The model is that of a replay of who was accepted; all secrets are gone but of the dead."""
    _, records, _ = found or history.outcome(federation)
    records = [record for record in records if record["round"]]
    plan = actor.PLANS[federation.role.plan]
    people = actor.population(federation.role.plan)
    history.once(plan, people, records)
    replayed = replay(federation.folder, plan, people)
    assert replayed.identical, replayed
    history.audited(federation, records)
    forgotten(federation, records, dead)
    return records


def forgotten(federation, records, dead=()):
    """No site has a secret of a session, and the server nothing of what was said."""
    for client in set(members(federation.role.plan)) - set(dead):
        assert not list((federation.home / client / "vault").glob("secure-*-key"))
    assert not list((federation.folder / "blobs").glob("masked-*"))
    ledger = FederationStore(federation.folder, federation.role.url)
    try:
        assert not any(ledger.said(record["round"]) for record in records)
    finally:
        ledger.close()


def counted(label):
    """The time that a label is passed in the second round, by one of two sites of a process."""
    return 30 if "message is" in label or "a message" in label else 2


def ids(label):
    return label.replace(": ", "-").replace(" ", "-")


@pytest.mark.parametrize("label", SERVER, ids=ids)
def test_the_server_is_killed_in_a_secure_sum(label):
    with Hidden() as federation:
        federation.begin({"trap": (label, counted(label))} if "closed" not in label else None)
        federation.finish()
        assert federation.deaths == ("closed" not in label), "the trap was not reached"
        same(federation)


BETWEEN = ("compare begins", "consent begins", "before a message is recorded", "opened")


@pytest.mark.parametrize("label", [f"secure: {label}" for label in BETWEEN], ids=ids)
def test_the_server_is_killed_between_the_sums_of_groups(label):
    with Hidden(THREES, "grouped") as federation:
        federation.begin({"trap": (label, 3 if "begins" in label else counted(label))})
        federation.finish()
        assert federation.deaths == 1, "the trap was not reached"
        same(federation)


def test_a_group_with_a_site_that_is_silent_for_good_is_given_up():
    """The other group's sum counts, and nothing of this one is opened."""
    with Hidden(alone("grouped"), "grouped", lease=LEASE) as federation:
        federation.told_to = {("site-3",): {"trap": ("site: share is said", 2)}}
        federation.gather(enough=6)
        federation.round(2, again=False)
        federation.site(("site-3",))
        federation.finish()
        records = sound(federation)
        (note,) = records[1]["secure"]
        assert records[1]["accepted"] == note["clients"] and "site-3" not in note["clients"]
        assert [len(record["secure"]) for record in records] == [2, 1, 2]


@pytest.mark.parametrize("label", SITE, ids=ids)
def test_a_site_is_killed_in_a_secure_sum(label):
    with Hidden() as federation:
        federation.server()
        federation.site(PAIRS[0], trap=(label, 3))
        federation.site(PAIRS[1])
        federation.finish()
        assert federation.deaths == 1, "the trap was not reached"
        same(federation)


@pytest.mark.parametrize(
    ("label", "counts"), STAGES, ids=named([(s, 1, "masked", {}) for s, _ in STAGES])
)
def test_a_site_falls_silent_for_good(label, counts):
    with Hidden(ALONE, lease=LEASE) as federation:
        federation.told_to = {("site-3",): {"trap": (label, 2)}}
        federation.gather(enough=3)
        federation.finish(again=False)
        records = sound(federation, dead=["site-3"])
        assert ["site-3" in record["accepted"] for record in records][:2] == [True, counts]
        assert all(len(record["accepted"]) >= 3 for record in records)
        late = [one["client"] for one in records[1].get("late", ())]
        assert late == ([] if counts else ["site-3"])


@pytest.mark.parametrize("label", ["secure: before a step is closed", "secure: a step is closed"])
def test_the_server_is_killed_as_it_gives_a_site_up(label):
    with Hidden(ALONE, lease=LEASE) as federation:
        federation.told_to = {("site-3",): {"trap": ("site: share is said", 2)}}
        federation.gather(enough=3, trap=(label, 1))
        federation.until(lambda one, said: one.role.clients == () and said is None, again=False)
        federation.server(enough=3)
        federation.finish(again=False)
        records = sound(federation, dead=["site-3"])
        without = [record for record in records if "site-3" not in record["accepted"]]
        assert without and all(len(record["accepted"]) == 3 for record in without)


def test_too_few_are_left_and_the_round_is_abandoned():
    with Hidden(ALONE, lease=LEASE) as federation:
        federation.told_to = {c: {"trap": ("site: share is said", 2)} for c in ALONE[2:]}
        federation.gather()
        federation.round(2, again=False)
        for clients in ALONE[2:]:
            federation.site(clients)
        federation.finish()
        records = sound(federation)
        assert [record["abandoned"] for record in records] == [False, True, False]
        ended = [
            e
            for e in audit.entries(federation.folder / "audit.jsonl")
            if e["action"] == "secure sum ended"
        ]
    reasons = [entry["details"]["reason"] for entry in ended]
    assert reasons == [
        "done",
        "fewer clients than the minimum, or more than the terms allow",
        "done",
    ]
    assert all("secure sum was given up" in one["reason"] for one in records[1]["late"][:1])


def test_nothing_of_a_vector_is_in_the_clear_at_the_server():
    with Hidden() as federation:
        federation.begin({"gates": ("secure: unmask begins",)})
        server = federation.at("secure: unmask begins")
        found = b"".join(p.read_bytes() for p in federation.folder.rglob("*") if p.is_file())
        for client in CLIENTS:
            plain = forms(federation.home / client / "vault")
            assert len(plain) == 7 and not any(form in found for form in plain)
        server.tell()
        federation.finish()
        same(federation)


def forms(site_store):
    """A site's vector as it might be stored, were it not masked: eight numbers are enough."""
    (path,) = site_store.glob("update-*")
    tree = decode(path.read_bytes(), update_template(PLAN))
    levels = np.array(tree["payload"]["delta"])
    assert np.count_nonzero(levels[:8]) >= 6
    vector = PLAN.frame.flatten({"delta": levels}, 5)
    words = [a[:8].astype(d).tobytes() for a in (levels, vector) for d in ("<i8", "<i4", "<i2")]
    return [*words, IntegerRing.of(4, PLAN.frame.most).pack(vector.astype("<u4"))[:32]]
