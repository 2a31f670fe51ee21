# SPDX-License-Identifier: Apache-2.0
"""The recorded history of a federation: what must be true of it, whatever happened.

The model of each round is computed anew from the updates that were kept, without the code that
plays rounds; memories are those of a replay; nothing and nobody is counted twice.
"""

import functools
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from tests.chaos import actor, scene

import muster
from muster import keys
from muster.federation.protocol.codec_tensors import decode
from muster.federation.protocol.template import update_template
from muster.federation.site.store import SiteStore
from muster.rounds import RunState, play, start
from muster.runs.replay import Recorded, replay
from muster.security import audit
from muster.simulation import LocalExecutor, Simulation, choose
from muster.simulation.threads import one_thread
from muster.store import SQLiteStore
from muster.store.blobs import Files, update_name
from muster.store.ledger import FederationStore
from muster.store.memory import MemoryStore
from muster.types import Cohort
from muster.vectors import leaves, tree_map

MISSING = ("declined", "failed", "late")
REASONS = {"closed", "lease"}  # of those that are late


@functools.cache
def undisturbed(name):
    """The state, the history and the memories of the plan's simulation by the loop."""
    with tempfile.TemporaryDirectory() as folder:
        people, plan = actor.population(name), actor.PLANS[name]
        muster.simulate(plan, people, path=Path(folder) / "run", engine="loop", workers=1)
        store = SQLiteStore(Path(folder) / "run", readonly=True)
        try:
            _, history, latest = store.snapshot()
            memories = store.memory(people.clients)
        finally:
            store.close()
    return scene.bits(latest[1]), [scene.timeless(r) for r in history], _memories(memories)


def outcome(federation):
    """The same of a federation that has ended; the memories lie in the vaults of its sites."""
    store = _store(federation)
    try:
        _, history, latest = store.snapshot()
    finally:
        store.close()
    return (
        scene.bits(latest[1]),
        [scene.timeless(record) for record in history],
        kept(federation, history),
    )


def _store(federation):
    """Return a run's store; the updates that a PostgreSQL keeps are laid where files would be."""
    if federation.role.url is None:
        return SQLiteStore(federation.folder, readonly=True)
    ledger, files = (
        FederationStore(federation.folder, federation.role.url),
        Files(federation.folder / "blobs"),
    )
    for name in ledger.blobs.names("update-"):
        if ledger.blobs.size(name) is not None and files.size(name) is None:
            files.append(name, 0, bytes(ledger.blobs.whole(name)))
            files.finish(name)
    return ledger


def kept(federation, history):
    """Return all that counts in each vault, also of sites that have not heard of their fate."""
    plan, found = actor.PLANS[federation.role.plan], {}
    if plan.remembers:
        blank = plan.fresh_memory(*plan.task.init(keys.key(plan.seed).at("init")))
        for client in actor.members(federation.role.plan):
            site_store = SiteStore(federation.home / client / "vault")
            try:
                fate, pending = {r["round"]: r["accepted"] for r in history}, site_store.pending
                left = pending is not None and client in fate[pending.task.round]
                memory = site_store.memory(blank, left=left)
            finally:
                site_store.close()
            if memory is not None:
                found[client] = {k: np.array(v) for k, v in leaves(memory)}
    return _memories(found)


def _memories(found):
    return {client: scene.bits(arrays) for client, arrays in found.items()}


def same(federation):
    """Nothing shows that anything happened: state, history and memories of the simulation."""
    found, wanted = outcome(federation), undisturbed(federation.role.plan)
    for ours, theirs in zip(found[1], wanted[1], strict=True):
        named = (ours.keys() | theirs.keys()) - {"population"}  # which one machine has once
        names = [name for name in named if ours.get(name) != theirs.get(name)]
        differ = {name: (ours.get(name), theirs.get(name)) for name in names}
        assert not differ, f"{differ}\n{federation.report()}"
    assert found[0] == wanted[0]
    assert found[2] == wanted[2]
    return sound(federation, found)


def sound(federation, found=None):
    """The invariants; the history, for what a test wants to know beside them."""
    state, history, memories = found or outcome(federation)
    plan = actor.PLANS[federation.role.plan]
    people = actor.population(federation.role.plan)
    assert [record["round"] for record in history[:1]] == [0], "what training started from"
    history = history[1:]
    once(plan, people, history)
    if federation.role.url is None:
        assert replay(federation.folder, plan, people).identical, federation.report()
    assert scene.bits(recomputed(plan, people, federation.folder, history)) == state
    assert played(plan, people, history) == (state, memories)
    audited(federation, history)
    return history


