# SPDX-License-Identifier: Apache-2.0
"""A secure round beside flwr's SecAgg+: what its server and one client compute, on one core.

    python -m bench.secagg_flwr [--repeat 3]

flwr is no dependency of muster: where it cannot be imported, muster is measured alone. Both play
the same round in one process pinned to one core, in turn: 100 real clients and a server, the same
vectors, neighbours and threshold, one client in ten lost after it shared. Both sums must be equal
to the plain one (flwr's is read back from the mean that it gives; inputs are chosen so that its
quantization is exact). Seconds are the processor's, so that a busy machine disturbs them less.
Not counted: training, and handing messages over; muster's travel as bytes, flwr's as objects.

What is measured of flwr: `bench/flwr_round.py`. Not comparable, as read in the source of 1.42.0:

- masks: numpy's MT19937 from 32 bits, into which a seed is folded (`pseudo_rand_gen`); muster's
  are AES-256 in counter mode under a whole key;
- signatures: flwr has none; muster signs keys and survivors (here ECDSA on P-256) and every
  client verifies the whole roster;
- key agreement on P-384 (`generate_key_pairs`), private keys shared as PEM text in blocks of 16
  bytes, all shares that came are recombined; muster: X25519, 32 bytes, t shares;
- the client's time includes quantization of float32 in flwr, none in muster, which is given
  integers; flwr masks the weight and leaves `num_examples` in the reply as well.
"""

from __future__ import annotations

import argparse
import importlib
import os
import secrets
import sys
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import numpy as np
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from threadpoolctl import threadpool_limits

from bench.meter import Meter
from bench.secagg_case import MOST, Case, Played
from muster.secagg import (
    Await,
    Closed,
    Heard,
    Party,
    Say,
    SessionStep,
    SessionTerms,
    Tell,
    client,
    server,
)

__all__ = ["lines", "main", "played"]

CASES = (Case(100, 10**5), Case(100, 10**6))
STEPS = (
    SessionStep.ADVERTISE,
    SessionStep.SHARE,
    SessionStep.COMPARE,
    SessionStep.MASK,
    SessionStep.CONSENT,
    SessionStep.UNMASK,
)
ECDSA = ec.ECDSA(hashes.SHA256())
Side = Callable[[Case], Played]


class _Signed:
    """The identities of all clients: one ECDSA key each."""

    def __init__(self, names: list[str]) -> None:
        self.private = {name: ec.generate_private_key(ec.SECP256R1()) for name in names}
        self.public = {name: key.public_key() for name, key in self.private.items()}

    def sign(self, name: str, data: bytes) -> bytes:
        return bytes(self.private[name].sign(data, ECDSA))

    def verify(self, name: str, data: bytes, signature: bytes) -> bool:
        try:
            self.public[name].verify(signature, data, ECDSA)
        except InvalidSignature:
            return False
        return True


def played(case: Case) -> Played:
    """Play a round of muster's, every message as bytes."""
    terms = SessionTerms(
        "bench",
        "bench",
        1,
        bytes(32),
        bytes(32),
        size=case.size,
        most=MOST,
        cohort=case.count,
        colluders=case.colluders,
        losses=case.count // 10,
    )
    names = [f"c{i:05}" for i in range(case.count)]
    keys, meter = _Signed(names), Meter()

    def vector(index: int) -> Any:
        meter.turn()
        given = case.vector(index)
        meter.turn(names[index])
        return given

    sides = {
        name: client(
            terms,
            Party(name, partial(keys.sign, name), keys.verify),
            partial(vector, i),
            secrets.token_bytes,
        )
        for i, name in enumerate(names)
    }
    lost = {names[i] for i in case.lost}
    return _talked(server(terms, names, keys.verify), sides, lost, meter)


def _talked(centre: Any, sides: dict[str, Any], lost: set[str], meter: Meter) -> Played:
    """Play the conversation: who is lost is silent from the masked vector on."""
    inbox: dict[str, bytes | None] = dict.fromkeys(sides)
    sent = 0
    _heard(centre, None, inbox, meter)
    try:
        for step in STEPS:
            late = step not in STEPS[:3]
            for name in (name for name in sides if not (late and name in lost)):
                for data in _said(name, sides[name], inbox[name], meter):
                    sent = max(sent, len(data) if step is SessionStep.MASK else 0)
                    _heard(centre, Heard(name, data), inbox, meter)
            _heard(centre, Closed(step), inbox, meter)
    except StopIteration as end:
        meter.turn()
        return Played(end.value.total.astype(np.int64), dict(meter.spent), sent)
    raise AssertionError("a session neither gave a sum nor said why not")


def _heard(centre: Any, event: Any, inbox: dict[str, bytes | None], meter: Meter) -> None:
    """Let the server hear an event; what it tells is written down as bytes."""
    meter.turn("server")
    effect = centre.send(event)
    while not isinstance(effect, Await):
        if isinstance(effect, Tell):
            meter.turn()
            inbox[effect.name] = effect.message.to_bytes()
            meter.turn("server")
        effect = next(centre)
    meter.turn()


def _said(name: str, side: Any, heard: bytes | None, meter: Meter) -> list[bytes]:
    """Let a client hear, and return what it says."""
    said = []
    meter.turn(name)
    action = side.send(heard)
    while not isinstance(action, Await):
        if isinstance(action, Say):
            said.append(action.message)
        action = next(side)
    meter.turn()
    return [message.to_bytes() for message in said]


def lines(case: Case, sides: dict[str, Side], repeat: int) -> list[tuple[str, ...]]:
    """Return table rows of a case: medians of rounds in turn, each sum compared first."""
    rounds: dict[str, list[Played]] = {name: [] for name in sides}
    for _ in range(repeat):
        for name, side in sides.items():
            found = side(case)
            if not np.array_equal(found.total, case.total):
                raise AssertionError(f"{name} opened another sum than the plain one")
            rounds[name].append(found)
    rows, first = [], None
    for name, all_of in rounds.items():
        seen = (
            median(one.server for one in all_of),
            median(one.client(len(case.lost)) for one in all_of),
            all_of[0].sent / 1e6,
        )
        first = first or seen
        cells = [f"{one:.3g} ({one / own:.3g}×)" for one, own in zip(seen, first, strict=True)]
        what = f"n={case.count}, d={case.size:,}, k={case.degree}, t={case.threshold}"
        rows.append((what, name, *cells))
    return rows


def main() -> None:
    """Print the table, row by row, as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=3)
    repeat = parser.parse_args(sys.argv[1:]).repeat
    sides: dict[str, Side] = {"muster": played}
    try:
        theirs = importlib.import_module("bench.flwr_round")
        sides[f"flwr {theirs.VERSION}"] = theirs.played
    except ImportError as error:
        print(f"flwr cannot be imported ({error}); muster is measured alone: pip install flwr")
    if hasattr(os, "sched_setaffinity"):  # flwr recombines shares in a pool of threads
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    print("| round | who | server, s | client, s | masked vector, MB |\n|---|---|---|---|---|")
    with threadpool_limits(1):
        for case in CASES:
            for row in lines(case, sides, repeat):
                print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
