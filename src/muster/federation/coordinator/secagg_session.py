# SPDX-License-Identifier: Apache-2.0
"""The secure sums of one round, played from what is recorded and from nothing else.

Each group of the cohort has a session of its own. The server that leads and those that follow
feed their sessions the same events in the same order, so all know what each member
was told; the one that leads also writes events down (see `round.secure`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from muster import keys
from muster.errors import NoRoom, PlanError, RunError
from muster.federation.coordinator.round_state import RoundState
from muster.federation.coordinator.secagg_progress import SecAggProgress
from muster.federation.protocol.claims import check_training
from muster.federation.protocol.codec_json import Numbers
from muster.plan import Plan
from muster.plan.secure import session_terms
from muster.secagg import (
    Aborted,
    Await,
    Closed,
    Heard,
    Liar,
    MessageRefused,
    SessionStep,
    SessionTerms,
    Sum,
    Tell,
    server,
)
from muster.secagg.commitments import LEAVES, proof_size
from muster.secagg.messages import Advert, KeyRoster, Quit, SecAggMessage, SessionEnded
from muster.secagg.pieces import SEALED
from muster.security.refusal import Refused as WireRefused
from muster.store.records import OpenWork, SecAggEvent
from muster.types import ClientId

__all__ = ["ADVERT", "QUIT", "SecAggSession", "SecAggSessions"]

QUIT, ADVERT = str(Quit.kind), str(Advert.kind)
CERTIFICATES = "certificates"  # the kind of the event that comes before all others
HEAD = 512  # bytes of a message beside its largest fields
SMALL = 1 << 16  # bytes that any message may have


@dataclass
class SecAggSession:
    """One session: where it stands, who is `live`, who has `spoken` and who is `due` in this step.

    `terms` are what it is about, `found` or `stop` how it ended;
    `fell` are those who were told that it is over for them, and in which step.
    """

    clients: Mapping[str, ClientId]
    terms: SessionTerms
    side: Any
    tell: Callable[[str, SecAggMessage], None]
    refused: Callable[[SessionStep | None, MessageRefused], None]
    at: Callable[[str], None]
    step: SessionStep | None = field(default=None, init=False)
    due: frozenset[str] = field(default=frozenset(), init=False)
    live: set[str] = field(default_factory=set, init=False)
    spoken: set[str] = field(default_factory=set, init=False)
    fell: dict[str, str] = field(default_factory=dict, init=False)
    advertised: int = field(default=0, init=False)
    found: Sum | None = field(default=None, init=False)
    stop: Aborted | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.live = set(self.clients)
        self.take(None)

    @property
    def liars(self) -> tuple[Liar, ...]:
        """The clients that were caught lying in it."""
        ended = self.found or self.stop
        return ended.liars if ended else ()

    @property
    def over(self) -> bool:
        """Return whether it has ended, with a sum or without."""
        return self.found is not None or self.stop is not None

    def take(self, event: Heard | Closed | None) -> None:
        """Play the next event."""
        if self.over:
            return
        speaker = event.name if isinstance(event, Heard) else ""
        try:
            action = self.side.send(event)
            while not isinstance(action, Await):
                if isinstance(action, Tell):
                    self._tell(action)
                else:
                    self.refused(self.step, action)
                    speaker = ""  # it has not spoken
                action = next(self.side)
        except StopIteration as end:
            self.found = end.value
        except Aborted as stop:
            self.stop = stop
        else:
            if speaker:
                self.spoken.add(speaker)
            self.due = action.due
            if action.step is not self.step:
                self.step = action.step
                self.spoken.clear()
                self.at(f"secure: {action.step.value} begins")

    def _tell(self, tell: Tell) -> None:
        self.advertised += isinstance(tell.message, KeyRoster)
        if isinstance(tell.message, SessionEnded):
            self.live.discard(tell.name)
            self.fell.setdefault(tell.name, self.step.value if self.step else "")
        self.tell(tell.name, tell.message)


class SecAggSessions:
    """All of a round's sessions (`each`), and its `session`, which requests see.

    None where the terms cannot be met: `fault` then says why. `number` is that of the newest
    event taken in, `metrics` those that the plan makes public.
    """

    def __init__(
        self,
        plan: Plan,
        round_state: RoundState,
        opened: OpenWork,
        read: Callable[[str], Any],
        *,
        at: Callable[[str], None],
        refused: Callable[[SessionStep | None, MessageRefused], None],
    ) -> None:
        self.plan, self.opened, self._round_state, self._read = plan, opened, round_state, read
        self.number, self.metrics = 0, dict[ClientId, Mapping[str, float]]()
        self._written: tuple[SecAggMessage | None, bytes] = (None, b"")
        names = {member.client: member.name for member in round_state.members.values()}
        strangers = [client for client in opened.cohort if client not in names]
        names |= {client: f"? {client}" for client in strangers}  # a stored member may be odd
        clients = {names[client]: client for client in opened.cohort}
        groups = [tuple(names[client] for client in group) for group in opened.groups]
        near = {name: group for group in groups for name in group}
        self.fault, terms = "", list[SessionTerms]()
        try:
            if strangers:
                raise PlanError(f"nothing is known any more of {strangers}; it must say hello")
            if not groups:
                plan.groups(opened.cohort, keys.key(0))  # nobody was divided: say why
            terms = [_terms(plan, round_state, opened, len(group)) for group in groups]
        except PlanError as error:
            self.fault, groups = str(error), []
        limit = max(map(_longest, terms), default=SMALL)
        self.session = SecAggProgress(opened.round, clients, limit, at, near)
        self.each: list[SecAggSession] = []
        for group, one in zip(groups, terms, strict=True):
            members = {name: clients[name] for name in group}
            side = server(one, members, self._vouched)
            self.each.append(SecAggSession(members, one, side, self._tell, refused, at))
        self._of = {name: group for group in self.each for name in group.clients}

    def of(self, name: str) -> SecAggSession:
        """Return the session of a member."""
        return self._of[name]

    def certificates(self) -> SecAggEvent:
        """Return the event that says by which certificates the members know each other now."""
        members = self._round_state.members
        found = {name: members[name].certificate for name in self.session.clients}
        return SecAggEvent("", CERTIFICATES, json.dumps(found).encode())

    def know(self, word: SecAggEvent) -> None:
        """Go by the certificates that were written down first.

        A member may renew its own, and say hello by either: whoever was told of it and whoever
        judges it must go by the same one, now and after a restart.
        """
        self.session.certificates = json.loads(word.data)

    def feed(self, word: SecAggEvent) -> None:
        """Take the next recorded event in."""
        self.number = word.number
        if word.kind == CERTIFICATES:
            self.know(word)
            return
        if not word.name:
            place, _, step = word.kind.partition(" ")
            self.each[int(place)].take(Closed(SessionStep(step)))
            return
        if word.name not in self._of:
            return  # of nobody who was invited
        if word.kind == ADVERT:
            self.metrics[self.session.clients[word.name]] = self._told(word)
        self._of[word.name].take(Heard(word.name, self.said(word)))

    def said(self, word: SecAggEvent) -> bytes:
        """Return the octets of an event; none where what was stored is gone: that is no message."""
        try:
            return bytes(word.data or self._read(word.blob))
        except NoRoom:
            raise  # that is no fault of what is stored
        except (RunError, TypeError):
            return b""

    def _told(self, word: SecAggEvent) -> Mapping[str, float]:
        """Return the metrics that came with it, or none where those that were stored are odd."""
        try:
            metrics = Numbers().read(word.metrics, "its metrics")
            check_training(metrics, (), self._round_state.facts.claims)
        except WireRefused:
            return {}
        return metrics

    def _vouched(self, name: str, data: bytes, signature: bytes) -> bool:
        certificate = self.session.certificates.get(name, "")
        return self._round_state.facts.vouch(name, certificate, data, signature)

    def _tell(self, name: str, message: SecAggMessage) -> None:
        """Put it where the client finds it; its lease begins."""
        if self._written[0] is not message:
            self._written = message, message.to_bytes()
        client, ended = self.session.clients[name], isinstance(message, SessionEnded)
        self._round_state.tell(self.session, client, self._written[1], ended=ended)


def _terms(plan: Plan, round_state: RoundState, opened: OpenWork, size: int) -> SessionTerms:
    return session_terms(
        plan,
        size,
        study=round_state.facts.study,
        run=round_state.facts.run,
        round=opened.round,
        plan=bytes.fromhex(round_state.facts.fingerprint),
        model=bytes.fromhex(opened.model),
        attempt=round_state.facts.attempt,
    )


def _longest(terms: SessionTerms) -> int:
    """Count the bytes of a client's longest message: its vector, or all that it deals."""
    dealt = (SEALED + LEAVES) * terms.cohort + proof_size(terms.cohort)
    return int(max(SMALL, HEAD + terms.ring.nbytes(terms.size), HEAD + dealt))