def once(plan, people, history):
    """I2, I3, I6: rounds in order, clients among those invited, once, or gone for a reason."""
    assert [record["round"] for record in history] == list(range(1, len(history) + 1))
    for record in history:
        invited, accepted = record["invited"], record["accepted"]
        assert len(set(accepted)) == len(accepted)
        assert set(accepted) <= set(invited) <= set(people.clients)
        missing = [one["client"] for kind in MISSING for one in record.get(kind, ())]
        assert len(set(missing)) == len(missing)
        if record["abandoned"]:
            assert not accepted and len(invited) - len(missing) < plan.needed(len(invited))
        else:
            assert sorted(accepted + missing) == sorted(invited)
        for one in record.get("failed", ()):
            assert one["stage"] and one["error"], one


def recomputed(plan, people, folder, history):
    """I1: model_v = step(model_{v-1}, the updates accepted in round v), from the kept blobs."""
    blobs, template = Files(folder / "blobs"), update_template(plan)
    state, rows = start(plan), dict(zip(people.clients, people.sizes, strict=True))
    for record in history:
        enrolled = record["population"].get("clients", people.clients)
        sizes = np.array([rows[client] for client in enrolled])
        everybody = float(plan.weights(sizes, (1,)).sum())
        total, weight = None, 0.0
        for client in record["accepted"]:
            prefix = update_name(record["round"], client, "")
            (name,) = (n for n in blobs.names(prefix) if blobs.size(n) is not None)
            tree = tree_map(np.array, decode(blobs.whole(name), template))
            weight += float(plan.weights(np.array([rows[client]]), (1,))[0])
            total = tree if total is None else tree_map(np.add, total, tree)
        if total is not None:
            state = _stepped(plan, state, record["round"], (total, weight, everybody))
    return dict(leaves(state))


def _stepped(plan, state, round, given):
    """The server's step, in plain words, for stages that need nothing but the sum."""
    total, weight, everybody = given
    reply = muster.types.Reply((), total["payload"], weight, {}, total["buffers"])
    draw = keys.key(plan.seed).at("decode", round)
    reply, stages = plan.stages.decode(reply, state.stages, draw)
    mean = {k: v / v.dtype.type(weight) for k, v in dict(leaves(reply.payload)).items()}
    payload = plan.algorithm.payload(**mean)
    algorithm = plan.algorithm.step(state.algorithm, payload, weight / everybody)
    return RunState(algorithm, stages, state.sampler, total["buffers"] / weight)


def played(plan, people, history):
    """The state and the memories of a replay of who was invited and accepted."""
    cohorts = {r["round"]: Cohort(tuple(r["invited"]), None) for r in history}
    absent = {r["round"]: frozenset(r["invited"]) - frozenset(r["accepted"]) for r in history}
    again = replace(
        plan,
        sampling=Recorded(cohorts, dict.fromkeys(cohorts), plan.sampling),
        overselect=1.0,
        minimum=1,
    )
    choice, executor = choose(plan, people, 1, "loop"), LocalExecutor(plan, "loop", people)
    clients = Simulation(plan, people, store := MemoryStore(), choice, executor, absent)
    state = start(plan)
    with one_thread(plan.task):
        for record in history:
            clients.enrol(record["population"].get("clients", people.clients))
            state = play(again, state, clients, store, record["round"], lambda *_: {})
    return scene.bits(dict(leaves(state))), _memories(store.memory(people.clients))


def audited(federation, history):
    """Every log's chain holds; the server's names each round, with its accepted, in order."""
    paths = [federation.folder / "audit.jsonl"]
    paths += [
        federation.home / client / "audit.jsonl" for client in actor.members(federation.role.plan)
    ]
    for path in paths:
        if path.exists():
            audit.verify(path)
    told = [e["details"] for e in audit.entries(paths[0]) if e["action"] == "committed"]
    assert len({one["round"] for one in told}) == len(told)
    said = {record["round"]: len(record["accepted"]) for record in history}
    assert all(said[one["round"]] == one["accepted"] for one in told if one["round"])
