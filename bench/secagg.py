# SPDX-License-Identifier: Apache-2.0
"""Secure aggregation on one core: what the server and one client compute and send in a round.

    python -m bench.secagg [--repeat 3]

The server: taking in what every client deals and handing out the pieces, adding the masked vectors
as they come, then rebuilding secrets and taking the masks off, one client in ten lost after it
shared. Every sum is compared with the plain one. The client: all its steps, with the signatures
(ECDSA on P-256) of the whole roster, and every share that it is given compared with its
commitment. One thread throughout; seconds are the processor's, so that a busy machine disturbs
them less, with `wall` beside them.
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

from muster.secagg import Await, Party, Say, SessionTerms, client
from muster.secagg.agreement import Binding, Secrets, commitment
from muster.secagg.answers import graph_for
from muster.secagg.commitments import Dealt, deal
from muster.secagg.dealing import Dealing, SessionMembers, room_for_shares
from muster.secagg.mask import blend
from muster.secagg.messages import (
    Delivery,
    KeyRoster,
    Members,
    PublicKeys,
    Quorum,
    SecAggMessage,
    Shares,
    Survivors,
)
from muster.secagg.session import bitmap
from muster.secagg.unmask import unmask

__all__ = ["client_round", "main", "server_round"]

SERVER = [
    # clients, coordinates, the fraction that may collude (and a tenth may be lost), goal in seconds
    (100, 10**6, 0.1, 1.0),
    (1000, 10**5, 0.1, 1.5),
    (1000, 10**6, 0.1, 12.0),
]
CLIENT = [(1000, 10**6, 0.1, 0.15), (100, 10**6, 1 / 3, 0.15)]
ECDSA = ec.ECDSA(hashes.SHA256())


def terms_of(count: int, size: int, corrupt: float) -> SessionTerms:
    return SessionTerms(
        "bench",
        "bench",
        1,
        bytes(32),
        bytes(32),
        size=size,
        most=65535,
        cohort=count,
        colluders=int(corrupt * count),
        losses=count // 10,
    )


@dataclass(frozen=True)
class Played:
    """A session up to the masked vectors: who lives, what was dealt, and the vectors, packed."""

    cohort: SessionMembers
    alive: NDArray[np.bool_]
    dealt: list[Dealt]
    packed: list[bytes]
    total: NDArray[Any]


def played(count: int, size: int, corrupt: float) -> Played:
    """Play what a server is told; the vectors repeat, and the last makes up for it."""
    terms = terms_of(count, size, corrupt)
    private = [Secrets.drawn(secrets.token_bytes) for _ in range(count)]
    entries = tuple(
        PublicKeys(f"c{i:05}", p.mask.public, p.channel.public, commitment(p.seed), b"")
        for i, p in enumerate(private)
    )
    session = KeyRoster(terms.context, entries).session(*terms.place)
    graph, binding = graph_for(terms, count, session), Binding(session, terms.context)
    cohort = SessionMembers(
        terms, entries, graph, {e.name: i for i, e in enumerate(entries)}, binding
    )
    alive = np.ones(count, np.bool_)
    alive[secrets.SystemRandom().sample(range(count), count // 10)] = False
    dealt = [
        deal(
            binding,
            i,
            (p.mask.data, p.seed),
            graph.holders(i),
            graph.threshold,
            secrets.token_bytes,
        )
        for i, p in enumerate(private)
    ]
    packed, total = masked(cohort, private, alive)
    return Played(cohort, alive, dealt, packed, total)


def revealed(game: Played) -> NDArray[np.uint16]:
    """Return the survivors' shares of the seed or of the mask key of every client."""
    shares, graph = room_for_shares(game.cohort), game.cohort.graph
    for i, dealt in enumerate(game.dealt):
        mine = dealt.shares[:, int(game.alive[i])].copy()
        mine[~game.alive[graph.holders(i)]] = 65535
        shares[game.cohort.mirror(i)] = mine
    return shares


def dealing_of(game: Played) -> Dealing:
    """Return the dealing of all clients, taken in and handed out; seals are as long as real."""
    dealing, session = Dealing(game.cohort), game.cohort.binding.session
    for i, dealt in enumerate(game.dealt):
        others = int((game.cohort.graph.holders(i) != i).sum())
        shares = Shares(session, bytes(104 * others), dealt.leaves, dealt.proof, b"")
        assert dealing.take(i, shares) is None
    for i in range(len(game.dealt)):
        dealing.pieces(i)
    dealing.release()
    return dealing


