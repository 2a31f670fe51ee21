# SPDX-License-Identifier: Apache-2.0
"""Secure sums in one process: both sides of `muster.secagg`, step by step, with a real session.

Keys, masks, shares and seals are those of a network; only identities are not: signatures are
made with one key of this process, for there is nobody here to be told apart. Who is asked for
its vector is trained then, so that memory does not grow with the cohort.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from hashlib import sha256
from typing import Any, NamedTuple

import numpy as np

from muster import keys
from muster.aggregation.sums import add
from muster.errors import PlanError
from muster.plan import Plan
from muster.plan.secure import refused_sum, session_terms
from muster.secagg import (
    Aborted,
    Await,
    Closed,
    Heard,
    Party,
    Say,
    SecAggMessage,
    SessionStep,
    SessionTerms,
    Sum,
    Tell,
    client,
    server,
)
from muster.secagg.agreement import Pairs
from muster.types import Answer, ClientId, Cohort, Failed, Late, Rejected, Reply, Sent
from muster.vectors import leaves

__all__ = ["OpenedSum", "SimulatedSecAgg", "session"]

TALK = tuple(
    step for step in SessionStep if step not in (SessionStep.ANSWER, SessionStep.OVER)
)  # nobody complains
Rows = Iterable[tuple[str, Any]]  # the vector of each client by name, as it is trained


class OpenedSum(NamedTuple):
    """The sum that a session opened, and how many clients' keys it began with."""

    sum: Sum
    advertised: int


def session(
    terms: SessionTerms,
    names: Sequence[str],
    rows: Rows,
    entropy: Callable[[int], bytes],
    lost: Mapping[str, SessionStep],
) -> OpenedSum:
    """Play one session of these clients; `lost[name]` is the first step at which one is silent.

    `rows` are read once, when vectors are due; who is not among them is silent from then on.
    Raises `Aborted` where the sum must not be opened.
    """
    sign = partial(_signed, entropy(32))
    # what many clients would find for themselves is found once: all of them are in this process
    verify = lru_cache(None)(partial(_verified, sign))
    party = partial(Party, verify=verify, agree=Pairs().agree)
    vectors: dict[str, Any] = {}
    sides = {
        name: client(terms, party(name, partial(sign, name)), partial(vectors.pop, name), entropy)
        for name in names
    }
    inbox: dict[str, SecAggMessage | None] = dict.fromkeys(names)
    centre, talking, advertised = server(terms, names, verify), set(names), len(names)
    _serve(centre, None, inbox)
    try:
        for step in TALK:
            spoke: set[str] = set()
            for name, vector in (
                rows if step is SessionStep.MASK else [(name, None) for name in names]
            ):
                if name not in talking or lost.get(name) is step:
                    continue
                vectors[name] = vector
                for message in _said(sides[name], inbox.pop(name)):
                    _serve(centre, Heard(name, message), inbox)
                spoke.add(name)
            talking = spoke
            advertised = len(spoke) if step is SessionStep.ADVERTISE else advertised
            _serve(centre, Closed(step), inbox)
    except StopIteration as end:
        return OpenedSum(end.value, advertised)
    raise AssertionError("a session neither gave a sum nor said why not")


def _signed(mark: bytes, name: str, data: bytes) -> bytes:
    return hmac.digest(mark, name.encode() + b"\0" + data, "sha256")


def _verified(
    sign: Callable[[str, bytes], bytes], name: str, data: bytes, signature: bytes
) -> bool:
    return hmac.compare_digest(sign(name, data), signature)


def _serve(
    centre: Any, event: Heard | Closed | None, inbox: dict[str, SecAggMessage | None]
) -> None:
    """Let the server hear an event; what it tells a client goes into the inbox."""
    effect = centre.send(event)
    while not isinstance(effect, Await):
        if isinstance(effect, Tell):
            inbox[effect.name] = effect.message
        effect = next(centre)


def _said(side: Any, heard: SecAggMessage | None) -> list[SecAggMessage]:
    """Return a client's answers to what it hears."""
    said, action = [], side.send(heard)
    while not isinstance(action, Await):
        if isinstance(action, Say):
            said.append(action.message)
        action = next(side)
    return said


