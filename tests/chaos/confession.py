# SPDX-License-Identifier: Apache-2.0
"""Confessions of processes with real secrets, and what must be true of a run that had them.

The secrets come from the operating system, so a life that drew another one would release another
noise. Each process tells its launcher what it drew and what it showed; so the rounds can be played
again here, bit for bit, by code that knows neither servers nor sites, nor masks.
"""

import contextlib
import sqlite3
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from tests.chaos import actor, history, scene

import muster
from muster.federation.coordinator.commands import BeginWork
from muster.federation.coordinator.round_state import RoundState
from muster.federation.protocol.codec_tensors import digest, encode
from muster.federation.site.secrets import SiteSecrets
from muster.federation.site.store import SiteStore
from muster.local import Group, train
from muster.privacy import PrivacyLedger, Secret
from muster.privacy.noise_source import noise_source
from muster.rounds import RunState, start
from muster.runs.privacy.guard import RunAccountant
from muster.types import Roster
from muster.vectors import divided, leaves, tree_map


def lay(say):
    """Have `say` called with what this process draws, shows and makes."""
    keep, opening, seed, made = (
        RunAccountant._keep_secret,
        RoundState.do,
        SiteSecrets._seed,
        SiteStore.keep,
    )

    def kept(self, round, known):
        keep(self, round, known)
        say("secret", round, self._secret.seed)

    def opened(self, command):
        found = opening(self, command)
        if isinstance(command, BeginWork):
            one = command.work
            say("shown", one.round, one.kind, one.model)
        return found

    def seeded(self, task):
        found = seed(self, task)
        say("own", self._vault.folder.parent.name, task.round, found)
        return found

    def trained(self, task, update):
        say("made", self._state["client"], task.round, b"".join(map(bytes, encode(update.update))))
        return made(self, task, update)

    RunAccountant._keep_secret, RoundState.do, SiteSecrets._seed, SiteStore.keep = (
        kept,
        opened,
        seeded,
        trained,
    )


@dataclass(frozen=True)
class Confessed:
    """By round (and kind, or client): the one secret, model or update of all lives."""

    secrets: dict
    shown: dict
    own: dict
    made: dict


def confessed(federation):
    """Return the words of all lives; two of them never said two things of the same."""
    found = defaultdict(set)
    for _, _, said in federation.log:
        if said is not None and said[0] in ("secret", "shown", "own", "made"):
            found[said[:-1]].add(said[-1])
    assert all(len(values) == 1 for values in found.values()), {
        key: len(values) for key, values in found.items() if len(values) > 1
    }
    kinds = {kind: {} for kind in ("secret", "shown", "own", "made")}
    for (kind, *key), (value,) in found.items():
        kinds[kind][tuple(key) if len(key) > 1 else key[0]] = value
    return Confessed(*kinds.values())


@contextlib.contextmanager
def reading(federation):
    """The run's store, to read."""
    store = history._store(federation)
    try:
        yield store
    finally:
        store.close()


def look(federation):
    """Whatever a death of a server leaves can be gone on with: charged first, with its secret."""
    with reading(federation) as store:
        facts, records = store.facts(), [r for r in store.history() if r["round"]]
        begun = _begun(federation, store)
    entries = PrivacyLedger.from_json(facts["ledger"]).entries if "ledger" in facts else ()
    assert [entry.round for entry in entries] == list(range(1, len(entries) + 1))
    assert len(records) <= len(entries) <= len(records) + 1
    assert begun in (None, len(entries))
    if begun is not None or len(entries) > len(records):
        assert len(records) + 1 == len(entries) == facts["secret"]["round"]


def _begun(federation, store):
    """The round that is open, if any."""
    if federation.role.url is not None:
        return max((row.round for row in store.rows() if row.topic == "opened"), default=None)
    path = f"file:{federation.folder / 'run.db'}?mode=ro"
    with contextlib.closing(sqlite3.connect(path, uri=True)) as database:
        return database.execute("SELECT max(round) FROM journal WHERE topic = 'opened'").fetchone()[
            0
        ]


