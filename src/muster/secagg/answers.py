# SPDX-License-Identifier: Apache-2.0
"""What a client checks in each step and what it answers: pure functions, no order among them.

The checks are those of Bonawitz et al. 2017, figure 4, and Bell et al. 2020, algorithm 3, made
by the client on what the server says; each failure is an `Aborted` with its reason. Which share
of whom is revealed follows from the one set of survivors that was signed: there is no request
that names a client, so none can name it twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from muster.secagg import messages
from muster.secagg.agreement import Binding, Private, Secrets
from muster.secagg.graph import Graph, Odds, graph_of
from muster.secagg.mask import blend
from muster.secagg.ring import Words
from muster.secagg.session import Aborted, Party, Reason, Terms, bitmap, members
from muster.secagg.shamir import LIMBS, cut, split

__all__ = [
    "Held",
    "MISSING",
    "SEALED",
    "SHARE",
    "Set",
    "View",
    "agreed",
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
Held = NDArray[np.uint16]  # shares of others' mask keys and seeds, (holders, 2, 18)
MISSING = 65535  # no number of the field: in the place of a share that never came
SHARE = 2 * LIMBS  # bytes
SEALED = 2 * SHARE + 16


@dataclass(frozen=True)
class View:
    """What a client knows from the roster on: everybody's keys, its place, its own secrets."""

    entries: tuple[messages.Entry, ...]
    session: bytes
    graph: Graph
    index: int
    terms: Terms
    secrets: Secrets
    masks: dict[int, bytes]  # agreed on with each neighbour, for the mask they share
    channels: dict[int, bytes]  # and with each holder but itself, for shares on their way

    @cached_property
    def binding(self) -> Binding:
        """What its derived keys are bound to."""
        return Binding(self.session, self.terms.context)

    @cached_property
    def holders(self) -> NDArray[np.int64]:
        """Who holds its secrets, and whose secrets it holds."""
        return self.graph.holders(self.index)


def graph_for(terms: Terms, count: int, session: bytes) -> Graph:
    """The graph of `count` clients, which both sides find for themselves."""
    odds = Odds(terms.corrupt, terms.dropout, terms.malicious, terms.security)
    return graph_of(count, odds, session)


def rostered(
    terms: Terms, party: Party, advert: messages.Advert, secrets: Secrets, roster: messages.Roster
) -> View:
    """The checks on everybody's keys, before a share of a secret leaves."""
    entries, count = roster.entries, len(roster.entries)
    if roster.context != terms.context:
        end(Reason.TERMS, "the roster is for other terms than this client's plan and model give")
    if not terms.minimum <= count <= terms.cohort:
        end(
            Reason.COHORT,
            f"{count} clients take part; {terms.minimum} to {terms.cohort} are required",
        )
    if not roster.ordered:
        end(Reason.ROSTER, "the roster is not sorted, or names a client twice; refuse this server")
    index = roster.places.get(advert.entry.name)
    if index is None or entries[index] != advert.entry:
        end(Reason.OWN_KEY, "the own keys are missing from the roster, or were changed")
    if not roster.distinct:
        end(Reason.KEYS, "two entries of the roster share a key; refuse this server")
    for name, statement, signature in roster.signed:
        if not party.verify(name, statement, signature):
            end(Reason.SIGNATURE, f"the keys of {name!r} are not signed by it for this plan")
    session = roster.session(terms.run, terms.round)
    graph = graph_for(terms, count, session)
    # with whom both keys are agreed on, before a share
    near = [(j, entries[j]) for j in graph.neighbours(index).tolist()]
    masks = {j: _agreed(party, secrets.mask, e, e.mask_key) for j, e in near}
    channels = {j: _agreed(party, secrets.channel, e, e.channel_key) for j, e in near}
    return View(entries, session, graph, index, terms, secrets, masks, channels)


def shared(view: View, entropy: Callable[[int], bytes]) -> tuple[messages.Shares, bytes]:
    """Shares of both secrets, sealed for each holder; the own, if any, goes into what is kept."""
    limbs = cut([view.secrets.mask.data, view.secrets.seed]).reshape(-1)
    shares = split(limbs, view.holders + 1, view.graph.threshold, entropy)
    rows = shares.T.astype("<u2")
    sealed, own = [], b""
    for j, row in zip(view.holders.tolist(), rows, strict=True):
        if j == view.index:
            own = row.tobytes()
        else:
            sealed.append(view.binding.seal(view.channels[j], view.index, j, row.tobytes()))
    return messages.Shares(view.session, b"".join(sealed)), own


