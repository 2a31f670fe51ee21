# SPDX-License-Identifier: Apache-2.0
"""A masked round over the network ends with the simulation's bits, or is given up in the open."""

import json
import os
from dataclasses import replace
from hashlib import sha256

import numpy as np
import pytest

pytest.importorskip("sqlalchemy")

from tests.federation.coordinator.masked import (
    NAMES,
    Federation,
    certificate,
    identities,
    plan_of,
    simulated,
)

import muster
from muster import aggregation, pipeline
from muster.federation.coordinator.service import FederationService
from muster.federation.protocol.message import TrainAssignment
from muster.federation.site import transfers as site
from muster.federation.site.transfers import PIECE
from muster.rounds import play, start
from muster.runs.replay import replay
from muster.secagg import SessionReason
from muster.secagg.messages import Quit, read
from muster.security import pki
from muster.security.pki.credentials import read_credentials
from muster.simulation import Choice, LocalExecutor, Simulation
from muster.simulation.secagg import SimulatedSecAgg
from muster.store import MemoryStore
from muster.store.blobs import model_name

SIX = tuple(f"site-{i}" for i in range(6))
TWO = pipeline.SecureSum(groups=2, corrupt=0.1, dropout=0.0)


def masked(federation, kind=None):
    """The messages of secure sums that sites have said, of one kind."""
    found = [
        (name, read(body))
        for name, method, path, body in federation.captured
        if method == "POST" and path.startswith("/v1/secure/")
    ]
    return [(name, said) for name, said in found if kind is None or isinstance(said, kind)]


def same(federation, records, folder):
    run = simulated(federation.plan, federation.people, folder)
    assert list(map(timeless, records)) == list(map(timeless, run.trained))
    assert federation.state() == run.parameters.tobytes()


def timeless(record):
    """A record without the clock, and without what one machine has once for all rounds."""
    return {k: v for k, v in record.items() if k not in ("seconds", "population")}


@pytest.mark.parametrize(
    "plan",
    [
        plan_of(),
        plan_of(weighting="equal", cap=None),
        plan_of(secure=pipeline.SecureSum(metrics="public"), evaluate=muster.Every(1)),
        plan_of(secure=pipeline.SecureSum(corrupt=0.1, minimum=4)),
        plan_of(secure=TWO),
        plan_of(secure=TWO, aggregation=aggregation.Median()),
        plan_of(secure=replace(TWO, metrics="public")),
    ],
    ids=["examples", "equal", "public", "few corrupt", "groups", "rule", "groups, public"],
)
def test_bits_are_those_of_the_simulation(tmp_path, plan):
    names = NAMES if plan.secure.groups == 1 else SIX
    federation = Federation(tmp_path / "net", plan, names=names)
    records = federation.play()
    same(federation, records, tmp_path / "sim")
    ended = [d for _, action, d in federation.entries() if action == "secure sum ended"]
    counts = [5] * 2 if plan.secure.groups == 1 else [3, 3] * 2
    found = [(d["reason"], d["survivors"], d["refused"], d["liars"]) for d in ended]
    assert found == [("done", count, "", []) for count in counts]


def in_shares():
    """A plan whose noise is made for five of six, of whom two of all six may know their shares."""
    noise = pipeline.DiscreteNoise(2.0, clients=6, dropout=1 / 6)
    plan = plan_of(
        weighting="equal",
        cap=None,
        minimum=5,
        aggregation=aggregation.Mean("expected"),
        secure=pipeline.SecureSum(dropout=0.0),
    )
    return replace(plan, pipeline=(*plan.pipeline[:2], noise, plan.secure))


def test_noise_in_shares_has_the_bits_of_the_simulation(tmp_path):
    federation = Federation(tmp_path / "net", in_shares(), names=SIX)
    records = federation.play()
    assert [len(record["accepted"]) for record in records] == [6, 6]
    same(federation, records, tmp_path / "sim")


def test_a_sum_with_fewer_honest_shares_than_are_charged_for_is_opened_nowhere(tmp_path):
    """Five of six are as many as the noise is made for; three of them may be honest, not four."""
    plan = replace(in_shares(), rounds=1)
    federation = Federation(tmp_path / "net", plan, lease=1.0, names=SIX)
    federation.away = {SIX[2]}
    (record,) = federation.play()
    assert record["abandoned"] and record["accepted"] == []
    masks = SimulatedSecAgg(lost={1: {SIX[2]: "advertise"}})
    state, (same_round,) = played(plan, federation.people, masks)
    assert same_round["abandoned"]
    assert federation.state() == np.asarray(state.sent().algorithm.x).tobytes()


