# SPDX-License-Identifier: Apache-2.0
"""Attacks on a run, and what they find against what its ledger promises.

Three attacks, none of which can prove privacy: canaries, membership inference on the released
model, and inversion of one update as the server sees it. One that finds more than was promised
proves a fault. What cannot be tried is said.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from muster import keys
from muster.data import Population
from muster.errors import MusterError
from muster.local import Group, train
from muster.plan import Plan
from muster.privacy.audits.inversion import linear_input, psnr
from muster.privacy.audits.membership import auc, epsilon_found, tpr_at, violates
from muster.privacy.ledger import usual_delta
from muster.rounds import start
from muster.runs.privacy.canaries import shown, why_not
from muster.runs.privacy.facts import ledger_of
from muster.runs.privacy.rows import facts_from
from muster.runs.run import Run

__all__ = ["Found", "audited"]

LISTED = 2000  # rows of each side that membership inference looks at
TARGETS = 50  # rows whose updates are inverted
SUCCESS = 3.0  # standard deviations above the baseline
Verdict = Literal["holds", "fault", "no promise", "exposed", "hidden", "not audited"]


@dataclass(frozen=True)
class Found:
    """One attack: what it measured and what was promised, in words, and the verdict.

    "fault": more was found than promised; "exposed": the attack succeeds where nothing was
    promised against it; `figures` are the numbers behind the words.
    """

    attack: str
    measured: str
    promised: str
    verdict: Verdict
    figures: dict[str, float]


def audited(
    run: Run, plan: Plan, population: Population, rows: tuple[Any, Any] | None
) -> list[Found]:
    """Return the findings of all attacks on a run of this plan; `rows`: rows nobody trained on."""
    ledger = ledger_of(run)
    delta = ledger.delta if ledger else usual_delta(len(population))
    epsilon = ledger.epsilon if ledger else math.inf
    promised = f"ε {epsilon:.4g} at δ {delta:g}" if ledger else "nothing: no stage adds noise"
    rounds = max(1, run.round)
    return [
        *_canaries(plan, population, rounds, (epsilon, delta, promised)),
        *_membership(run, plan, population, rows, _of_rows(run) or (epsilon, delta, promised)),
        *_inversion(plan, population),
    ]


Promise = tuple[float, float, str]


def _of_rows(run: Run) -> Promise | None:
    """Return the promise to single rows, where the plan keeps them private by themselves."""
    kept = run.facts.get("examples")
    charged = facts_from(kept).charged if kept else None
    if charged is None:
        return None
    epsilon, delta = charged.all.epsilon, charged.all.delta
    return epsilon, delta, f"ε {epsilon:.4g} at δ {delta:g} for one row"


def _canaries(plan: Plan, population: Population, rounds: int, promise: Promise) -> Iterator[Found]:
    epsilon, delta, promised = promise
    why = why_not(plan)
    if why is not None:
        yield Found("canaries", why, promised, "not audited", {})
        return
    found = shown(plan, population, rounds, delta)
    for name, (value, least) in (("last model", found.last), ("all rounds", found.every)):
        measured = (
            f"ε about {value:.3g}, hardly below {least:.3g}; {found.canaries} canaries, "
            f"{rounds} rounds"
        )
        figures = {"epsilon": value, "least": least, "canaries": found.canaries, "rounds": rounds}
        yield Found(f"canaries, {name}", measured, promised, _verdict(least, epsilon), figures)


def _verdict(found: float, epsilon: float) -> Verdict:
    if math.isinf(epsilon):
        return "no promise"
    return "fault" if found > epsilon else "holds"


def _membership(
    run: Run, plan: Plan, population: Population, rows: tuple[Any, Any] | None, promise: Promise
) -> Iterator[Found]:
    """Ask whether rows with a low loss were trained on.

    About rows, so below what clients reveal.
    """
    epsilon, delta, promised = promise
    name = "membership of rows"
    if rows is None or population.is_lazy:
        text = "there are no test rows" if rows is None else "the population is loaded lazily"
        yield Found(name, text, promised, "not audited", {})
        return
    if plan.sharing.private:
        text = "clients keep tensors to themselves, so no model was released whole"
        yield Found(name, text, promised, "not audited", {})
        return
    try:
        members = -_losses(run, plan, *population.pooled())
        others = -_losses(run, plan, *rows)
    except (MusterError, KeyError) as error:
        yield Found(name, f"no loss of single rows: {error}", promised, "not audited", {})
        return
    half, rest = others[::2], others[1::2]
    threshold = float(np.quantile(half, 0.9))
    figures = {
        "auc": auc(members, others),
        "tpr_at_0.1%": tpr_at(members, others, 0.001),
        "tpr_at_1%": tpr_at(members, others, 0.01),
        "epsilon": epsilon_found(members[1::2], rest, delta, threshold),
        "members": len(members),
        "others": len(others),
    }
    measured = (
        f"AUC {figures['auc']:.3f}, TPR {figures['tpr_at_0.1%']:.2%} at FPR 0.1 %, ε at least "
        f"{figures['epsilon']:.3g}"
    )
    broken = math.isfinite(epsilon) and violates(
        members[1::2], rest, max(epsilon, 1e-9), delta, threshold
    )
    kept: Verdict = "no promise" if math.isinf(epsilon) else "fault" if broken else "holds"
    yield Found(name, measured, promised, kept, figures)


def _losses(run: Run, plan: Plan, x: Any, y: Any) -> NDArray[np.float64]:
    """Return the loss of each of up to so many rows, evenly spread."""
    step = max(1, -(-len(x) // LISTED))
    w, buffers = run.parameters, run.buffers
    each = (
        plan.task.evaluate(w, buffers, x[i : i + 1], y[i : i + 1])["loss"]
        for i in range(0, len(x), step)
    )
    found = np.array([float(value) for value in each])
    most = np.finfo(float).max
    finite: NDArray[np.float64] = np.nan_to_num(found, nan=most, posinf=most)
    return finite


def _inversion(plan: Plan, population: Population) -> Iterator[Found]:
    """Invert one row's update: the first linear layer gives the row away, unless noise is in it."""
    name = "inversion of one update"
    place = _linear(plan, population)
    if place is None:
        text = "the model has no linear layer on its input that travels whole"
        yield Found(name, text, "", "not audited", {})
        return
    bare = replace(plan.local, examples=None)
    plain = replace(plan, local=bare, pipeline=(), budget=None, minimum=1)
    targets = _targets(population)
    pixels = np.stack([x.reshape(-1) for _, x, _ in targets]).astype(float)
    peak = float(np.ptp(pixels)) or 1.0
    base = np.array([psnr(pixels.mean(0), row, peak) for row in pixels])
    bar = float(base.mean() + SUCCESS * base.std())
    views = (
        ("plain", plain, "nothing: an update shows its rows"),
        ("as the server sees it", plan, _view(plan)),
    )
    for title, which, said in views:
        if which.secure is not None:
            yield Found(f"{name}, {title}", "a mask: uniform numbers alone", said, "hidden", {})
            continue
        found = np.array([_inverted(which, one, place, peak) for one in targets])
        level = float(np.median(found))
        measured = f"PSNR {level:.1f} dB (median of {len(found)}; success is above {bar:.1f})"
        verdict: Verdict = "exposed" if level > bar else "hidden"
        yield Found(f"{name}, {title}", measured, said, verdict, {"psnr": level, "success": bar})