def delivered(view: View, own: bytes, delivery: messages.Delivery) -> tuple[Set, Held]:
    """Who shared, and the shares held of them `(holders, 2, 18)`.

    What cannot be unsealed is as if it had not come: one bad sender must not end the session,
    and the other holders have shares of the same secrets.
    """
    _same(view, delivery.session)
    sharing = _set(view, delivery.alive, None)
    others = np.flatnonzero(sharing[view.holders] & (view.holders != view.index))
    if len(delivery.sealed) != SEALED * len(others):
        end(Reason.MALFORMED, f"{len(delivery.sealed)} bytes of shares of {len(others)} clients")
    held = np.full((len(view.holders), 2, LIMBS), MISSING, "<u2")
    if own:
        held[view.holders == view.index] = np.frombuffer(own, "<u2").reshape(2, LIMBS)
    senders = view.holders[others].tolist()
    for i, (place, j) in enumerate(zip(others.tolist(), senders, strict=True)):
        sealed = delivery.sealed[SEALED * i : SEALED * (i + 1)]
        opened = view.binding.unseal(view.channels[j], j, view.index, sealed)
        if opened is not None:
            held[place] = np.frombuffer(opened, "<u2").reshape(2, LIMBS)
    return sharing, held


def masked(view: View, sharing: Set, vector: Callable[[], Words]) -> messages.Masked:
    """The vector + PRG(b_i) + masks shared with clients before - masks with those after."""
    ring, i = view.terms.ring, view.index
    given = np.asarray(vector())
    fits = given.shape == (view.terms.size,) and given.dtype.kind == "u"
    if not fits or int(given.max()) > view.terms.most:
        end(
            Reason.INPUT,
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
    return messages.Masked(view.session, ring.pack(total))


def survived(view: View, sharing: Set, survivors: messages.Survivors) -> tuple[Set, Set]:
    """Who shared, and who of them survived."""
    _same(view, survivors.session)
    return sharing, _set(view, survivors.alive, sharing)


def consented(view: View, party: Party, sets: tuple[Set, Set]) -> messages.Consent:
    """My signature under both sets."""
    return messages.Consent(view.session, party.sign(_statement(view, sets)))


def agreed(view: View, party: Party, sets: tuple[Set, Set], quorum: messages.Quorum) -> None:
    """At least t holders of this client's secrets signed the very sets it signed."""
    _same(view, quorum.session)
    signers = _set(view, quorum.alive, sets[1])
    near = view.holders[signers[view.holders]].tolist()
    if len(near) != len(quorum.signatures):
        end(Reason.MALFORMED, f"{len(quorum.signatures)} signatures of {len(near)} clients")
    statement = _statement(view, sets)
    valid = sum(
        party.verify(view.entries[j].name, statement, signature)
        for j, signature in zip(near, quorum.signatures, strict=True)
    )
    if valid < view.graph.threshold:
        end(
            Reason.QUORUM,
            f"{valid} valid signatures on the survivors; {view.graph.threshold} are required",
        )


def revealed(view: View, held: Held, sets: tuple[Set, Set]) -> messages.Revealed:
    """For each client one share: of its seed if it survived, of its mask key if not."""
    sharing, alive = sets
    given = np.flatnonzero(sharing[view.holders])
    shares = held[given, alive[view.holders[given]].astype(np.int64)]
    return messages.Revealed(view.session, shares.tobytes())


def _set(view: View, data: bytes, before: Set | None) -> Set:
    """A set of clients, checked: inside the one before, with me, large enough, also around me."""
    found = members(data, view.graph.count)
    if (before is not None and (found & ~before).any()) or not found[view.index]:
        end(Reason.SURVIVORS, "a set that is not inside the one before it, or leaves me out")
    if found.sum() < view.terms.minimum:
        end(Reason.COHORT, f"{found.sum()} clients are left; {view.terms.minimum} are required")
    near = int(found[view.holders].sum())
    if near < view.graph.threshold:
        end(
            Reason.THRESHOLD,
            f"{near} holders of this client's secrets are left; {view.graph.threshold} are "
            f"required: invite more clients or bear fewer dropouts",
        )
    return found


def _same(view: View, session: bytes) -> None:
    if session != view.session:
        end(Reason.SESSION, "a message of another session came; nothing more is answered in this")


def _agreed(party: Party, private: Private, entry: messages.Entry, public: bytes) -> bytes:
    try:
        return party.agree(private, public)
    except ValueError:
        end(Reason.KEYS, f"a key of {entry.name!r} is a point that hides nothing; refuse it")


def _statement(view: View, sets: tuple[Set, Set]) -> bytes:
    return view.binding.consent(bitmap(sets[0]), bitmap(sets[1]))


def end(reason: Reason, message: str) -> NoReturn:
    """End the session for this side."""
    raise Aborted(reason, message)
