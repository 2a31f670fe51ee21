# SPDX-License-Identifier: Apache-2.0
"""Members of a secure sum who lie: honest clients some of whose answers are others, as is drawn."""

from dataclasses import dataclass, field, replace

import numpy as np

from muster.secagg import answers
from muster.secagg.answers import MISSING
from muster.secagg.commitments import KINDS, ROWS, SHARE, deal, leaf, root
from muster.secagg.messages import Complaint, OpenedShares, Quit, Shares
from muster.secagg.pieces import PIECE, SEALED
from muster.secagg.shamir import PRIME

LIED = ("shared", "delivered", "compared", "accused", "consented", "revealed")
HONEST = {name: getattr(answers, name) for name in LIED}
DEALT = ("seal", "leaf", "other", "number", "degree", "proof", "key", "seed", "root", "short")


@dataclass
class Liars:
    """Some members of a session, and their lies: each is named like the answer in whose place."""

    names: set
    draws: np.random.Generator
    silent: set = field(default_factory=set)
    pieces: dict = field(default_factory=dict)  # by holder: what it was given, by dealer

    def patch(self, monkeypatch):
        """Let them answer by their lies."""

        def either(name):
            def answer(view, *given):
                liar = view.entries[view.index].name in self.names
                return (getattr(self, name) if liar else HONEST[name])(view, *given)

            return answer

        for name in LIED:
            monkeypatch.setattr(answers, name, either(name))

    def up(self, name, message):
        """A liar may say nothing, leave, or go on after it left."""
        if name not in self.names or self.draws.random() > 0.03:
            return [message]
        self.silent.add(name)
        return [[], [Quit("STOPPED")], [Quit("STOPPED"), message]][self.draws.integers(3)]

    def one_in(self, count):
        return not self.draws.integers(count)

    def some(self, count):
        """Some of so many, often none or all."""
        share = self.draws.choice([0, 0.2, 0.5, 1])
        return np.flatnonzero(self.draws.random(count) < share)

    def shared(self, view, party, entropy):
        if self.one_in(2):
            return HONEST["shared"](view, party, entropy)
        kind, binding, holders = str(self.draws.choice(DEALT)), view.binding, view.holders
        secrets = [view.secrets.mask.data, view.secrets.seed]
        if kind in ("key", "seed"):
            secrets[kind == "seed"] = self.draws.bytes(32)
        threshold, more = view.graph.threshold, kind == "degree"
        made = deal(binding, view.index, secrets, holders, threshold + more, entropy)
        shares, leaves = made.shares.copy(), made.leaves
        proof = np.frombuffer(made.proof, "<u2")[: len(made.proof) // 2 - 8 * more].copy()
        if kind == "proof":
            proof[self.draws.integers(len(proof))] = self.draws.integers(PRIME)
        some = self.some(len(holders))
        if kind == "number":
            shares[some, :, 5] = PRIME
        if kind in ("leaf", "other"):
            shares[some, self.draws.integers(KINDS), 5] ^= 1
        if kind in ("number", "other"):  # the leaf fits what is no share of this polynomial
            leaves = b"".join(
                leaf(binding, view.index, int(j), k, shares[i, k].astype("<u2").tobytes())
                for i, j in enumerate(holders)
                for k in range(KINDS)
            )
        sealed = b"".join(
            bytes(SEALED)
            if kind == "seal" and i in some
            else binding.seal(view.channels[j], view.index, j, shares[i].astype("<u2").tobytes())
            for i, j in enumerate(holders.tolist())
            if j != view.index
        )
        over = bytes(32) if kind == "root" else root(leaves)
        mark = party.sign(binding.dealing(over, proof.tobytes()))
        said = Shares(view.session, sealed[kind == "short" :], leaves, proof.tobytes(), mark)
        own = made.shares if self.one_in(2) else shares
        return said, own.astype("<u2").tobytes()

    def delivered(self, view, own, delivery):
        found = HONEST["delivered"](view, own, delivery)
        others = [j for j in view.others if found[0][j]]
        self.pieces[view.index] = tuple(
            (j, delivery.pieces[PIECE * i : PIECE * (i + 1)]) for i, j in enumerate(others)
        )
        return found

    def compared(self, view, party, wrong):
        given = self.pieces[view.index]
        how = self.draws.integers(4)
        if how == 0:  # about any, whatever they dealt
            wrong = tuple(given[i] for i in self.some(len(given)))
        if how == 1:
            wrong = tuple(given[: self.draws.integers(4)])
        said = HONEST["compared"](view, party, wrong)
        if said.complaints and self.one_in(8):
            first = replace(said.complaints[0], holder=said.complaints[0].dealer)
            return replace(said, complaints=(first, *said.complaints[1:]))
        if self.one_in(12):
            return replace(said, complaints=(*said.complaints, Complaint(view.index, 0, b"x")))
        return said

    def accused(self, view, party, said, own, complaints):
        places = {j: place for place, j in enumerate(view.holders.tolist())}
        size = KINDS * SHARE
        rows = [own[size * places[one.holder] :][:size] for one in complaints.complaints]
        how = self.draws.integers(5)
        data = bytes(size * len(rows)) if how == 0 else b"".join(rows)
        return OpenedShares(view.session, data[:-2] if how == 1 else data)

    def consented(self, view, party, sets):
        said = HONEST["consented"](view, party, sets)
        return replace(said, signature=b"x") if self.one_in(12) else said

    def revealed(self, view, held, sets):
        said = HONEST["revealed"](view, held, sets)
        rows = np.frombuffer(said.shares, "<u2").reshape(-1, ROWS).copy()
        some, how = self.some(len(rows)), self.draws.integers(4)
        if how == 0:
            rows[some] = self.draws.choice([MISSING, PRIME, 0])
        if how == 1:
            rows[some, self.draws.integers(ROWS)] ^= 1
        return replace(said, shares=rows[int(self.one_in(20)) :].tobytes())