def masked(
    cohort: SessionMembers, private: list[Secrets], alive: NDArray[np.bool_]
) -> tuple[list[bytes], NDArray[Any]]:
    """Return packed vectors that sum to a plain sum under all masks a server must take off."""
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
    """Return the seconds of the parts of the server's work, the least of several."""
    game = played(count, size, corrupt)
    ring, seconds = game.cohort.terms.ring, []
    for _ in range(repeat):
        shares = revealed(game)
        wall, start = time.perf_counter(), time.process_time()
        dealing = dealing_of(game)
        dealt = time.process_time()
        total, room = ring.zeros(size), ring.buffer(size)
        for data in game.packed:
            np.add(total, ring.unpack(data, size, room), out=total)
        added = time.process_time()
        unmask(dealing, (np.ones(count, np.bool_), game.alive, game.alive), shares, total)
        done = time.process_time()
        parts = (dealt - start, added - dealt, done - added)
        seconds.append((done - start, *parts, time.perf_counter() - wall))
        assert np.array_equal(total, game.total)
    spent, handing, adding, opening, wall = min(seconds)
    graph = game.cohort.graph
    return {
        "n": count,
        "d": size,
        "k": graph.degree,
        "t": graph.threshold,
        "bits": ring.bits,
        "deal": round(handing, 3),
        "add": round(adding, 3),
        "unmask": round(opening, 3),
        "sum": round(spent, 3),
        "wall": round(wall, 3),
    }


def client_round(count: int, size: int, corrupt: float, repeat: int) -> dict[str, Any]:
    """Return the seconds of a client's steps, the least of several; its bytes over float32's."""
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


def alone(terms: SessionTerms, identity: Any, verify: Any, count: int) -> dict[str, Any]:
    """Run one client's session against a server played by hand."""

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
    names = ("advertise", "share", "compare", "mask", "consent", "unmask")
    graph = graph_for(terms, count, bytes(32))
    return {
        "n": count,
        "d": terms.size,
        "k": graph.degree,
        "t": graph.threshold,
        **{name: round(seconds, 4) for name, seconds in zip(names, spent, strict=True)},
        "sum": round(sum(spent), 4),
        "wall": round(sum(walls), 4),
        "up": up,
        "down": down,
        "traffic": round((up + down) / (4 * terms.size), 3),
    }


def answers_to(
    terms: SessionTerms, own: PublicKeys, count: int, sign: Callable[[bytes], bytes]
) -> tuple[SecAggMessage, ...]:
    """Return the words of an honest server to one client when nobody drops out or lies."""
    entries, private = [own], [Secrets.drawn(secrets.token_bytes) for _ in range(count)]
    for i in range(1, count):
        p = private[i]
        entry = PublicKeys(f"c{i:05}", p.mask.public, p.channel.public, commitment(p.seed), b"")
        entries.append(replace(entry, signature=sign(entry.statement(terms.context))))
    roster = KeyRoster(terms.context, tuple(entries))
    session = roster.session(*terms.place)
    graph, binding = graph_for(terms, count, session), Binding(session, terms.context)
    cohort = SessionMembers(terms, roster.entries, graph, roster.places, binding)
    dealing = Dealing(cohort)
    for i in graph.holders(0).tolist():
        if i:
            dealing.take(i, dealt_by(cohort, i, private[i]))
    dealing.sharing[:] = True
    everybody = bitmap(np.ones(count, np.bool_))
    signature = sign(binding.consent(everybody, everybody))
    near = len(graph.holders(0))
    return (
        roster,
        Delivery(session, everybody, dealing.pieces(0)),
        Members(session, everybody),
        Survivors(session, everybody),
        Quorum(session, everybody, (signature,) * near),
    )


def dealt_by(cohort: SessionMembers, dealer: int, mine: Secrets) -> Shares:
    """Return the shares that one client deals, sealed for client 0 alone."""
    binding, holders = cohort.binding, cohort.graph.holders(dealer)
    made = deal(
        binding,
        dealer,
        (mine.mask.data, mine.seed),
        holders,
        cohort.graph.threshold,
        secrets.token_bytes,
    )
    channel = mine.channel.agree(cohort.entries[0].channel_key)
    sealed = [bytes(104)] * int((holders != dealer).sum())
    place = int(np.flatnonzero(holders[holders != dealer] == 0)[0])
    share = made.shares[int(np.flatnonzero(holders == 0)[0])].tobytes()
    sealed[place] = binding.seal(channel, dealer, 0, share)
    return Shares(binding.session, b"".join(sealed), made.leaves, made.proof, b"")


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
