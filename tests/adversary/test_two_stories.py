# SPDX-License-Identifier: Apache-2.0
"""A server that tells two stories about who survived, with as many colluders as the terms allow.

Some holders of the victim's secrets are told that it lives, and give shares of its seed; others
that it is gone, and give shares of its mask key; colluders give both. Where both kinds reach the
threshold, the victim's vector is opened, whether or not the clients sign whom they were told of,
since each story collects its own signatures.
"""

import hmac

import numpy as np
import pytest
from tests.secagg.scene import party, terms, vectors

from muster.secagg import Aborted, Await, Persist, Say, SessionReason, SessionTerms, client, graph
from muster.secagg import messages as said
from muster.secagg.agreement import Binding, PrivateKey, Secrets, commitment
from muster.secagg.answers import graph_for
from muster.secagg.commitments import ROWS
from muster.secagg.dealing import Dealing, SessionMembers
from muster.secagg.mask import blend
from muster.secagg.session import bitmap
from muster.secagg.shamir import LIMBS, combine, joined, weights

VICTIM = 0


def sign(name, data):
    return hmac.digest(name.encode(), data, "sha256")


class Server:
    """Plays a session honestly up to the masked vectors, then tells what it likes to whom it likes.

    The last clients of the roster collude: it has their kept secrets, and signs in their names.
    """

    def __init__(self, about, colluders):
        self.terms, self.count = about, about.cohort
        self.names = [f"c{i:04}" for i in range(self.count)]
        self.vectors = vectors(about, self.count)
        self.kept = {name: {} for name in self.names}
        self.sides = {name: self.begin(name) for name in self.names}
        self.colluders = set(range(self.count - colluders, self.count))
        self.masked = {}

    def begin(self, name, kept=None):
        draws = np.random.default_rng([7, int(name[1:]), len(kept or {})]).bytes
        vector = self.vectors[name]
        return client(self.terms, party(name), lambda: vector.copy(), draws, kept)

    def tell(self, name, message, side=None):
        """Return a client's answer to a message; what a colluder is told it does not keep."""
        out, generator = [], side or self.sides[name]
        action = generator.send(message)
        while not isinstance(action, Await):
            if isinstance(action, Persist) and side is None:
                self.kept[name][action.name] = action.data
            if isinstance(action, Say):
                out.append(action.message)
            action = next(generator)
        return out[-1] if out else None

    def play(self):
        """Up to the masked vectors."""
        adverts = {name: self.tell(name, None) for name in self.names}
        roster = said.KeyRoster(self.terms.context, tuple(adverts[n].entry for n in self.names))
        self.session = roster.session(*self.terms.place)
        self.graph = graph_for(self.terms, self.count, self.session)
        self.binding = Binding(self.session, self.terms.context)
        index = {name: i for i, name in enumerate(self.names)}
        dealing = Dealing(
            SessionMembers(self.terms, roster.entries, self.graph, index, self.binding)
        )
        for i, name in enumerate(self.names):
            assert dealing.take(i, self.tell(name, roster)) is None
        everybody = bitmap(np.ones(self.count, np.bool_))
        for i, name in enumerate(self.names):
            delivery = said.Delivery(self.session, everybody, dealing.pieces(i))
            assert self.tell(name, delivery).complaints == ()
        for name in self.names:
            message = self.tell(name, said.Members(self.session, everybody))
            self.masked[name] = message.vector
        self.roster = roster

    def stories(self):
        """The two groups of honest holders that are needed, or None where they are too few."""
        holders = self.graph.holders(VICTIM).tolist()
        bad = [h for h in holders if h in self.colluders]
        good = [h for h in holders if h not in self.colluders]
        need = self.graph.threshold - len(bad)
        own = [VICTIM] if VICTIM in good else []  # it never believes that it is gone
        others = [h for h in good if h != VICTIM]
        alive = own + others[: max(0, need - len(own))]
        dead = others[len(alive) - len(own) :][:need]
        return (alive, dead, bad) if len(alive) >= need and len(dead) >= need else None

    def shares(self, alive, group, bad):
        """The shares of one kind of the victim's secret that a story brings in."""
        full = np.ones(self.count, np.bool_)
        believed = full.copy()
        believed[VICTIM] = alive
        told = said.Survivors(self.session, bitmap(believed))
        statement = self.binding.consent(bitmap(full), bitmap(believed))
        again = {
            j: self.sides[self.names[j]]
            if j in group
            else self.begin(self.names[j], dict(self.kept[self.names[j]]))
            for j in [*group, *bad]
        }
        for j in bad:
            self.tell(self.names[j], None, again[j])
        marks = {j: self.tell(self.names[j], told, again[j]).signature for j in again}
        marks |= {j: sign(self.names[j], statement) for j in self.colluders}
        signed = np.zeros(self.count, np.bool_)
        signed[list(marks)] = True
        found = {}
        for j in again:
            near = tuple(marks[h] for h in self.graph.holders(j).tolist() if h in marks)
            quorum = said.Quorum(self.session, bitmap(signed), near)
            rows = np.frombuffer(self.tell(self.names[j], quorum, again[j]).shares, "<u2").reshape(
                -1, ROWS
            )
            place = self.graph.holders(j).tolist().index(VICTIM)
            found[j] = rows[place, :LIMBS].astype(np.int64)
        return found

    def secret(self, found):
        points = sorted(found)[: self.graph.threshold]
        row = weights(np.array([points]) + 1)[0]
        return joined(combine(np.stack([found[j] for j in points]), row)[None])[0]

    def opened(self):
        """The victim's vector, or None where no two quorums fit."""
        self.play()
        stories = self.stories()
        if stories is None:
            return None
        alive, dead, bad = stories
        seed = self.secret(self.shares(True, alive, bad))
        private = PrivateKey(self.secret(self.shares(False, dead, bad)))
        ring = self.terms.ring
        vector = ring.unpack(self.masked[self.names[VICTIM]], self.terms.size).copy()
        plus, minus = [], [self.binding.own(seed)]
        for j in self.graph.neighbours(VICTIM).tolist():
            shared = private.agree(self.roster.entries[j].mask_key)
            key = self.binding.mask(shared, VICTIM, j)
            (minus if j < VICTIM else plus).append(key)
        blend(vector, plus, minus)
        ring.reduce(vector)
        return vector