def _view(plan: Plan) -> str:
    trusts = {release.trust for release in plan.stages.releases()}
    if plan.secure is not None:
        return "single updates are masked"
    if plan.local.examples is not None:
        return "each client adds noise to its local steps"
    if "local" in trusts:
        return "each client adds its noise first"
    if "central" in trusts:
        return "nothing: the server is trusted, and adds the noise to the sum"
    return "nothing"


def _targets(population: Population) -> list[tuple[Any, Any, Any]]:
    few = population.clients[:: max(1, len(population) // TARGETS)][:TARGETS]
    found = []
    for client in few:
        x, y = population[client]
        found.append((client, np.asarray(x[:1]), np.asarray(y[:1])))
    return found


def _linear(plan: Plan, population: Population) -> tuple[str, str] | None:
    """Return the names of a weight `(outputs, features)` on the input, and of its bias."""
    features = int(np.asarray(population[population.clients[0]][0][:1]).size)
    entries = [e for e in plan.task.layout.entries if e.kind == "parameter"]
    for weight, bias in pairwise(entries):
        flat = len(weight.shape) == 2 and weight.shape[1] == features
        if flat and bias.shape == weight.shape[:1] and plan.sharing.everything:
            return weight.name, bias.name
        return None  # only the first layer sees the rows themselves
    return None


def _inverted(plan: Plan, one: tuple[Any, Any, Any], place: tuple[str, str], peak: float) -> float:
    client, x, y = one
    group = Group((client,), (1,), x, y, np.zeros(1, np.int64), np.ones(1, np.int64), _blank(plan))
    outcome = train(plan, "loop", 1, start(plan).sent(), group)
    contract = plan.stages.contracts[-1]
    seen = next(iter(contract.vectors(outcome.payload).values()))[0] * (contract.step or 1.0)
    named = plan.task.layout.named(np.asarray(seen, np.float64))
    try:
        row = linear_input(named[place[0]], named[place[1]])
    except MusterError:
        return -math.inf
    return psnr(row, x.reshape(-1).astype(float), peak)


def _blank(plan: Plan) -> Any:
    if not plan.remembers:
        return None
    return (plan.fresh_memory(*plan.task.init(keys.key(plan.seed).at("init"))),)
