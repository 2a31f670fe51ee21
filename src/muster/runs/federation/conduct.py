# SPDX-License-Identifier: Apache-2.0
"""A federation's engine: the rounds of a plan over its sites, from a ledger to its end."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np

from muster.data import Population
from muster.errors import MusterError, PlanError, RunError
from muster.federation.coordinator.clients import GoBack, NetworkClients, Stopped
from muster.federation.coordinator.round_state import FederationFacts, RoundState
from muster.federation.protocol.claims import claims_of
from muster.federation.protocol.codec_tensors import encode
from muster.federation.protocol.message import STUDY
from muster.federation.protocol.template import update_template
from muster.plan import Plan
from muster.plan.quorum import fewest
from muster.plan.registry import fingerprint, to_toml, to_value
from muster.rounds import RunState
from muster.runs.drive import Options, drive
from muster.runs.folder import note_versions, unlike, write
from muster.runs.measure import Examiner
from muster.runs.rollback import roll_back
from muster.runs.run import Run
from muster.sampling.sampler import asks_candidates
from muster.security.refusal import RefusalReason, Refused
from muster.simulation.threads import one_thread
from muster.store.blobs import NoRoom
from muster.store.ledger import FederationStore
from muster.types import ClientId

__all__ = ["ServerSettings", "check_study", "conduct", "facts_of", "prepare", "refuse_unserved"]

ROOM = 10.0  # seconds at the most until it is looked again whether there is room
ENGINE = "loop"  # a site trains one client at a time, so its bits are those of this engine


@dataclass(frozen=True)
class ServerSettings:
    """The settings by which a server runs its federation.

    `enough` members must be present before a round begins; `lease` in seconds; `names` are the
    client ids of members whose certificates are named otherwise.
    """

    enough: int = 1
    lease: float = 15.0
    names: dict[str, ClientId] = field(default_factory=dict)


def facts_of(
    plan: Plan, run: str, terms: ServerSettings, *, study: str = STUDY, raised: tuple[int, ...] = ()
) -> FederationFacts:
    """Return the facts that a server tells its sites, and holds them to."""
    template = update_template(plan)
    size = sum(memoryview(piece).nbytes for piece in encode(template))

    def weigh(rows: int, times: int) -> float:
        if plan.secure is not None:
            raise Refused(
                RefusalReason.MALFORMED,
                "this plan's updates are masked; send none as it is: upgrade",
            )
        return float(plan.weights(np.array([rows]), (times,))[0])

    value = json.loads(json.dumps(to_value(plan)))
    hides = bool(plan.stages.releases()) and plan.sampling.traits.kind == "poisson"
    return FederationFacts(
        run,
        fingerprint(plan),
        value,
        weigh,
        template,
        size,
        terms.names,
        lease=terms.lease,
        study=study,
        raised=raised,
        hides=hides,
        claims=claims_of(plan),
    )


def refuse_unserved(plan: Plan, population: Population | None = None) -> None:
    """Raise `PlanError` for what a simulation does and a federation's server does not."""
    if asks_candidates(plan.sampling):
        raise PlanError(
            f"{plan.sampling} asks candidates for their loss before each round, which a simulation "
            f"does and a federation's server does not; use a sampler that reads the losses of "
            f"training (`observe`), or simulate"
        )
    if population is not None and population.barred is not None:
        raise PlanError(
            f"{len(population.barred)} clients of the population are barred from being drawn, "
            f"which a simulation heeds and a federation's server does not: it draws among the "
            f"sites that are there; leave them out with population.only(...), or simulate"
        )


def prepare(plan: Plan, ledger: FederationStore, study: str = STUDY) -> None:
    """Record what a run is, or check that it is this plan's and study's. Raises `RunError`."""
    begun, used = ledger.meta("plan"), ledger.meta("engine")
    check_study(ledger, study)
    changed = unlike(begun, plan) if begun is not None else ""
    if begun is not None and used != ENGINE:
        changed = f"engine: {used!r} then, {ENGINE!r} now"
    if changed:
        raise RunError(
            f"the run in {ledger.path} was begun with another plan ({changed}); "
            f"restore those fields to go on with it, or serve another folder"
        )
    ledger.note(
        plan=to_value(plan),
        engine=ENGINE,
        together=1,
        federation=True,
        study=study,
        metrics=plan.directions,
        remembers=plan.remembers or plan.secure is not None,
    )
    note_versions(ledger, plan)
    write(ledger.path / "plan.toml", to_toml(plan).encode())


