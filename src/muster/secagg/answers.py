# SPDX-License-Identifier: Apache-2.0
"""Checks and answers of a client in each step: pure functions, no order among them.

The checks are those of Bonawitz et al. 2017, figure 4, and Bell et al. 2020, algorithm 3, made
by the client on what the server says; each failure is an `Aborted` with its reason. Which share
of whom is revealed follows from the one set of survivors that was signed: there is no request
that names a client, so none can name it twice.

Deviations: shares are compared with commitments before anything is masked (`commitments`), so one
step more says who takes part; in a ring a client refuses a story in which more are gone than the
ring was made for; and a client may refuse its peers (`Party.judge`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from muster.errors import PlanError
from muster.secagg import messages
from muster.secagg.agreement import Binding, PrivateKey, Secrets
from muster.secagg.commitments import KINDS, ROWS, deal, root
from muster.secagg.graph import Graph, Odds, graph_of
from muster.secagg.mask import blend
from muster.secagg.messages import Complaint
from muster.secagg.pieces import PIECE, Held, opened, sent
from muster.secagg.ring import Words
from muster.secagg.session import (
    Aborted,
    Party,
    Saw,
    SessionReason,
    SessionStep,
    SessionTerms,
    bitmap,
    members,
)

__all__ = [
    "MISSING",
    "Set",
    "View",
    "accused",
    "admitted",
    "agreed",
    "compared",
    "consented",
    "delivered",
    "end",
    "graph_for",
    "masked",
    "revealed",
    "rostered",
    "shared",
    "survived",
]

Set = NDArray[np.bool_]  # which entries of the roster, (clients,)
MISSING = 65535  # no number of the field: in the place of a share that never came


@dataclass(frozen=True)
class View:
    """The view of a client from the roster on: everybody's keys, its place, its own secrets."""

    entries: tuple[messages.PublicKeys, ...]
    session: bytes
    graph: Graph
    index: int
    terms: SessionTerms
    secrets: Secrets
    masks: dict[int, bytes]  # agreed on with each neighbour, for the mask they share
    channels: dict[int, bytes]  # and with each holder but itself, for shares on their way
    verified: tuple[int, ...]  # whose signatures it has checked, and itself, in order

    @cached_property
    def binding(self) -> Binding:
        """The binding of its derived keys."""
        return Binding(self.session, self.terms.context)

    @cached_property
    def holders(self) -> NDArray[np.int64]:
        """The holders of its secrets, who share theirs with it."""
        return self.graph.holders(self.index)

    @cached_property
    def others(self) -> list[int]:
        """The holders but itself, in order."""
        return [j for j in self.holders.tolist() if j != self.index]

    def names(self, some: Set) -> tuple[str, ...]:
        """Return the names in a set, sorted: its own, and those whose signatures it has checked."""
        return tuple(self.entries[j].name for j in self.verified if some[j])

    def saw(self, step: SessionStep, some: Set) -> Saw:
        """Return what it was told at a step: a set of clients."""
        return Saw(step, self.session, self.names(some), int(some.sum()))


def graph_for(terms: SessionTerms, count: int, session: bytes) -> Graph:
    """Return the graph of `count` clients, which both sides find for themselves.

    Raises `PlanError` where so few hide nobody.
    """
    return graph_of(count, Odds(terms.colluders, terms.losses), session, terms.cohort)


def rostered(
    terms: SessionTerms,
    party: Party,
    advert: messages.Advert,
    secrets: Secrets,
    roster: messages.KeyRoster,
) -> View:
    """Check the keys of those it shares with, before a share of a secret leaves.

    In the complete graph these are all; in a ring, its neighbours, or all for a party that asks for
    the `whole` roster. A server that adds made-up clients to a ring has one more way to try its
    order (see `graph`), and nothing else: that all neighbours are real, and more than x of them
    colluders, is no likelier than without those (there are fewer ways to choose real ones), and
    who stands beside one refuses.
    """
    entries, count = roster.entries, len(roster.entries)
    if roster.context != terms.context:
        end(
            SessionReason.TERMS,
            "the roster is for other terms than this client's plan and model give",
        )
    if not terms.minimum <= count <= terms.cohort:
        end(
            SessionReason.COHORT,
            f"{count} clients take part; {terms.minimum} to {terms.cohort} are required",
        )
    if not roster.ordered:
        end(
            SessionReason.ROSTER,
            "the roster is not sorted, or names a client twice; refuse this server",
        )
    index = roster.places.get(advert.entry.name)
    if index is None or entries[index] != advert.entry:
        end(SessionReason.OWN_KEY, "the own keys are missing from the roster, or were changed")
    if not roster.distinct:
        end(SessionReason.KEYS, "two entries of the roster share a key; refuse this server")
    if roster.odd:
        end(
            SessionReason.KEYS,
            f"a key of {roster.odd[0]!r} is not in its canonical form; refuse it",
        )
    session = roster.session(*terms.place)
    try:
        graph = graph_for(terms, count, session)
    except PlanError as error:
        end(SessionReason.COHORT, str(error))
    near = [(j, entries[j]) for j in graph.neighbours(index).tolist()]
    verified = range(count) if party.whole else sorted([index, *(j for j, _ in near)])
    for j in verified:
        if j == index:  # the very entry that it signed
            continue
        name, statement, signature = roster.signed[j]
        if not party.verify(name, statement, signature):
            end(SessionReason.SIGNATURE, f"the keys of {name!r} are not signed by it for this plan")
    judged(party, tuple(entries[j].name for j in verified))
    # with whom both keys are agreed on, before a share
    masks = {j: _agreed(party, secrets.mask, e, e.mask_key) for j, e in near}
    channels = {j: _agreed(party, secrets.channel, e, e.channel_key) for j, e in near}
    known = tuple(verified)
    return View(entries, session, graph, index, terms, secrets, masks, channels, known)


