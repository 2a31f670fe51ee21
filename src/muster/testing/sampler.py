# SPDX-License-Identifier: Apache-2.0
"""`check_sampler`: a sampler draws what its traits say, from its arguments and nothing else."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from muster import keys
from muster.errors import DataError, PlanError
from muster.plain import packed, unpacked
from muster.sampling.sampler import Sampler, SamplerTraits, strangers
from muster.testing.claim import check_value, claim, refused
from muster.types import ClientId, ClientOutcome, Cohort, Roster

__all__ = ["check_sampler"]

FEWEST = 12  # clients; three times as many as are drawn, where that is more
ROUNDS = 400
DEVIATIONS = 6.0  # beyond which a count is not one of the chance that was declared


def check_sampler(sampler: Sampler) -> None:
    """Raise `AssertionError` where a sampler breaks a promise of `Sampler`.

    It draws 400 rounds among clients with unequal rows, some of them barred. Where its traits say
    "uniform" or "poisson", clients, pairs, and the same client in two rounds in a row must come as
    often as that means, to six standard deviations: an accountant of privacy believes it.

    >>> from muster.sampling import Uniform
    >>> check_sampler(Uniform(count=3))
    """
    check_value(sampler)
    claim(isinstance(sampler, Sampler), f"{sampler} is no Sampler; let its class extend that")
    traits = sampler.traits
    claim(
        isinstance(traits, SamplerTraits),
        f"{sampler}.traits is {traits!r:.60}, no SamplerTraits; return one",
    )
    count = max(FEWEST, 3 * (traits.count or 0))
    people = _people(count)
    cohorts = _drawn(sampler, people)
    for round, cohort in enumerate(cohorts, 1):
        _fits(sampler, people, cohort, round)
    _apart(sampler, cohorts)
    _chances(sampler, people, cohorts)
    some = replace(people, barred=dict.fromkeys(people.clients[1::4], "away"))
    for round, cohort in enumerate(_drawn(sampler, some)[:20], 1):
        _fits(sampler, some, cohort, round)


def _people(count: int) -> Roster:
    clients: tuple[ClientId, ...] = tuple(f"c{i:04}" for i in range(count))
    rows = 1 + np.arange(count) * 7 % 23
    return Roster(clients, lambda: rows.copy())


def _drawn(sampler: Sampler, people: Roster) -> list[Cohort]:
    """Draw the cohorts of all rounds, each twice from copies of the same state."""
    kept: Any = None
    found = []
    for round in range(1, ROUNDS + 1):
        (cohort, after), (again, twice) = (_round(sampler, people, kept, round) for _ in range(2))
        claim(
            cohort == again and _same(after, twice),
            f"{sampler}.sample draws {cohort} and then {again} from the same arguments: let it "
            f"depend on nothing else, and change none of them",
        )
        found.append(cohort)
        kept = after
        people = replace(
            people,
            seen={**people.seen, **dict.fromkeys(cohort.clients, round)},
            losses={**people.losses, **{c: _loss(c, round) for c in cohort.clients}},
        )
    return found


def _loss(client: ClientId, round: int) -> float:
    return 0.1 + keys.key(7).at("loss", client, round).integer() % 1000 / 1000


def _round(sampler: Sampler, people: Roster, kept: Any, round: int) -> tuple[Cohort, Any]:
    """Play one round: ask, draw, observe; the state is stored and read between the steps."""
    traits, draw = sampler.traits, keys.key(11)
    asked = sampler.candidates(people, unpacked(kept), round, draw.at("candidates", round))
    losses = None
    if asked is not None:
        claim(
            traits.needs_losses,
            f"{sampler}.candidates asks for losses that its traits do not declare; set "
            f"needs_losses=True",
        )
        _known(sampler, people, asked, "candidates", round)
        losses = {client: _loss(client, round) for client in asked.clients[1:]}  # one is away
    given = unpacked(kept)
    cohort, after = sampler.sample(people, given, round, draw.at("sample", round), losses)
    claim(
        isinstance(cohort, Cohort), f"{sampler}.sample returns {cohort!r:.60}, no Cohort; make one"
    )
    claim(_same(packed(given), kept), f"{sampler}.sample changes the state that it is given")
    outcomes = _outcomes(cohort, round, told=traits.needs_losses)
    state = _stored(sampler, after, "sample")
    return cohort, _stored(sampler, sampler.observe(unpacked(state), people, outcomes), "observe")


def _outcomes(cohort: Cohort, round: int, *, told: bool) -> tuple[ClientOutcome, ...]:
    """Return what came back: every fifth of a cohort is late, nobody else."""
    return tuple(
        ClientOutcome(client, accepted=False, missing="late")
        if place % 5 == 4
        else ClientOutcome(client, accepted=True, loss=_loss(client, round) if told else None)
        for place, client in enumerate(cohort.clients)
    )


def _stored(sampler: Sampler, state: Any, what: str) -> Any:
    """Return the state as it is stored. It must come back as it was."""
    try:
        kept = packed(state)
    except DataError as error:
        raise AssertionError(f"the state that {sampler}.{what} returns is lost: {error}") from error
    claim(
        _same(packed(unpacked(kept)), kept),
        f"the state that {sampler}.{what} returns is another once it was stored",
    )
    return kept


def _same(one: Any, other: Any) -> bool:
    if one is None or other is None:
        return one is other
    return bool(one.tobytes() == other.tobytes())


def _known(sampler: Sampler, people: Roster, cohort: Cohort, what: str, round: int) -> None:
    others = strangers(cohort.clients, people)
    claim(
        not others,
        f"{sampler}.{what} names client {others[:1]} in round {round}, who may not be drawn; "
        f"choose among roster.eligible",
    )


def _fits(sampler: Sampler, people: Roster, cohort: Cohort, round: int) -> None:
    """Claim that a cohort is of those who may be drawn, and of the size that the traits say."""
    traits, where = sampler.traits, f"in round {round}"
    _known(sampler, people, cohort, "sample", round)
    counted = sum(cohort.counts().values())
    if traits.replacement:
        claim(
            traits.count in (None, counted),
            f"{sampler} counts {counted} draws {where}, and its traits say {traits.count}",
        )
    else:
        claim(
            cohort.times is None,
            f"{sampler} draws a client more than once {where}: say replacement=True",
        )
        sized = traits.count is not None or traits.fraction is not None or traits.kind == "all"
        size = sampler.size(len(people.eligible))
        claim(
            counted == size if sized else counted <= size,
            f"{sampler} draws {counted} clients {where}, and its traits say {size}",
        )


def _apart(sampler: Sampler, cohorts: Sequence[Cohort]) -> None:
    """Claim that nobody has two turns in fewer rounds than is declared."""
    last: dict[ClientId, int] = {}
    for round, cohort in enumerate(cohorts, 1):
        for client in cohort.clients:
            gap = round - last.get(client, -ROUNDS)
            claim(
                gap >= sampler.traits.separation,
                f"{sampler} draws client {client!r} again after {gap} rounds, and its traits say "
                f"separation={sampler.traits.separation}",
            )
            last[client] = round


def _chances(sampler: Sampler, people: Roster, cohorts: Sequence[Cohort]) -> None:
    """Claim that the share is one, and each client's chance where an accountant counts on it."""
    traits, shares = sampler.traits, list[float]()
    refusal = refused(PlanError, lambda: shares.append(sampler.share(people)))
    if refusal is not None:
        fixed = traits.kind in ("all", "uniform", "poisson", "rotation")
        claim(not fixed, f"{sampler} is {traits.kind!r} and has no share: {refusal}")
        return
    (q,) = shares
    claim(0 < q <= 1, f"{sampler}.share is {q!r}, and no number in (0, 1]")
    if traits.kind not in ("uniform", "poisson"):
        return
    clients, rounds = people.clients, len(cohorts)
    once = Counter(client for cohort in cohorts for client in cohort.clients)
    for client in clients:
        _as_often(sampler, once[client], rounds, q, f"client {client!r}")
    n, size = len(clients), q * len(clients)
    if traits.kind == "poisson":
        _as_often(sampler, once.total(), n * rounds, q, "clients, all together,")
    pair = q * q if traits.kind == "poisson" else q * (size - 1) / (n - 1)
    for one, other in pairwise(clients):
        both = sum(one in cohort.clients and other in cohort.clients for cohort in cohorts)
        _as_often(sampler, both, rounds, pair, f"the pair {one!r} and {other!r}")
    for client in clients:
        again = sum(client in a.clients and client in b.clients for a, b in pairwise(cohorts))
        _as_often(sampler, again, rounds, q * q, f"client {client!r} twice in a row")


def _as_often(sampler: Sampler, found: int, rounds: int, chance: float, what: str) -> None:
    wanted, spread = rounds * chance, math.sqrt(rounds * chance * (1 - chance))
    claim(
        abs(found - wanted) <= DEVIATIONS * spread + 1,
        f"{sampler} draws {what} {found} times in {rounds}, and a {sampler.traits.kind} draw has "
        f"{wanted:.4g}",
    )