def about(count, colluders):
    return terms(count, size=6, most=65534, colluders=colluders, losses=count // 10)


SIZES = [(3, 1), (4, 1), (5, 1), (7, 2), (9, 3), (12, 4), (20, 6), (40, 13), (40, 4), (60, 27)]


@pytest.mark.parametrize(("count", "colluders"), SIZES)
def test_no_two_quorums_fit(count, colluders):
    assert Server(about(count, colluders), colluders).opened() is None


@pytest.mark.parametrize(("count", "colluders"), [(40, 4), (100, 5), (100, 10)])
def test_no_two_quorums_fit_in_a_ring_whichever_neighbours_collude(rings, count, colluders):
    """All colluders stand around the victim: the worst that a draw of the ring can do."""
    server = Server(about(count, colluders), 0)
    server.play()
    assert server.graph.order
    near = [h for h in server.graph.holders(VICTIM).tolist() if h != VICTIM]
    server.colluders = set(near[-min(colluders, len(near)) :])
    assert server.stories() is None


@pytest.mark.parametrize(("count", "colluders"), [(7, 2), (9, 3), (12, 4), (20, 6)])
def test_with_one_share_less_they_fit_and_the_vector_is_read(monkeypatch, count, colluders):
    """The attack is real: it opens a client where the threshold is one below the safe one."""
    safe = graph.full_threshold
    monkeypatch.setattr(graph, "full_threshold", lambda n, c: safe(n, c) - 1)
    graph.graph_of.cache_clear()
    server = Server(about(count, colluders), colluders)
    found = server.opened()
    graph.graph_of.cache_clear()
    assert isinstance(server.terms, SessionTerms)
    assert found.tolist() == server.vectors[server.names[VICTIM]].tolist()


# -- whose order a ring has ------------------------------------------------------------------------


def ended(server, name, message):
    """Why a client ends a session where it hears this, or None where it goes on."""
    try:
        server.tell(name, message)
    except Aborted as stop:
        return stop.reason
    return None


def test_the_honest_neighbours_of_a_made_up_client_refuse_and_no_sum_is_left(rings):
    """In place of the last client stands one that nobody is: so a server can try another order."""
    server = Server(about(60, 3), 0)
    entries = [server.tell(name, None).entry for name in server.names][:-1]
    drawn = Secrets.drawn(np.random.default_rng(3).bytes)
    keys = drawn.mask.public, drawn.channel.public, commitment(drawn.seed)
    roster = said.KeyRoster(
        server.terms.context, (*entries, said.PublicKeys("d0000", *keys, b"forged"))
    )
    session = roster.session(*server.terms.place)
    ring = graph_for(server.terms, 60, session)
    near = {server.names[i] for i in ring.neighbours(59).tolist()}
    found = {name: ended(server, name, roster) for name in server.names[:-1]}
    assert {name for name, reason in found.items() if reason is not None} == near
    assert {found[name] for name in near} == {SessionReason.SIGNATURE}

    # However many of them work for the server, more are gone than the ring is made for.
    assert len(near) - server.terms.colluders > server.terms.losses
    alive = np.array([name not in near for name in [*server.names[:-1], "d0000"]])
    delivery = said.Delivery(session, bitmap(alive), b"")
    others = set(server.names[:-1]) - near
    assert {ended(server, name, delivery) for name in others} == {SessionReason.THRESHOLD}


def test_a_client_that_draws_its_keys_again_gives_another_order_and_nobody_can_tell(rings):
    """The cheapest way to try orders, of a server for which one client works: all go on."""
    orders = []
    for seed in (3, 4):
        server = Server(about(60, 3), 0)
        entries = [server.tell(name, None).entry for name in server.names][:-1]
        drawn = Secrets.drawn(np.random.default_rng(seed).bytes)
        keys = drawn.mask.public, drawn.channel.public, commitment(drawn.seed)
        unsigned = said.PublicKeys(server.names[-1], *keys, b"")
        mark = sign(server.names[-1], unsigned.statement(server.terms.context))
        mine = said.PublicKeys(server.names[-1], *keys, mark)
        roster = said.KeyRoster(server.terms.context, (*entries, mine))
        assert {ended(server, name, roster) for name in server.names[:-1]} == {None}
        orders.append(graph_for(server.terms, 60, roster.session(*server.terms.place)).order)
    assert orders[0] != orders[1]