@dataclass(frozen=True)
class SimulatedSecAgg:
    """Secure sums of a simulation: where its keys come from, and who falls silent when.

    `entropy(n)` gives n bytes; the sum does not depend on them. `lost` names, by round, clients
    with the first step at which they are silent: advertise, share, compare, mask, consent or
    unmask.
    """

    entropy: Callable[[int], bytes] = os.urandom
    lost: Mapping[int, Mapping[ClientId, str]] = field(default_factory=dict)

    def answers(
        self,
        plan: Plan,
        round: int,
        cohort: Cohort,
        sent: Sent,
        trained: Callable[[Cohort], Iterator[Answer]],
        gone: Set[ClientId] = frozenset(),
    ) -> Iterator[Answer]:
        """Yield one reply from each group, of its survivors; where there is none, why not.

        `trained` gives single clients' replies, asked for when their vectors are due; those in
        `gone` are not there at all. Groups are drawn from the plan's seed.
        """
        try:
            groups = plan.groups(cohort.clients, keys.key(plan.seed).at("groups", round))
        except PlanError as error:
            yield from (Failed(c, "secure", str(error)) for c in cohort.clients if c not in gone)
            return
        for group in map(Cohort, groups):
            if not gone >= set(group.clients):
                yield from self._group(plan, round, group, sent, trained(group), gone)

    def _group(
        self,
        plan: Plan,
        round: int,
        cohort: Cohort,
        sent: Sent,
        trained: Iterator[Answer],
        gone: Set[ClientId],
    ) -> Iterator[Answer]:
        """Play one session and yield what came of it."""
        terms = session_terms(
            plan,
            len(cohort.clients),
            study="simulation",
            run="simulation",
            round=round,
            plan=_hash(repr(plan)),
            model=_digest(sent),
        )
        present = {f"{i:05}": c for i, c in enumerate(cohort.clients) if c not in gone}
        book = _RoundNotes(plan, terms, {c: name for name, c in present.items()})
        silent = {c: SessionStep(word) for c, word in self.lost.get(round, {}).items()}
        lost = {book.names[c]: step for c, step in silent.items() if c in book.names}
        survivors: tuple[ClientId, ...] = ()
        try:
            opened = session(terms, tuple(present), book.rows(trained), self.entropy, lost)
        except Aborted as stop:
            why = str(stop)
        else:
            survivors = tuple(present[name] for name in opened.sum.survivors)
            yield book.reply(opened, survivors, sent)
            why = ""
        failed = {answer.client for answer in book.failed}
        yield from book.failed
        for one in present.values():
            if one not in failed | set(survivors):
                yield Late(one) if one in silent else Failed(one, "secure", why)


@dataclass
class _RoundNotes:
    """Notes of a round beside its session: names, public metrics, failures."""

    plan: Plan
    terms: SessionTerms
    names: Mapping[ClientId, str]
    failed: list[Failed] = field(default_factory=list)
    public: list[Reply] = field(default_factory=list)

    def rows(self, trained: Iterator[Answer]) -> Iterator[tuple[str, Any]]:
        """Yield each trained client's vector, by the name it has in the session."""
        frame, dtype = self.plan.frame, self.terms.ring.dtype
        assert self.plan.secure is not None
        for answer in trained:
            if isinstance(answer, Failed):
                self.failed.append(answer)
            if isinstance(answer, Reply):
                if self.plan.secure.metrics == "public":
                    self.public.append(replace(answer, payload={}, buffers=None))
                vector = frame.flatten(answer.payload, int(answer.weight))
                yield self.names[answer.clients[0]], vector.astype(dtype)

    def reply(
        self, opened: OpenedSum, survivors: tuple[ClientId, ...], sent: Sent
    ) -> Reply | Rejected:
        """Return the exact sums, as if the survivors' replies had been added, where that can be."""
        assert self.plan.secure is not None
        counted = set(survivors)
        public = [one for one in self.public if one.clients[0] in counted]
        sums, weight = self.plan.frame.restore(opened.sum.total, len(survivors))
        refusal = refused_sum(self.plan, sent, sums, weight, len(survivors))
        if refusal:
            return Rejected(survivors, refusal)
        facts = self.plan.secure.facts(self.terms, opened.advertised, survivors)
        metrics = add(public).metrics if public else {}
        none = np.zeros_like(sent.buffers)
        return Reply(survivors, sums, float(weight), metrics, none, (facts,))


def _hash(text: str) -> bytes:
    return sha256(text.encode()).digest()


def _digest(sent: Sent) -> bytes:
    """Return the hash of everything the cohort received."""
    found = sha256()
    for name, leaf in leaves(sent):
        array = np.ascontiguousarray(leaf)
        found.update(f"{name} {array.dtype} {array.shape} ".encode())
        found.update(array.data)
    return found.digest()