def judged(party: Party, names: tuple[str, ...]) -> None:
    """Ask whether this client will be in a sum with these."""
    refusal = party.judge(names)
    if refusal:
        end(SessionReason.PEERS, refusal)


def shared(
    view: View, party: Party, entropy: Callable[[int], bytes]
) -> tuple[messages.Shares, bytes]:
    """Share both secrets, sealed for each holder; all shares as they are go into what is kept."""
    secrets = (view.secrets.mask.data, view.secrets.seed)
    dealt = deal(view.binding, view.index, secrets, view.holders, view.graph.threshold, entropy)
    sealed = b"".join(
        view.binding.seal(view.channels[j], view.index, j, row.tobytes())
        for j, row in zip(view.holders.tolist(), dealt.shares, strict=True)
        if j != view.index
    )
    statement = view.binding.dealing(root(dealt.leaves), dealt.proof)
    message = messages.Shares(
        view.session, sealed, dealt.leaves, dealt.proof, party.sign(statement)
    )
    return message, dealt.shares.tobytes()


def delivered(
    view: View, own: bytes, delivery: messages.Delivery
) -> tuple[Set, Held, tuple[tuple[int, bytes], ...]]:
    """Return the sharers, the shares held of them `(holders, 2, 22)`, and those that do not fit.

    A share that cannot be unsealed, is not the one behind its leaf or does not lie on its dealer's
    polynomial is not held; its dealer is named, with the piece it came in.
    """
    _same(view, delivery.session)
    sharing = _set(view, delivery.alive, None)
    others = [j for j in view.others if sharing[j]]
    if len(delivery.pieces) != PIECE * len(others):
        end(
            SessionReason.MALFORMED,
            f"{len(delivery.pieces)} bytes of shares of {len(others)} clients",
        )
    held = np.full((len(view.holders), KINDS, ROWS), MISSING, "<u2")
    mine = np.frombuffer(own, "<u2").reshape(-1, KINDS, ROWS)
    held[view.holders == view.index] = mine[view.holders == view.index]
    wrong: list[tuple[int, bytes]] = []
    places = {j: place for place, j in enumerate(view.holders.tolist())}
    for i, dealer in enumerate(others):
        piece = delivery.pieces[PIECE * i : PIECE * (i + 1)]
        share = opened(view.binding, view.channels[dealer], (dealer, view.index), piece)
        if share is None:
            wrong.append((dealer, piece))
        else:
            held[places[dealer]] = share
    return sharing, held, tuple(wrong)


def compared(view: View, party: Party, wrong: tuple[tuple[int, bytes], ...]) -> messages.Compared:
    """Sign my complaints, each together with the very piece that I was given."""
    complaints = []
    for dealer, piece in wrong:
        statement = view.binding.complaint(dealer, view.index, sha256(piece).digest())
        complaints.append(Complaint(dealer, view.index, party.sign(statement)))
    return messages.Compared(view.session, tuple(complaints))


def accused(
    view: View, party: Party, said: messages.Shares, own: bytes, complaints: messages.Complaints
) -> messages.OpenedShares:
    """Open the shares of those who complain about exactly what I sent them.

    Whoever complains has that share already or lies; a server that changed a piece on its way, or
    made a complaint up, gets nothing. An honest client's shares fit, so only colluders complain
    about them: more complaints than the terms allow colluders are refused.
    """
    _same(view, complaints.session)
    holders = [one.holder for one in complaints.complaints]
    known = set(view.others)
    if not holders or holders != sorted(set(holders)) or not known >= set(holders):
        end(SessionReason.COMPLAINTS, "complaints of nobody, twice of one, or of no holder of mine")
    if len(holders) > view.terms.colluders:
        end(
            SessionReason.COMPLAINTS,
            f"{len(holders)} holders complain about shares that fit, and at most "
            f"{view.terms.colluders} may lie; nothing is opened",
        )
    shares = np.frombuffer(own, "<u2").reshape(-1, KINDS, ROWS)
    places = {j: place for place, j in enumerate(view.holders.tolist())}
    answer = []
    for one in complaints.complaints:
        place = places[one.holder]
        piece = sent(said, view.index, view.holders, place, view.graph.threshold)
        statement = view.binding.complaint(view.index, one.holder, sha256(piece).digest())
        name = view.entries[one.holder].name
        if one.dealer != view.index or not party.verify(name, statement, one.signature):
            end(
                SessionReason.COMPLAINTS,
                f"{name!r} did not complain about what this client sent it; nothing is opened",
            )
        answer.append(shares[place].tobytes())
    return messages.OpenedShares(view.session, b"".join(answer))


