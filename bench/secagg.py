# SPDX-License-Identifier: Apache-2.0
"""Secure aggregation on one core: what the server and one client compute and send in a round.

    python -m bench.secagg [--repeat 3]

The server: adding the masked vectors as they come, then rebuilding secrets and taking the masks
off, one client in ten lost after it shared. Every sum is compared with the plain one. The client:
all its steps, with the signatures (ECDSA on P-256) of the whole roster. One thread throughout;
seconds are the processor's, so that a busy machine disturbs them less, with `wall` beside them.
"""

from __future__ import annotations

import argparse
import json
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from muster.secagg import Await, Party, Say, Terms, client
from muster.secagg.agreement import Binding, Secrets, commitment
from muster.secagg.answers import SEALED, graph_for
from muster.secagg.mask import blend
from muster.secagg.messages import Delivery, Entry, Quorum, Roster, Survivors
from muster.secagg.session import bitmap
from muster.secagg.shamir import cut, split
from muster.secagg.unmask import Cohort, unmask

__all__ = ["client_round", "main", "server_round"]

SERVER = [
    # clients, coordinates, corrupt (1/3 and below 30 clients: complete), goal in seconds
    (100, 10**6, 0.1, 1.0),
    (1000, 10**5, 0.1, 1.5),
    (1000, 10**6, 0.1, 12.0),
]
CLIENT = [(1000, 10**6, 0.1, 0.15)]
ECDSA = ec.ECDSA(hashes.SHA256())


def terms_of(count: int, size: int, corrupt: float) -> Terms:
    return Terms(
        "bench", 1, bytes(32), bytes(32), size=size, most=65535, cohort=count, corrupt=corrupt
    )


@dataclass(frozen=True)
class Played:
    """A session up to the masked vectors: who lives, all shares, and the vectors, packed."""

    cohort: Cohort
    alive: NDArray[np.bool_]
    shares: NDArray[np.uint16]
    packed: list[bytes]
    total: NDArray[Any]