def played(plan, population, masks):
    """The state and records of the simulation, in which some fall silent."""
    store, state = MemoryStore(), start(plan)
    executor = LocalExecutor(plan, "loop", population)
    made = Simulation(plan, population, store, Choice("loop", 2, True, ""), executor, masks=masks)
    for round in range(1, plan.rounds + 1):
        state = play(plan, state, made, store, round, lambda *_: {})
    return state, store.history()


def drawn(plan, names=SIX):
    """The groups of the first round, as the plan's seed draws them."""
    return plan.groups(names, muster.keys.key(plan.seed).at("groups", 1))


def test_groups_are_drawn_afresh_and_read_from_the_record(tmp_path):
    """Two federations of one plan divide the same people in two ways; each replays."""
    found = []
    for place in ("one", "other"):
        plan = plan_of(secure=TWO, aggregation=aggregation.Median(), rounds=3)
        federation = Federation(tmp_path / place, plan, names=SIX)
        federation.entropy = os.urandom
        records = federation.play()
        found.append([[note["clients"] for note in r["secure"]] for r in records])
        assert all(
            sorted(c for group in groups for c in group) == list(SIX) for groups in found[-1]
        )
        assert replay(tmp_path / place / "run", plan, federation.people).identical
    assert found[0] != found[1]


def test_a_group_that_loses_too_many_is_given_up_and_the_other_counts(tmp_path):
    plan = plan_of(secure=TWO, rounds=1)
    federation = Federation(tmp_path / "net", plan, names=SIX)
    first, second = drawn(plan)
    federation.away = set(second[:1])
    (record,) = federation.play()
    assert record["accepted"] == list(first)
    assert {one["client"] for one in record["late"]} == set(second)
    ended = [d for _, action, d in federation.entries() if action == "secure sum ended"]
    assert [(d["group"], d["survivors"]) for d in ended] == [(0, 3), (1, 0)]
    assert replay(tmp_path / "net" / "run", plan, federation.people).identical


def test_members_know_those_of_their_own_group_alone(tmp_path):
    plan = plan_of(secure=TWO, rounds=1)
    federation = Federation(tmp_path / "net", plan, names=SIX)
    shown = {}

    def between(name, method, path, body):
        if path == "/v1/members":
            shown[name] = tuple(sorted(read_credentials(body).certificates))
        return body

    federation.between = between
    federation.play()
    groups = drawn(plan)
    assert shown == {name: group for group in groups for name in group}


@pytest.mark.parametrize("piece", [50_000, PIECE])
def test_a_vector_longer_than_a_message_goes_by_the_disk(tmp_path, monkeypatch, piece):
    monkeypatch.setattr(site, "PIECE", piece)
    plan = plan_of(layers=(4, 9000, 3), rounds=1)
    federation = Federation(tmp_path / "net", plan)
    records = federation.play()
    same(federation, records, tmp_path / "sim")
    longest = max(len(body) for *_, body in federation.captured)
    assert longest == piece if piece < PIECE else longest > 1 << 16
    assert not federation_blobs(federation, "masked-")


def federation_blobs(federation, prefix):
    folder = federation.home / "run" / "blobs"
    return [path.name for path in folder.glob(f"{prefix}*")]


def test_neither_rows_nor_metrics_nor_weights_are_told(tmp_path):
    federation = Federation(tmp_path)
    federation.play()
    told = [
        body
        for _, method, path, body in federation.captured
        if path != "/v1/poll" and body and not path.startswith("/v1/secure/")
    ]
    assert {json.loads(body)["kind"] for body in told} <= {"hello", "progress"}
    assert {json.loads(b)["rows"] for b in told if b'"hello"' in b} == {1}
    assert {member.rows for member in federation.round_state.members.values()} == {1}


def test_keys_that_another_key_signed_are_refused(tmp_path):
    federation = Federation(tmp_path / "net", plan_of(rounds=1))
    federation.hurried = {"site-2"}
    strange = pki.Notary(identities(tmp_path / "other") / "site-2")
    federation.notaries["site-2"].sign = strange.sign
    (record,) = federation.play()
    assert record["accepted"] == ["site-0", "site-1", "site-3", "site-4"]
    refused = [
        (who, d["reason"])
        for who, action, d in federation.entries()
        if action == "secure message refused"
    ]
    assert refused == [("site-2", "a signature that does not verify")]
    assert replay(tmp_path / "net" / "run", federation.plan, federation.people).identical