def admitted(view: View, party: Party, sharing: Set, said: messages.Members) -> Set:
    """Return the members of the sum: those who shared, and whom I will be in a sum with."""
    _same(view, said.session)
    found = _set(view, said.alive, sharing)
    judged(party, view.names(found))
    return found


def masked(view: View, sharing: Set, vector: Callable[[], Words]) -> messages.MaskedVector:
    """Return the vector + PRG(b_i) + masks shared with members before - masks with those after."""
    ring, i = view.terms.ring, view.index
    given = np.asarray(vector())
    fits = given.shape == (view.terms.size,) and given.dtype.kind == "u"
    if not fits or int(given.max()) > view.terms.most:
        end(
            SessionReason.INPUT,
            f"a vector of {given.dtype} and shape {given.shape}; {view.terms.size} unsigned "
            f"integers of at most {view.terms.most} are required",
        )
    total = given.astype(ring.dtype)
    plus = [view.binding.own(view.secrets.seed)]
    minus: list[bytes] = []
    for j, secret in view.masks.items():
        if sharing[j]:
            (plus if j < i else minus).append(view.binding.mask(secret, i, j))
    blend(total, plus, minus)
    ring.reduce(total)
    return messages.MaskedVector(view.session, ring.pack(total))


def survived(
    view: View, party: Party, sharing: Set, survivors: messages.Survivors
) -> tuple[Set, Set]:
    """Return the members, and those of them who survived."""
    _same(view, survivors.session)
    found = _set(view, survivors.alive, sharing)
    judged(party, view.names(found))
    return sharing, found


def consented(view: View, party: Party, sets: tuple[Set, Set]) -> messages.Consent:
    """Sign both sets."""
    return messages.Consent(view.session, party.sign(_statement(view, sets)))


def agreed(view: View, party: Party, sets: tuple[Set, Set], quorum: messages.Quorum) -> None:
    """Check that at least t holders of this client's secrets signed the very sets it signed."""
    _same(view, quorum.session)
    signers = _set(view, quorum.alive, sets[1])
    near = view.holders[signers[view.holders]].tolist()
    if len(near) != len(quorum.signatures):
        end(SessionReason.MALFORMED, f"{len(quorum.signatures)} signatures of {len(near)} clients")
    statement = _statement(view, sets)
    valid = sum(
        party.verify(view.entries[j].name, statement, signature)
        for j, signature in zip(near, quorum.signatures, strict=True)
    )
    if valid < view.graph.threshold:
        end(
            SessionReason.QUORUM,
            f"{valid} valid signatures on the survivors; {view.graph.threshold} are required",
        )


def revealed(view: View, held: Held, sets: tuple[Set, Set]) -> messages.Revealed:
    """Open one share for each member: of its seed if it survived, of its mask key if not."""
    sharing, alive = sets
    given = np.flatnonzero(sharing[view.holders])
    shares = held[given, alive[view.holders[given]].astype(np.int64)]
    return messages.Revealed(view.session, shares.tobytes())


def _set(view: View, data: bytes, before: Set | None) -> Set:
    """Check a set of clients: inside the one before, with me, large enough, also around me."""
    found = members(data, view.graph.count)
    if (before is not None and (found & ~before).any()) or not found[view.index]:
        end(SessionReason.SURVIVORS, "a set that is not inside the one before it, or leaves me out")
    if found.sum() < view.terms.minimum:
        end(
            SessionReason.COHORT,
            f"{found.sum()} clients are left; {view.terms.minimum} are required",
        )
    least = view.graph.count - view.terms.losses
    if view.graph.order and found.sum() < least:
        end(
            SessionReason.THRESHOLD,
            f"{found.sum()} clients are left, and the ring hides each of them only among "
            f"{least} or more: invite more clients or bear more dropouts",
        )
    near = int(found[view.holders].sum())
    if near < view.graph.threshold:
        end(
            SessionReason.THRESHOLD,
            f"{near} holders of this client's secrets are left; {view.graph.threshold} are "
            f"required: invite more clients or bear fewer dropouts",
        )
    return found


def _same(view: View, session: bytes) -> None:
    if session != view.session:
        end(
            SessionReason.SESSION,
            "a message of another session came; nothing more is answered in this",
        )


def _agreed(party: Party, private: PrivateKey, entry: messages.PublicKeys, public: bytes) -> bytes:
    try:
        return party.agree(private, public)
    except ValueError:
        end(SessionReason.KEYS, f"a key of {entry.name!r} is a point that hides nothing; refuse it")


def _statement(view: View, sets: tuple[Set, Set]) -> bytes:
    return view.binding.consent(bitmap(sets[0]), bitmap(sets[1]))


def end(reason: SessionReason, message: str) -> NoReturn:
    """End the session for this side."""
    raise Aborted(reason, message)