def check_study(ledger: FederationStore, study: str) -> None:
    """Raise `RunError` for a run that belongs to another study."""
    before = ledger.meta("study")
    if before not in (None, study):
        raise RunError(
            f"the run in {ledger.path} belongs to the study {before!r}, and {study!r} was given; "
            f"go on with --study {before}, or serve another folder"
        )


def conduct(
    plan: Plan,
    ledger: FederationStore,
    round_state: RoundState,
    rows: tuple[Any, Any] | None,
    terms: ServerSettings,
    stop: Event,
    options: Options,
) -> str:
    """Play all rounds that are left; returns why it ended: done, drain, stop, or closing.

    A full disk stops nothing: the round is tried again once there may be room.
    """
    if ledger.shared:
        prepare(plan, ledger, round_state.facts.study)  # by the server that leads
    network = NetworkClients(
        plan,
        ledger,
        round_state,
        enough=terms.enough,
        least=fewest(plan),
        stop=stop,
        at=options.at,
        entropy=options.entropy,
        tell=options.tell,
    )
    options = replace(options, pause=partial(_pause, round_state))
    witness = _Witness(Examiner(plan, network, network, network.enrolled, rows), network)
    round_state.plays(True)
    try:
        with one_thread(plan.task):
            while True:
                try:
                    drive(plan, network, ledger, witness, replace(options, engine=ENGINE))
                    _export(ledger.path, plan, ledger.shared)
                    if _ends(round_state):
                        return "done"
                except GoBack:
                    pass
                except Stopped as why:
                    return str(why)
                except NoRoom as error:
                    _wait(round_state, stop, error)
                _go_back(ledger, round_state, network)
    finally:
        _ends(round_state, "the server has ended; roll its folder back")


def _wait(round_state: RoundState, stop: Event, error: NoRoom) -> None:
    """Wait some seconds, as there may be room then, or until there is something else to do."""
    until = round_state.clock() + min(ROOM, round_state.facts.lease)
    with suppress(RunError):  # its log lacks room as well
        round_state.move("no room", str(error)[:500])
    while True:
        seen, left = round_state.news.count, until - round_state.clock()
        if left <= 0 or stop.is_set() or round_state.closing or round_state.back is not None:
            return
        round_state.news.wait(seen, left)


def _ends(round_state: RoundState, text: str = "") -> bool:
    """Return whether no order to go back waits: then none is taken any more.

    With `text` it is refused.
    """
    back = round_state.take_back(refuse=bool(text))
    if back is not None and text and not back.done.done():
        back.done.set_exception(Refused(RefusalReason.CLOSED, text))
    return back is None


def _go_back(ledger: FederationStore, round_state: RoundState, network: NetworkClients) -> None:
    """Do what an operator ordered, if anything; what cannot be done is told, and changes nothing.

    The order stands until it is answered, so that a server which dies here has told nobody that it
    was done; whether it was is in the ledger.
    """
    back = round_state.back
    if back is None:
        return
    try:
        note = round_state.facts.note
        found = roll_back(ledger, back.round, by=back.by, reason=back.reason, note=note)
        round_state.follow()
        network.forget()
    except Exception as error:
        told = error if isinstance(error, MusterError) else RunError(f"it failed: {error}")
        round_state.came_back()
        back.done.set_exception(told)
        if not isinstance(error, MusterError):
            raise
        return
    round_state.came_back()
    back.done.set_result(found)


def _pause(round_state: RoundState, why: str) -> None:
    """No round begins until an operator has looked and says `muster resume`."""
    round_state.facts.note("server", "paused", why=why)
    round_state.order("pause")


@dataclass(frozen=True)
class _Witness:
    """An examiner that also says who was enrolled, which over a network changes."""

    examiner: Examiner
    network: NetworkClients

    def examine(self, round: int, state: RunState) -> dict[str, Any]:
        """Return a round's record beside who replied; for version 0 nobody was asked."""
        who = self.network.population(named=state.sampler is not None) if round else {}
        return self.examiner.examine(round, state) | who


def _export(folder: Path, plan: Plan, shared: bool) -> None:
    """Export the model and the history as files; a run in PostgreSQL is read from there."""
    if not shared:
        Run(folder, plan).export()