def test_a_certificate_of_another_authority_is_seen_by_the_sites(tmp_path):
    federation = Federation(tmp_path / "net", plan_of(rounds=1))
    strange = certificate(identities(tmp_path / "other"), "site-1")

    def between(name, method, path, body):
        if path != "/v1/members" or name != "site-0":
            return body
        came = read_credentials(body)
        return replace(came, certificates=came.certificates | {"site-1": strange}).to_json()

    federation.between = between
    (record,) = federation.play()
    ((name, said),) = masked(federation, Quit)
    assert (name, said.reason) == ("site-0", "PEERS")
    assert "failed" not in record
    assert [one["client"] for one in record["declined"]] == ["site-0"]
    assert record["accepted"] == ["site-1", "site-2", "site-3", "site-4"]
    left = [
        (who, d["reason"])
        for who, action, d in federation.entries()
        if action == "left a secure sum"
    ]
    assert left == [("site-0", SessionReason.PEERS.value)]
    ended = [
        d["reason"] for _, action, d in federation.entries("site-0") if action == "secure sum ended"
    ]
    assert ended == [SessionReason.PEERS.value]


class TwoFaced(FederationService):
    """Another model for one site."""

    async def poll(self, name, poll):
        said = await super().poll(name, poll)
        if name == "site-3" and isinstance(said, TrainAssignment):
            return replace(said, model=self.other(said.model))
        return said

    def other(self, model):
        blobs = self._ledger.models
        body = bytearray(blobs.whole(model_name(model)))
        body[-4] ^= 1  # the last bit of the last number
        name = sha256(body).hexdigest()
        if blobs.size(model_name(name)) is None:
            blobs.append(model_name(name), 0, bytes(body))
            blobs.finish(model_name(name))
        return name


def test_a_site_that_was_shown_another_model_is_in_no_sum(tmp_path):
    federation = Federation(tmp_path, plan_of(rounds=1))
    federation.desk_of, federation.hurried = TwoFaced, {"site-3"}
    (record,) = federation.play()
    assert record["accepted"] == ["site-0", "site-1", "site-2", "site-4"]
    assert [one["client"] for one in record["late"]] == ["site-3"]
    refused = [
        (who, d["reason"])
        for who, action, d in federation.entries()
        if action == "secure message refused"
    ]
    assert refused == [("site-3", "other terms: plan, model, round, size or parameters differ")]
    assert replay(tmp_path / "run", federation.plan, federation.people).identical


def test_a_failure_in_training_is_waited_for_by_nobody(tmp_path):
    federation = Federation(tmp_path, plan_of(rounds=1))
    x, y = federation.people["site-4"]
    rows = {name: federation.people[name] for name in NAMES} | {"site-4": (x * np.nan, y)}
    federation.people = rows
    (record,) = federation.play()
    assert record["accepted"] == ["site-0", "site-1", "site-2", "site-3"]
    assert record["failed"][0]["client"] == "site-4"


def test_a_deadline_goes_on_without_whoever_is_not_ready(tmp_path):
    """It passes once all others have spoken, and not before: the clock is the test's."""
    now, spoken = [0.0], set()
    federation = Federation(tmp_path, plan_of(rounds=1, deadline=1.0), clock=lambda: now[0])
    federation.away = {"site-1"}
    federation.over = lambda name: None  # its lease is none of the deadline's business

    def between(name, method, path, body):
        if method == "POST" and path.startswith("/v1/secure/"):
            spoken.add(name)
            if len(spoken) == 4:
                now[0] = 1.5
                federation.round_state.news.ring()
        return body

    federation.between = between
    (record,) = federation.play()
    assert now == [1.5]
    assert record["accepted"] == ["site-0", "site-2", "site-3", "site-4"]


def test_too_few_by_the_terms_is_no_session(tmp_path):
    secure = pipeline.SecureSum(minimum=3)
    plan = plan_of(rounds=1, secure=secure, sampling=muster.sampling.Poisson(0.4))
    federation = Federation(tmp_path, plan)
    (record,) = federation.play()  # the seed's first coins fall for two of five
    assert record["abandoned"] and len(record["late"]) == 2
    assert all("at least 3 are required" in one["reason"] for one in record["late"])
    assert {type(said) for _, said in masked(federation)} <= {Quit}
