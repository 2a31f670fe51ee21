# SPDX-License-Identifier: Apache-2.0
"""A session in memory: a driver for both sides, with what a test wants to go wrong."""

import hmac
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

import numpy as np

from muster.secagg import (
    Aborted,
    Await,
    Closed,
    Forget,
    Heard,
    MessageRefused,
    Party,
    Persist,
    Saw,
    Say,
    SessionStep,
    SessionTerms,
    Tell,
    client,
    server,
)
from muster.secagg.agreement import Binding, Pairs, Secrets
from muster.secagg.messages import Complaint, Delivery
from muster.secagg.pieces import PIECE
from muster.secagg.session import bitmap

VICTIM = "c0001"
COUNT = 5
SAYS = {  # the number of what a client says; an answer to a complaint is part of comparing
    "Advert": 0,
    "Shares": 1,
    "Compared": 2,
    "OpenedShares": 2,
    "MaskedVector": 3,
    "Consent": 4,
    "Revealed": 5,
    "Quit": 6,
}


def sign(name, data):
    return hmac.digest(name.encode(), data, "sha256")


def verify(name, data, signature):
    return hmac.compare_digest(sign(name, data), signature)


def party(name):
    return Party(name, lambda data: sign(name, data), verify)


def named(count):
    return [f"c{i:04}" for i in range(count)]


