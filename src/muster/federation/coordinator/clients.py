# SPDX-License-Identifier: Apache-2.0
"""Network: the Clients seam over the sites of a federation.

`play` calls it in the engine's thread; it opens what is asked, waits on the round's state until
that is closed, and sums the updates from the disk, in client order. A server that comes back finds
the round that was open, and goes on with it: the same roster, so the same cohort, and the updates
that were acknowledged.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from threading import Event
from typing import Any

import numpy as np

from muster import keys
from muster.errors import PlanError, RunError
from muster.federation.coordinator.commands import BeginWork, ClosePiece, Command, EndLeases
from muster.federation.coordinator.decide import Decision
from muster.federation.coordinator.lifecycle import Call, closes, late, missing, next_event
from muster.federation.coordinator.round_state import RoundState
from muster.federation.coordinator.secagg import SecAggCoordinator
from muster.federation.coordinator.updates import honest, updates
from muster.federation.protocol import frozen
from muster.federation.protocol.claims import agreed, possible_rows
from muster.federation.protocol.codec_tensors import digest, encode
from muster.federation.protocol.limits import WORK
from muster.keys import RandomSource
from muster.plan import Plan
from muster.plan.losses import with_loss
from muster.plan.outliers import Outliers
from muster.privacy import Secret
from muster.security.refusal import Refused
from muster.store.blobs import model_name
from muster.store.ledger import FederationStore
from muster.store.records import Assignment, Kind, OpenWork, Transition
from muster.types import Answer, ClientId, Cohort, Failed, Reply, Roster, Sent, Tree

__all__ = ["GoBack", "LABELS", "NetworkClients", "Stopped"]

LABELS = (
    "round: before it is opened",
    "round: opened",
    "round: closed",
    "round: summed",
    "evaluate: opened",
    "evaluate: closed",
)
MINUTE = 60.0  # seconds between two words on who is missing
MODELS = 2  # that are kept: what is open now, and what was before, for sites that are behind

Books = Mapping[ClientId, Assignment]


def _untold(event: dict[str, Any]) -> None:
    """Tell nobody who is missing."""


class Stopped(Exception):
    """The engine was told to stop: by its process ("closing") or an operator ("drain", "stop")."""


class GoBack(Exception):
    """The engine was told to go back to an older round: what it was doing is void."""


class NetworkClients:
    """Clients of a federation, behind the state of its rounds.

    `enough` members must be present before a round begins, fewer by those who were left out for
    good, and `least` in any case; `at` is called at each of `LABELS`. While too few are there,
    `tell` hears every minute who is missing, by the clock of the round's state.
    Groups are drawn from `entropy(n)`, n secret bytes; None takes the plan's seed, as a simulation.
    """

    def __init__(
        self,
        plan: Plan,
        ledger: FederationStore,
        round_state: RoundState,
        *,
        enough: int = 1,
        least: int = 1,
        stop: Event,
        at: Callable[[str], None],
        entropy: Callable[[int], bytes] | None = os.urandom,
        tell: Callable[[dict[str, Any]], None] = _untold,
    ) -> None:
        self._plan, self._ledger, self._round_state = plan, ledger, round_state
        self._tell = tell
        self._entropy = entropy
        self._enough, self._least, self._stop, self._at = enough, least, stop, at
        self._asked: tuple[Cohort, int] | None = None
        self._outliers: Outliers | None = None  # of the round that is open
        self._drawn: tuple[tuple[ClientId, int], ...] = ()  # of whom the cohort is drawn
        self._masking: SecAggCoordinator | None = None
        self._open_work: OpenWork | None = None
        self._call: Call | None = None  # what is asked of those who are invited to it
        self._published: tuple[Any, str] | None = None
        self._counted: tuple[ClientId, ...] = ()
        self._frozen: tuple[Any, str] | None = None  # what nobody trains, and its digest
        self._kept: list[tuple[str, ...]] = []  # the blobs of models, the oldest first

    def known(self) -> Roster:
        """Return the enrolled who are present; wait until they are enough, and nothing is paused.

        The same until the round is settled: what is charged is what is played.
        """
        recorded = self._recorded()
        self._drawn = roster = recorded.roster if recorded else self._drawn or self._gathered()
        rows = np.array([possible_rows(count) for _, count in roster], np.int64)
        return Roster(tuple(client for client, _ in roster), lambda: rows)

    def forget(self) -> None:
        """Forget what was open: the run has gone back."""
        self._asked = self._outliers = self._masking = self._published = None
        self._drawn = self._counted = ()

    def _recorded(self) -> OpenWork | None:
        return self._round_state.opened

    def _gathered(self) -> tuple[tuple[ClientId, int], ...]:
        round_state = self._round_state
        said = round_state.clock()
        while True:
            seen = round_state.news.count
            self._check("drain", "stop")
            enough = max(self._least, self._enough - len(round_state.excluded))
            if round_state.wanted == "run" and len(here := self._roster()) >= enough:
                return here
            left = said + MINUTE - round_state.clock()
            if left > 0:
                round_state.news.wait(seen, min(round_state.facts.lease, left))
                continue
            said = round_state.clock()
            if round_state.wanted == "run":
                self._tell(round_state.lacking(enough))

    def _check(self, *words: str) -> None:
        if self._stop.is_set() or self._round_state.closing:
            raise Stopped("closing")
        if self._round_state.back is not None:
            raise GoBack
        wanted = self._round_state.wanted
        if wanted in words:
            raise Stopped(wanted)

    def send(self, cohort: Cohort, sent: Sent, round: int) -> None:
        """Open the round, or go on with it where this very one was open."""
        self._at("round: before it is opened")
        times = cohort.times or (1,) * len(cohort.clients)
        self._open(round, "train", (cohort.clients, times), sent)
        self._outliers = Outliers(self._plan, sent)
        self._at("round: opened")
        self._asked = cohort, round

    def _open(
        self,
        round: int,
        kind: Kind,
        invited: tuple[tuple[ClientId, ...], tuple[int, ...]],
        sent: Sent,
    ) -> None:
        cohort, times = invited
        model, round_state = self._publish(sent), self._round_state
        recorded = self._recorded()
        roster = recorded.roster if recorded else self._drawn or self._roster()
        before = recorded if recorded and kind in ("train", recorded.kind) else None
        since = before.since if before else round_state.wall()
        groups = before.groups if before else self._divided(kind, cohort, round)
        counted = self._counted if kind == "evaluate" else ()
        counted = before.counted if before else counted
        work = OpenWork(round, kind, cohort, times, roster, model, since, groups, counted)
        self._do(BeginWork(work))
        round_state.show(round, kind)
        self._open_work = work
        self._call = Call(len(cohort), *self._until(since))
        if kind == "train":
            self._call = replace(self._call, goal=self._plan.target_replies(len(cohort)))
            if self._plan.secure is not None:
                check = partial(self._check, "stop")
                self._masking = SecAggCoordinator(
                    *(self._plan, round_state, work, sent, self._call), check=check, at=self._at
                )
                round_state.join(self._masking.session)

    def _do(self, command: Command) -> Decision:
        """Have the engine's command done. Raises `RunError` where it is refused."""
        try:
            return self._round_state.do(command)
        except Refused as refused:
            raise RunError(refused.text) from refused

    def _divided(
        self, kind: Kind, cohort: tuple[ClientId, ...], round: int
    ) -> tuple[tuple[ClientId, ...], ...]:
        """Return whose vectors are summed together: drawn afresh, from what nobody knew before.

        Nobody's, where so few hide nobody: see `SecAggSessions.fault`.
        """
        if self._plan.secure is None or kind != "train":
            return ()
        draw: RandomSource = keys.key(self._plan.seed)
        if self._entropy is not None:
            draw = Secret(self._entropy(32))
        with suppress(PlanError):
            return self._plan.groups(cohort, draw.at("groups", round))
        return ()

    def _roster(self) -> tuple[tuple[ClientId, int], ...]:
        return tuple((member.client, member.rows) for member in self._round_state.present())

    def _until(self, since: float) -> tuple[float, str]:
        """Return the deadline by the monotonic clock, which no wall clock extends; how it is said.

        That of the plan goes on while the server is down. Where the plan has none, a server that
        was down for long still takes what its members have made meanwhile.
        """
        deadline, round_state = self._plan.deadline, self._round_state
        if deadline is None:
            return (
                round_state.clock() + WORK,
                f"{WORK / 3600:g} hours have passed, without a deadline",
            )
        spent = min(max(0.0, round_state.wall() - since), deadline)
        return round_state.clock() + deadline - spent, "the deadline has passed"

    def replies(self) -> Iterator[Answer]:
        """Yield those without update, and why; then the sum of all in the fixed shape, or each."""
        if self._asked is None:
            return
        (cohort, round), self._asked = self._asked, None
        if self._masking is not None:
            return (yield from self._masked(self._masking, cohort))
        seats = self._closed()
        self._at("round: closed")
        for client in cohort.clients:
            if seats[client].standing != "arrived":
                yield missing(seats[client])
        arrived = [c for c in cohort.clients if seats[c].standing == "arrived"]
        plan, lost = self._plan, list[Failed]()
        came, template = [seats[client] for client in arrived], self._round_state.facts.template
        assert self._outliers is not None
        stored = updates(self._ledger.blobs, round, came, template)
        replies = map(self._outliers.measured, honest(stored, lost, self._outliers.refusal))
        if plan.sampling.traits.needs_losses:
            replies = map(partial(with_loss, plan), replies)
        found = plan.partial_sums(replies, cohort.clients)
        summed, parts = list[ClientId](), 0
        for reply in found:
            summed.extend(reply.clients)
            parts += 1
            yield reply
        yield from lost
        self._counted = tuple(summed) if plan.has_quorum(len(summed), parts, len(seats)) else ()
        self._at("round: summed")

    def _masked(self, masking: SecAggCoordinator, cohort: Cohort) -> Iterator[Answer]:
        """Yield those in no secure sum, and why; then the sums."""
        found, cause = masking.outcome()
        seats = self._close(masking.opened, cause)
        self._at("round: closed")
        sums = [one for one in found if isinstance(one, Reply)]
        heard = tuple(client for total in sums for client in total.clients)
        self._counted = heard if self._plan.has_quorum(len(heard), len(sums), len(seats)) else ()
        for client in cohort.clients:
            if client not in heard:
                yield missing(seats[client])
        yield from found
        self._masking = None
        self._at("round: summed")

    def _closed(self) -> Books:
        """Wait until what is open is closed; whoever has not answered by then is late."""
        round_state, work, call = self._round_state, self._open_work, self._call
        assert work is not None and call is not None
        while True:
            seen = round_state.news.count
            self._check("stop")
            seats, now = self._seats(work), round_state.clock()
            if closes(call, seats.values(), now) is not None:
                cause = self._do(ClosePiece(work.round, work.kind, call)).answer
                return self._close(work, str(cause))
            leases = round_state.leases()
            if late(seats, leases, now):
                self._do(EndLeases(work.round, work.kind))
                continue
            wake = next_event(call, seats, leases) - now
            round_state.news.wait(seen, min(max(wake, 0.0), round_state.facts.lease))

    def _seats(self, work: OpenWork) -> dict[ClientId, Assignment]:
        found = self._round_state.assignments(work.round, work.kind)
        if found is None:
            raise RunError(f"round {work.round} is not open any more; another server has gone on")
        return found

    def _close(self, work: OpenWork, cause: str) -> Books:
        round_state, seats = self._round_state, self._seats(work)
        if work.kind == "train":
            round_state.judge(work.round, cause)
        steps = [
            Transition(
                round_state.wall(),
                work.round,
                "invited",
                seat.standing,
                f"{seat.reason}: {seat.text}"[:500],
                seat.client,
            )
            for seat in seats.values()
            if seat.standing != "arrived"
        ]
        self._ledger.record(*steps)
        return seats

    def evaluate(
        self, cohort: Sequence[ClientId], sent: Sent, round: int
    ) -> Iterator[tuple[ClientId, dict[str, float]]]:
        """Yield metric sums of a model on each client's own rows, of those that answer."""
        return self.measure(sent, [(client, None) for client in cohort], round)

    def measure(
        self, sent: Sent, clients: Sequence[tuple[ClientId, Any]], round: int
    ) -> Iterator[tuple[ClientId, dict[str, float]]]:
        """Yield the same, within a round; a private part is added by the client that holds it."""
        recorded, left_out = self._recorded(), self._round_state.quarantined
        cohort = tuple(client for client, _ in clients if not left_out(client))
        if recorded and recorded.kind == "evaluate":
            cohort = recorded.cohort
        if not cohort:
            return
        self._open(round, "evaluate", (cohort, (1,) * len(cohort)), sent)
        self._at("evaluate: opened")
        seats = self._closed()
        self._at("evaluate: closed")
        came = [(c, dict(seats[c].metrics)) for c in cohort if seats[c].standing == "arrived"]
        alike = agreed(came)
        yield from (one for one in came if one[0] in alike)

    def enrolled(self) -> tuple[ClientId, ...]:
        """Return the clients enrolled and present when the round that is open began."""
        recorded = self._recorded()
        return tuple(client for client, _ in (recorded.roster if recorded else self._roster()))

    def population(self, *, named: bool = False) -> dict[str, Any]:
        """Return what a record says of the enrolled: how many, or who (see `replay`).

        By name where the mathematics asks, or (`named`) the sampler keeps something of them.
        """
        plan = self._plan
        asks = plan.algorithm.remembers or plan.aggregation.denominator == "expected"
        if not asks and not named:
            return {"population": {"count": len(self.enrolled())}}
        return {"population": {"clients": list(self.enrolled())}}

    def held(self, clients: Sequence[ClientId]) -> None:
        """Return None: no client's memory is known here."""

    def settle(self, round: int, accepted: Sequence[ClientId]) -> None:
        """Settle a committed round: its clients may ask what became of them."""
        self._counted = self._drawn = ()
        self._round_state.settled(round, accepted)

    def _publish(self, sent: Sent) -> str:
        """Return the model as a blob under its digest, for as long as somebody may need it.

        What nobody trains is a blob of its own: it changes with no round, and is fetched once.
        """
        names: tuple[str, ...] = ()
        if sent.frozen is not None:
            before, still = self._frozen, sent.frozen
            if before is None or before[0] is not still:
                self._frozen = still, frozen.digest_of(still)
            assert self._frozen is not None
            names = (model_name(self._frozen[1], "frozen"),)
            self._put(names[0], frozen.once(still), afresh=before is None)
            sent = frozen.without(sent, self._frozen[1])
        x, before = sent.algorithm, self._published
        if before is None or before[0] is not x:
            self._published = x, digest(encode(sent))
        assert self._published is not None
        names += (model_name(self._published[1]),)
        self._put(names[-1], sent, afresh=before is None)
        if names not in self._kept:
            self._kept = [*self._kept, names][-MODELS:]
            blobs, kept = self._ledger.models, {name for one in self._kept for name in one}
            for old in {*blobs.names(model_name("")), *blobs.names(model_name("", "frozen"))}:
                if old not in kept:
                    blobs.drop(old)
        return self._published[1]

    def _put(self, name: str, tree: Tree, *, afresh: bool) -> None:
        """Write a blob that is not there, or, `afresh`, one that may be torn.

        One from before a power cut may be: models wait for no disk, unlike what is shared.
        """
        blobs = self._ledger.models
        if blobs.size(name) is not None and not (afresh and blobs is not self._ledger.blobs):
            return
        blobs.drop(name)
        place = 0
        for piece in encode(tree):
            place = blobs.append(name, place, piece)
        blobs.finish(name)