def sound(federation):
    """All that must hold of a run that has ended; its records and what was confessed."""
    said = confessed(federation)
    with reading(federation) as store:
        facts, records, latest = store.snapshot()
    records = [record for record in records if record["round"]]
    plan, people = actor.PLANS[federation.role.plan], actor.population(federation.role.plan)
    history.once(plan, people, records)
    history.audited(federation, records)
    run = facts.get("run", federation.folder.name)
    again = replayed(plan, people, records, said, run)
    sealed = plan.stages.ended(again.stages)  # its last rows of noise are in no store
    assert facts.get("sealed", False) == (sealed is not again.stages)
    again = again._replace(stages=sealed)
    assert scene.bits(dict(leaves(again))) == scene.bits(latest[1])
    charged(facts, records)
    assert facts["secret"] is None
    hidden(federation, [*said.secrets.values()])
    return records, said


def charged(facts, records):
    """The ledger has each round that was begun, once, in order, and what each of them counted."""
    entries = PrivacyLedger.from_json(facts["ledger"]).entries
    assert [entry.round for entry in entries] == [record["round"] for record in records]
    assert [entry.epsilon for entry in entries] == [r["privacy"]["epsilon"] for r in records]
    for entry, record in zip(entries[:-1], records[:-1], strict=True):
        assert entry.accepted == (None if record["abandoned"] else len(record["accepted"]))


def hidden(federation, secrets):
    """No secret is left in any file of the servers."""
    for path in federation.home.glob("[0-9]/**/*"):
        data = path.read_bytes() if path.is_file() else b""
        assert not any(s in data or s.hex().encode() in data for s in secrets), path


def replayed(plan, people, records, said, run):
    """The state after all rounds, from the secrets of those who drew them."""
    state = start(plan)
    for record in records:
        round, secret = record["round"], Secret(said.secrets[record["round"]])
        enrolled = tuple(record["population"]["clients"])
        sizes = np.array([len(people[client][0]) for client in enrolled])
        roster = Roster(enrolled, lambda sizes=sizes: sizes)
        assert digest(encode(state.sent())) == said.shown[round, "train"], round
        draw = secret.at("sample", round)
        cohort, _ = plan.sampling.sample(roster, state.sampler, round, draw, None)
        assert cohort.clients == tuple(record["invited"]), "another secret drew this cohort"
        if record["abandoned"]:
            continue
        total = _sum(plan, people, record, state.sent(), (said, run))
        noise = noise_source(secret.at("decode", round), _received(plan, total, record))
        state = _stepped(plan, state, total, roster, noise)
        assert said.shown.get((round, "evaluate")) in (None, digest(encode(state.sent())))
    return state


def _sum(plan, people, record, sent, given):
    """The plain sum of the updates of who was accepted: those that they made, of their secrets."""
    (said, run), round = given, record["round"]
    total = None if record["accepted"] else plan.stages.empty_reply(plan.dtype)
    for client in record["accepted"]:
        own = None
        if (client, round) in said.own:
            own = Secret(said.own[client, round]).at(run, said.shown[round, "train"])
        assert (own is not None) == plan.veiled
        x, y = people[client]
        group = Group((client,), (1,), x, y, np.zeros(1, np.int64), np.array([len(x)]))
        found = train(plan, "loop", round, sent, group, None, own)
        update = {name: rows[0] for name, rows in found.payload.items()}
        whole = {"payload": update, "buffers": np.zeros(0, plan.dtype)}
        assert b"".join(map(bytes, encode(whole))) == said.made[client, round]
        total = update if total is None else tree_map(np.add, total, update)
    return total


def _received(plan, total, record):
    """The sum as the server had it before it decoded it: noise belongs to all of it."""
    clients, buffers = tuple(record["accepted"]), np.zeros(0, plan.dtype)
    return muster.types.Reply(clients, total, float(len(clients)), {}, buffers)


def _stepped(plan, state, total, roster, draw):
    """The server's step: the sum, decoded with the noise of the round, over the expected count."""
    share = plan.sampling.share(roster)
    denominator = share * len(roster.clients)
    reply = muster.types.Reply((), total, denominator, {}, state.buffers)
    reply, stages = plan.stages.decode(reply, state.stages, draw)
    mean = {name: divided(value, denominator) for name, value in reply.payload.items()}
    algorithm = plan.algorithm.step(state.algorithm, plan.algorithm.payload(**mean), share)
    return RunState(algorithm, stages, state.sampler, state.buffers)
