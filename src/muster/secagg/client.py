# SPDX-License-Identifier: Apache-2.0
"""A client's side of one session, as a generator: it says one message after each that it hears.

Bonawitz et al. 2017, figure 4, with Bell et al. 2020's neighbourhoods, and a step in which shares
are compared with their commitments. In each step the client hears a message, checks it, keeps the
message together with its own answer (`Persist`), and only then says the answer (`Say`): a client
that dies at any instant and is started again with what it kept says the same bytes again and never
makes a second answer. So nobody, by asking twice or in two ways, gets both secrets of one client
from it.

A message that was heard before is ignored; any other surprise ends the session for this client.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from muster.secagg import answers, messages
from muster.secagg.agreement import Secrets, commitment, framed
from muster.secagg.answers import Set, View, end
from muster.secagg.messages import SecAggMessage
from muster.secagg.ring import Words
from muster.secagg.session import (
    Aborted,
    Await,
    Forget,
    Party,
    Persist,
    Saw,
    Say,
    SessionReason,
    SessionStep,
    SessionTerms,
)

__all__ = ["Action", "client"]

Action = Persist | Say | Saw | Forget | Await
Flow = Generator[Action, SecAggMessage | bytes | None, Any]


@dataclass
class _Me:
    terms: SessionTerms
    party: Party
    vector: Callable[[], Words]
    entropy: Callable[[int], bytes]
    kept: dict[str, bytes]
    heard: list[SecAggMessage] = field(default_factory=list)

    def last(self, step: SessionStep) -> bool:
        """Return whether nothing was kept after this step: its answer may not have been heard."""
        steps = list(SessionStep)
        return not any(later.value in self.kept for later in steps[steps.index(step) + 1 :])


def client(
    terms: SessionTerms,
    party: Party,
    vector: Callable[[], Words],
    entropy: Callable[[int], bytes],
    kept: Mapping[str, bytes] | None = None,
) -> Flow:
    """Run one client's session; returns when the server has its sum, or raises `Aborted`.

    `vector` gives the integers `(size,)`, in uint32 or uint64, 0 to `terms.most`, and is called
    once, when they are due; `entropy(n)` gives n bytes fit for keys, such as `os.urandom`. `kept`
    is what an earlier life of the same client in the same session was told to keep.

    >>> import secrets
    >>> terms = SessionTerms("s", "run-1", 1, bytes(32), bytes(32), size=4, most=255, cohort=5)
    >>> party = Party("ann", sign=lambda data: b"", verify=lambda name, data, mark: True)
    >>> side = client(terms, party, lambda: np.zeros(4, "uint32"), secrets.token_bytes)
    >>> [type(next(side)).__name__ for _ in range(3)]
    ['Persist', 'Say', 'Await']
    """
    me = _Me(terms, party, vector, entropy, dict(kept or {}))
    try:
        yield from _session(me)
    except Aborted as stop:
        if not stop.remote:
            yield Say(messages.Quit(stop.reason.name))
        yield Forget(stop.reason, str(stop))
        if stop.reason is not SessionReason.DONE:
            raise
    else:
        yield Forget()


def _session(me: _Me) -> Flow:
    party = me.party
    secrets, advert = yield from _advertise(me)
    view, said, own = yield from _share(me, secrets, advert)
    sharing, held = yield from _compare(me, view, own)
    members = yield from _mask(me, view, (said, own), sharing)
    sets = yield from _consent(me, view, members)

    yield from _turn(
        me,
        (SessionStep.UNMASK, messages.Quorum),
        lambda heard: answers.agreed(view, party, sets, heard),
        lambda _: (answers.revealed(view, held, sets), b""),
    )
    yield from _hear(me, SessionStep.OVER, messages.SessionEnded)


def _advertise(me: _Me) -> Flow:
    """Draw the secrets and say their public halves; after a restart, the same again."""
    record = me.kept.get(SessionStep.ADVERTISE.value)
    if record is not None:
        secrets, advert = Secrets.read(record[:96]), messages.Advert.from_bytes(record[96:])
        if advert.context != me.terms.context or advert.entry.name != me.party.name:
            end(SessionReason.TERMS, "what was kept belongs to another session; start without it")
    else:
        secrets = Secrets.drawn(me.entropy)
        keys = (secrets.mask.public, secrets.channel.public, commitment(secrets.seed))
        unsigned = messages.PublicKeys(me.party.name, *keys, b"")
        signature = me.party.sign(unsigned.statement(me.terms.context))
        advert = messages.Advert(
            me.terms.context, messages.PublicKeys(me.party.name, *keys, signature)
        )
        yield Persist(SessionStep.ADVERTISE.value, secrets.data + advert.to_bytes())
    if me.last(SessionStep.ADVERTISE):
        yield Say(advert)
    return secrets, advert


def _share(me: _Me, secrets: Secrets, advert: messages.Advert) -> Flow:
    """Deal; return the view of the session, my shares for my holders as said, and as they are."""
    terms, party = me.terms, me.party
    view, said, own = yield from _turn(
        me,
        (SessionStep.SHARE, messages.KeyRoster),
        lambda heard: answers.rostered(terms, party, advert, secrets, heard),
        lambda view: answers.shared(view, party, me.entropy),
        lambda view: Saw(
            SessionStep.SHARE, view.session, view.names(np.ones(view.graph.count, np.bool_))
        ),
    )
    return view, said, own


def _compare(me: _Me, view: View, own: bytes) -> Flow:
    """Compare; return who shared, and the shares held of them that fit."""
    (sharing, held, _), _, _ = yield from _turn(
        me,
        (SessionStep.COMPARE, messages.Delivery),
        lambda heard: answers.delivered(view, own, heard),
        lambda found: (answers.compared(view, me.party, found[2]), b""),
    )
    return sharing, held


def _mask(me: _Me, view: View, mine: tuple[messages.Shares, bytes], sharing: Set) -> Flow:
    """Return the members of the sum, after an answer to any who complained about me."""
    party = me.party
    due: tuple[type[SecAggMessage], ...] = (messages.Members, messages.Complaints)
    first: SecAggMessage | None = None
    if SessionStep.ANSWER.value not in me.kept and SessionStep.MASK.value not in me.kept:
        first = yield from _hear(me, SessionStep.MASK, *due)
    if SessionStep.ANSWER.value in me.kept or isinstance(first, messages.Complaints):
        yield from _turn(
            me,
            (SessionStep.ANSWER, messages.Complaints),
            lambda heard: heard,
            lambda heard: (answers.accused(view, party, *mine, heard), b""),
            first=first,
        )
        first = None
    members, _, _ = yield from _turn(
        me,
        (SessionStep.MASK, messages.Members),
        lambda heard: answers.admitted(view, party, sharing, heard),
        lambda found: (answers.masked(view, found, me.vector), b""),
        lambda found: Saw(SessionStep.MASK, view.session, view.names(found)),
        first,
    )
    return members


def _consent(me: _Me, view: View, members: Set) -> Flow:
    """Consent, by my signature; return the members and the survivors."""
    sets, _, _ = yield from _turn(
        me,
        (SessionStep.CONSENT, messages.Survivors),
        lambda heard: answers.survived(view, me.party, members, heard),
        lambda sets: (answers.consented(view, me.party, sets), b""),
        lambda sets: Saw(SessionStep.CONSENT, view.session, view.names(sets[1])),
    )
    return sets


def _turn(
    me: _Me,
    turn: tuple[SessionStep, type[SecAggMessage]],
    check: Callable[[Any], Any],
    answer: Callable[[Any], tuple[SecAggMessage, bytes]],
    seen: Callable[[Any], Saw] | None = None,
    first: SecAggMessage | None = None,
) -> Flow:
    """Take one step: hear (or take what was heard), check, show, keep, say.

    Kept already, it is checked and shown, and said again where nothing was kept after it. Returns
    what the check found, what was said, and what else was kept.
    """
    step, kind = turn
    record = me.kept.get(step.value)
    if record is not None:
        heard, said, extra = _parts(record)
        me.heard.append(messages.read(heard))
        found, reply = check(me.heard[-1]), messages.read(said)
        if seen is not None:
            yield seen(found)
        if me.last(step):
            yield Say(reply)
        return found, reply, extra
    message = first if first is not None else (yield from _hear(me, step, kind))
    found = check(message)
    if seen is not None:
        yield seen(found)
    reply, extra = answer(found)
    yield Persist(step.value, framed(message.to_bytes(), reply.to_bytes(), extra))
    yield Say(reply)
    return found, reply, extra


def _hear(me: _Me, step: SessionStep, *kinds: type[SecAggMessage]) -> Flow:
    """Hear the next message that is new; anything but what is due ends the session."""
    while True:
        came = yield Await(step)
        try:
            message = messages.read(came) if isinstance(came, bytes) else came
        except messages.Malformed as error:
            end(SessionReason.MALFORMED, str(error))
        if message is None or message in me.heard:
            continue
        if isinstance(message, messages.SessionEnded) and (
            messages.SessionEnded not in kinds or message.reason != "DONE"
        ):
            reason = SessionReason.__members__.get(message.reason, SessionReason.STOPPED)
            if reason is SessionReason.DONE and step is not SessionStep.UNMASK:
                reason = (
                    SessionReason.STOPPED
                )  # no sum holds this client's vector, or not by its consent
            raise Aborted(reason, f"the server ended the session: {reason.value}", remote=True)
        if not isinstance(message, kinds):
            end(
                SessionReason.ORDER,
                f"a {type(message).__name__} came at step {step.value!r}; only "
                f"{' or '.join(kind.__name__ for kind in kinds)} is due: nothing more is answered "
                f"in this session",
            )
        me.heard.append(message)
        return message


def _parts(record: bytes) -> list[bytes]:
    parts, at = [], 0
    while at < len(record):
        size = int.from_bytes(record[at : at + 4], "big")
        parts.append(record[at + 4 : at + 4 + size])
        at += 4 + size
    return parts
