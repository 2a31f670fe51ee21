# SPDX-License-Identifier: Apache-2.0
"""A client's side of one session, as a generator: five messages out, each after what it answers.

Bonawitz et al. 2017, figure 4, with Bell et al. 2020's neighbourhoods. In each step the client
hears a message, checks it, keeps the message together with its own answer (`Keep`), and only then
says the answer (`Say`): a client that dies at any instant and is started again with what it kept
says the same bytes again and never makes a second answer. So nobody, by asking twice or in two
ways, gets both secrets of one client from it.

A message that was heard before is ignored; any other surprise ends the session for this client.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

from muster.secagg import answers, messages
from muster.secagg.agreement import Secrets, commitment, framed
from muster.secagg.answers import end
from muster.secagg.ring import Words
from muster.secagg.session import Aborted, Await, Forget, Keep, Party, Reason, Say, Step, Terms

__all__ = ["Action", "client"]

Action = Keep | Say | Forget | Await
Flow = Generator[Action, messages.Message | bytes | None, Any]


@dataclass
class _Me:
    terms: Terms
    party: Party
    vector: Callable[[], Words]
    entropy: Callable[[int], bytes]
    kept: dict[str, bytes]
    heard: list[messages.Message] = field(default_factory=list)


def client(
    terms: Terms,
    party: Party,
    vector: Callable[[], Words],
    entropy: Callable[[int], bytes],
    kept: Mapping[str, bytes] | None = None,
) -> Flow:
    """One client's session; returns when the server has its sum, or raises `Aborted`.

    `vector` gives the integers `(size,)`, in uint32 or uint64, 0 to `terms.most`, and is called
    once, when they are due; `entropy(n)` gives n bytes fit for keys, such as `os.urandom`. `kept`
    is what an earlier life of the same client in the same session was told to keep.

    >>> import secrets
    >>> terms = Terms("run-1", 1, bytes(32), bytes(32), size=4, most=255, cohort=5)
    >>> party = Party("ann", sign=lambda data: b"", verify=lambda name, data, mark: True)
    >>> side = client(terms, party, lambda: np.zeros(4, "uint32"), secrets.token_bytes)
    >>> [type(next(side)).__name__ for _ in range(3)]
    ['Keep', 'Say', 'Await']
    """
    me = _Me(terms, party, vector, entropy, dict(kept or {}))
    try:
        yield from _session(me)
    except Aborted as stop:
        if not stop.remote:
            yield Say(messages.Quit(stop.reason.name))
        yield Forget()
        if stop.reason is not Reason.DONE:
            raise
    else:
        yield Forget()


def _session(me: _Me) -> Flow:
    terms, party = me.terms, me.party
    secrets, advert = yield from _advertise(me)
    view, own = yield from _turn(
        me, (Step.SHARE, messages.Roster),
        lambda heard: answers.rostered(terms, party, advert, secrets, heard),
        lambda view: answers.shared(view, me.entropy),
    )  # fmt: skip
    (sharing, held), _ = yield from _turn(
        me, (Step.MASK, messages.Delivery),
        lambda heard: answers.delivered(view, own, heard),
        lambda found: (answers.masked(view, found[0], me.vector), b""),
    )  # fmt: skip
    sets, _ = yield from _turn(
        me, (Step.CONSENT, messages.Survivors),
        lambda heard: answers.survived(view, sharing, heard),
        lambda sets: (answers.consented(view, party, sets), b""),
    )  # fmt: skip
    yield from _turn(
        me, (Step.UNMASK, messages.Quorum),
        lambda heard: answers.agreed(view, party, sets, heard),
        lambda _: (answers.revealed(view, held, sets), b""),
    )  # fmt: skip
    yield from _hear(me, Step.OVER, messages.Ended)


def _advertise(me: _Me) -> Flow:
    """Draw the secrets and say their public halves; after a restart, the same again."""
    record = me.kept.get(Step.ADVERTISE.value)
    if record is not None:
        secrets, advert = Secrets.read(record[:96]), messages.Advert.from_bytes(record[96:])
        if advert.context != me.terms.context or advert.entry.name != me.party.name:
            end(Reason.TERMS, "what was kept belongs to another session; start without it")
    else:
        secrets = Secrets.drawn(me.entropy)
        keys = (secrets.mask.public, secrets.channel.public, commitment(secrets.seed))
        unsigned = messages.Entry(me.party.name, *keys, b"")
        signature = me.party.sign(unsigned.statement(me.terms.context))
        advert = messages.Advert(me.terms.context, messages.Entry(me.party.name, *keys, signature))
        yield Keep(Step.ADVERTISE.value, secrets.data + advert.to_bytes())
    if Step.SHARE.value not in me.kept:
        yield Say(advert)
    return secrets, advert


def _turn(
    me: _Me,
    turn: tuple[Step, type[messages.Message]],
    check: Callable[[Any], Any],
    answer: Callable[[Any], tuple[messages.Message, bytes]],
) -> Flow:
    """One step: hear, check, keep, say; kept already, it is only checked and said again."""
    step, kind = turn
    record = me.kept.get(step.value)
    if record is not None:
        first, said, extra = _parts(record)
        me.heard.append(messages.read(first))
        found = check(me.heard[-1])
        if _after(step) not in me.kept:
            yield Say(messages.read(said))
        return found, extra
    message = yield from _hear(me, step, kind)
    found = check(message)
    reply, extra = answer(found)
    yield Keep(step.value, framed(message.to_bytes(), reply.to_bytes(), extra))
    yield Say(reply)
    return found, extra


def _hear(me: _Me, step: Step, kind: type[messages.Message]) -> Flow:
    """The next message that is new; anything but the one that is due ends the session."""
    while True:
        came = yield Await(step)
        try:
            message = messages.read(came) if isinstance(came, bytes) else came
        except messages.Malformed as error:
            end(Reason.MALFORMED, str(error))
        if message is None or message in me.heard:
            continue
        if isinstance(message, messages.Ended) and (
            kind is not messages.Ended or message.reason != "DONE"
        ):
            reason = Reason.__members__.get(message.reason, Reason.STOPPED)
            raise Aborted(reason, f"the server ended the session: {reason.value}", remote=True)
        if not isinstance(message, kind):
            end(
                Reason.ORDER,
                f"a {type(message).__name__} came at step {step.value!r}; only "
                f"{kind.__name__} is due: nothing more is answered in this session",
            )
        me.heard.append(message)
        return message


def _after(step: Step) -> str:
    steps = list(Step)
    return steps[steps.index(step) + 1].value


def _parts(record: bytes) -> list[bytes]:
    parts, at = [], 0
    while at < len(record):
        size = int.from_bytes(record[at : at + 4], "big")
        parts.append(record[at + 4 : at + 4 + size])
        at += 4 + size
    return parts