def played(count: int, size: int, corrupt: float) -> Played:
    """What a server holds; the vectors repeat, the last one makes up for it."""
    terms = terms_of(count, size, corrupt)
    private = [Secrets.drawn(secrets.token_bytes) for _ in range(count)]
    entries = tuple(
        Entry(f"c{i:05}", p.mask.public, p.channel.public, commitment(p.seed), b"")
        for i, p in enumerate(private)
    )
    session = Roster(terms.context, entries).session(terms.run, terms.round)
    graph, binding = graph_for(terms, count, session), Binding(session, terms.context)
    cohort = Cohort(terms, entries, graph, {e.name: i for i, e in enumerate(entries)}, binding)
    alive = np.ones(count, np.bool_)
    alive[secrets.SystemRandom().sample(range(count), count // 10)] = False
    shares = cohort.no_shares()
    for i, p in enumerate(private):
        secret = cut([p.seed if alive[i] else p.mask.data])[0]
        mine = split(secret, graph.holders(i) + 1, graph.threshold, secrets.token_bytes).T
        mine[~alive[graph.holders(i)]] = 65535
        shares[cohort.mirror(i)] = mine
    packed, total = masked(cohort, private, alive)
    return Played(cohort, alive, shares, packed, total)


def masked(
    cohort: Cohort, private: list[Secrets], alive: NDArray[np.bool_]
) -> tuple[list[bytes], NDArray[Any]]:
    """Packed vectors whose sum is a plain sum under all the masks a server must take off."""
    ring, size, survivors = cohort.terms.ring, cohort.terms.size, int(alive.sum())
    generator = np.random.default_rng(0)
    plain = generator.integers(0, survivors * 65535, size).astype(ring.dtype)
    some = [generator.integers(0, 1 << ring.bits, size).astype(ring.dtype) for _ in range(7)]
    last, plus, minus = plain.copy(), [], []
    for i, p in enumerate(private):
        if alive[i]:
            plus.append(cohort.binding.own(p.seed))
            continue
        near = cohort.graph.neighbours(i)
        for j in near[alive[near]].tolist():
            key = cohort.binding.mask(p.mask.agree(cohort.entries[j].mask_key), i, j)
            (plus if i < j else minus).append(key)
    blend(last, plus, minus)
    for i in range(survivors - 1):
        last -= some[i % 7]
    ring.reduce(last)
    packed = [ring.pack(vector) for vector in some]
    return [packed[i % 7] for i in range(survivors - 1)] + [ring.pack(last)], plain


def server_round(count: int, size: int, corrupt: float, repeat: int) -> dict[str, Any]:
    """Seconds of the two halves of the server's work, the least of several."""
    game = played(count, size, corrupt)
    ring, seconds = game.cohort.terms.ring, []
    for _ in range(repeat):
        wall, start = time.perf_counter(), time.process_time()
        total, room = ring.zeros(size), ring.buffer(size)
        for data in game.packed:
            np.add(total, ring.unpack(data, size, room), out=total)
        added = time.process_time()
        unmask(game.cohort, (np.ones(count, np.bool_), game.alive), game.shares, total)
        done = time.process_time()
        seconds.append((done - start, added - start, done - added, time.perf_counter() - wall))
        assert np.array_equal(total, game.total)
    spent, adding, opening, wall = min(seconds)
    graph = game.cohort.graph
    return {
        "n": count, "d": size, "k": graph.degree, "t": graph.threshold, "bits": ring.bits,
        "add": round(adding, 3), "unmask": round(opening, 3), "sum": round(spent, 3),
        "wall": round(wall, 3),
    }  # fmt: skip


def client_round(count: int, size: int, corrupt: float, repeat: int) -> dict[str, Any]:
    """Seconds of a client's steps (the least of several), and its bytes against float32."""
    terms = terms_of(count, size, corrupt)
    identity = ec.generate_private_key(ec.SECP256R1())
    public = identity.public_key()

    def verify(name: str, data: bytes, signature: bytes) -> bool:
        try:
            public.verify(signature, data, ECDSA)
        except InvalidSignature:
            return False
        return True

    rounds = [alone(terms, identity, verify, count) for _ in range(repeat)]
    best: dict[str, Any] = min(rounds, key=lambda found: float(found["sum"]))
    return best


def alone(terms: Terms, identity: Any, verify: Any, count: int) -> dict[str, Any]:
    """One client's session against a server played by hand."""

    def sign(data: bytes) -> bytes:
        return bytes(identity.sign(data, ECDSA))

    vector = np.random.default_rng(0).integers(0, 65536, terms.size).astype(np.uint32)
    side = client(terms, Party("c00000", sign, verify), lambda: vector, secrets.token_bytes)
    spent, said, walls = [], [], []

    def step(message: Any) -> None:
        wall, start = time.perf_counter(), time.process_time()
        action = side.send(message)
        while not isinstance(action, Await):
            said.extend([action.message] if isinstance(action, Say) else [])
            action = next(side)
        spent.append(time.process_time() - start)
        walls.append(time.perf_counter() - wall)

    step(None)
    heard = answers_to(terms, said[0].entry, count, sign)
    for message in heard:
        step(message)
    up, down = (sum(len(m.to_bytes()) for m in some) for some in (said, heard))
    names = ("advertise", "share", "mask", "consent", "unmask")
    return {
        "n": count, "d": terms.size, "k": len(heard[3].signatures),
        **{name: round(seconds, 4) for name, seconds in zip(names, spent, strict=True)},
        "sum": round(sum(spent), 4), "wall": round(sum(walls), 4), "up": up, "down": down,
        "traffic": round((up + down) / (4 * terms.size), 3),
    }  # fmt: skip


def answers_to(
    terms: Terms, own: Entry, count: int, sign: Callable[[bytes], bytes]
) -> tuple[Roster, Delivery, Survivors, Quorum]:
    """What an honest server says to one client when nobody drops out."""
    entries = [own]
    for i in range(1, count):
        p = Secrets.drawn(secrets.token_bytes)
        entry = Entry(f"c{i:05}", p.mask.public, p.channel.public, commitment(p.seed), b"")
        entries.append(replace(entry, signature=sign(entry.statement(terms.context))))
    roster = Roster(terms.context, tuple(entries))
    session = roster.session(terms.run, terms.round)
    near = len(graph_for(terms, count, session).holders(0))
    everybody = bitmap(np.ones(count, np.bool_))
    signature = sign(Binding(session, terms.context).consent(everybody, everybody))
    return (
        roster,
        Delivery(session, everybody, bytes(SEALED * near)),
        Survivors(session, everybody),
        Quorum(session, everybody, (signature,) * near),
    )


def main() -> None:
    """Print one JSON line for each case; `goal` in seconds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=3)
    repeat = parser.parse_args().repeat
    with threadpool_limits(1):
        for *case, goal in SERVER:
            print(json.dumps({"server": server_round(*case, repeat), "goal": goal}), flush=True)
        for *case, goal in CLIENT:
            print(json.dumps({"client": client_round(*case, repeat), "goal": goal}), flush=True)


if __name__ == "__main__":
    main()