def terms(count, size=7, most=15, **changes):
    """A third of the clients may collude, a tenth may fall silent."""
    plain = SessionTerms("study", "run", 1, bytes(32), bytes([1]) * 32, size, most, cohort=count)
    return replace(plain, **{"colluders": count // 3, "losses": count // 10} | changes)


def vectors(terms, count, seed=0):
    rows = np.random.default_rng(seed).integers(0, terms.most + 1, (count, terms.size))
    return dict(zip(named(count), rows.astype(terms.ring.dtype), strict=True))


def believe(name, data, signature):
    return True


def keep(name, message):
    return [message]


@dataclass
class Scene:
    """One session. `absent[name]` is the number of the first message that a client does not say;
    `up` and `down` may change, drop or add messages; `own` are the terms of single clients."""

    terms: SessionTerms
    vectors: dict[str, Any]
    absent: dict[str, int] = field(default_factory=dict)
    up: Callable[[str, Any], list] = keep
    down: Callable[[str, Any], list] = keep
    own: dict[str, SessionTerms] = field(default_factory=dict)
    verify: Callable[[str, bytes, bytes], bool] = verify  # the clients'
    server_verify: Callable[[str, bytes, bytes], bool] = verify
    judges: dict[str, Callable] = field(default_factory=dict)  # who looks at its peers
    shuffle: np.random.Generator | None = None
    in_bytes: bool = False
    restarts: set = field(default_factory=set)  # (name or "server", Step): begun again there
    crashes: set = field(
        default_factory=set
    )  # (name, Step): dies after the Persist, before the Say
    seed: int = 0

    def __post_init__(self):
        self.kept = {name: {} for name in self.vectors}
        self.clients, self.ended, self.said, self.heard, self.saw = {}, {}, [], [], []
        self.events, self.refused, self.masked, self.drawn = [], [], {}, {}
        self.told, self.calls, self.step = [], dict.fromkeys(self.vectors, 0), SessionStep.ADVERTISE
        self.queue, self.pairs = deque(), Pairs()  # X25519 once for both ends of a pair

    def run(self):
        """The sum; or the error that the server ended with."""
        self.server = server(self.terms, self.vectors, self.server_verify)
        for name in self.vectors:
            self.begin(name)
        try:
            self.serve(None)
            while True:
                self.serve(self.next())
        except StopIteration as end:
            self.settle()
            return end.value
        except Aborted:
            self.settle()
            raise

    def settle(self):
        for name, message in self.told[:]:
            self.hear(name, message)

    def next(self):
        if not self.queue:
            return Closed(self.step)
        if self.shuffle is not None:
            self.queue.rotate(int(self.shuffle.integers(len(self.queue))))
        return self.queue.popleft()

    def serve(self, event):
        """Record an event, give it to the server, and pass on what it says."""
        if event is not None:
            self.events.append(event)
        effect = self.server.send(event)
        before = self.step
        while not isinstance(effect, Await):
            if isinstance(effect, MessageRefused):
                self.refused.append((effect.name, effect.reason))
            elif isinstance(effect, Tell):
                for message in self.down(effect.name, effect.message):
                    self.told.append((effect.name, message))
            effect = next(self.server)
        self.step = effect.step
        if before is not self.step and ("server", self.step) in self.restarts:
            self.replay()
        told, self.told = self.told, []
        for name, message in told:
            self.hear(name, message)

    def replay(self):
        """Another server, given the recorded events again."""
        self.server = server(self.terms, self.vectors, self.server_verify)
        effect = next(self.server)
        for event in self.events:
            effect = self.server.send(event)
            while not isinstance(effect, Await):
                effect = next(self.server)
        assert effect.step is self.step

    def begin(self, name):
        draws = np.random.default_rng([self.seed, int(name[1:]), len(self.kept[name])])

        def vector():
            self.calls[name] += 1
            return self.vectors[name]

        who = replace(party(name), verify=self.verify, agree=self.pairs.agree)
        if name in self.judges:
            who = replace(who, judge=self.judges[name])
        own = self.own.get(name, self.terms)
        self.clients[name] = client(own, who, vector, draws.bytes, self.kept[name])
        self.pump(name, None)

    def hear(self, name, message):
        if name in self.clients:
            self.heard.append((name, message))
            self.pump(name, message.to_bytes() if self.in_bytes else message)

    def pump(self, name, message):
        side = self.clients[name]
        try:
            action = side.send(message)
            while not isinstance(action, Await):
                if isinstance(action, Persist):
                    self.kept[name] = self.kept[name] | {action.name: action.data}
                    if (name, SessionStep(action.name)) in self.crashes:
                        self.crashes.remove((name, SessionStep(action.name)))
                        return self.begin(name)
                elif isinstance(action, Forget):
                    self.kept[name] = {}
                elif isinstance(action, Saw):
                    self.saw.append((name, action))
                elif isinstance(action, Say):
                    self.say(name, action.message)
                action = next(side)
        except StopIteration:
            self.ended[name] = None
            self.clients.pop(name, None)
        except Aborted as error:
            self.ended[name] = error
            self.clients.pop(name, None)
        else:
            if (name, action.step) in self.restarts:
                self.restarts.remove((name, action.step))
                self.begin(name)

    def say(self, name, message):
        if SAYS[type(message).__name__] >= self.absent.get(name, 9):
            self.clients.pop(name, None)
            return
        self.said.append((name, message))
        if type(message).__name__ == "MaskedVector":
            self.masked[name] = message
        for said in self.up(name, message):
            self.queue.append(Heard(name, said.to_bytes() if self.in_bytes else said))

    def channels(self, index):
        """Return one client's channel keys with each other one, as it and they alone know them."""
        own = [Secrets.read(self.kept[name]["advertise"][:96]).channel for name in self.vectors]
        public = [key.public for key in own]
        return {j: own[index].agree(public[j]) for j in range(len(own)) if j != index}

    def complaints(self, name, dealers):
        """A client's signed complaints about pieces that it was given, whatever they hold."""
        delivery = next(m for n, m in self.heard if n == name and isinstance(m, Delivery))
        index, made = int(name[1:]), []
        others = [j for j in range(len(self.vectors)) if j != index]
        binding = Binding(delivery.session, self.terms.context)
        for dealer in dealers:
            place = others.index(dealer)
            piece = delivery.pieces[PIECE * place : PIECE * (place + 1)]
            statement = binding.complaint(dealer, index, sha256(piece).digest())
            made.append(Complaint(dealer, index, sign(name, statement)))
        return tuple(made)

    def reason(self, name):
        error = self.ended.get(name)
        return error and error.reason


def expected(scene, survivors):
    """The sum of the survivors' vectors, in Python's integers."""
    rows = [scene.vectors[name].tolist() for name in survivors]
    return [sum(column) for column in zip(*rows, strict=True)]


def scene_of(count=COUNT, **changes):
    own = changes.pop("terms", terms(count))
    return Scene(own, vectors(own, count), **changes)


def told(kind, change, name=VICTIM):
    """A server that says something else to one client (to all where name is None)."""

    def down(to, message):
        return change(message) if isinstance(message, kind) and name in (to, None) else [message]

    return down


def attacked(kind, change, **more):
    """Play an attack on the victim; how it ended for it, and what it said."""
    played = scene_of(down=told(kind, change), **more)
    try:
        played.run()
    except Aborted:
        played.settle()
    said = [message for name, message in played.said if name == VICTIM]
    return played, played.reason(VICTIM), said


def kinds(said):
    return [type(message) for message in said]


def only(*numbers, count=COUNT):
    alive = np.zeros(count, np.bool_)
    alive[list(numbers)] = True
    return bitmap(alive)
