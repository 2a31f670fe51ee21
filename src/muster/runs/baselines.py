# SPDX-License-Identifier: Apache-2.0
"""Baselines to compare federation with: the same plan on pooled rows, and by each alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from muster.algorithms import FedAvg
from muster.data import Population
from muster.optimizers import SGD
from muster.plan import Every, Plan
from muster.runs.drive import Options
from muster.runs.run import Run
from muster.runs.simulate import simulate
from muster.sampling import All

__all__ = ["baselines"]


def baselines(
    plan: Plan,
    population: Population,
    evaluate_on: tuple[Any, Any] | None,
    path: str | Path,
    options: Options | None = None,
) -> dict[str, Run]:
    """Run "centralized" and "local" under `path/baselines`, for as many rounds as the plan.

    Centralized: one client that holds all rows trains as a client would; its model is evaluated
    on every client's rows. Local: each client trains its own model, every round, from the same
    start; central metrics are means over up to `plan.evaluate.clients` of these models.
    """
    folder = Path(path) / "baselines"
    options = replace(options or Options(), ledger=None)
    local, evaluate = plan.local, plan.evaluate
    if local.examples is not None and not local.reports:  # no client tells anybody anything here
        local = replace(local, examples=replace(local.examples, metrics="public"))
        evaluate = replace(evaluate, clients=Every().clients)
    plain = replace(
        plan,
        local=local,
        evaluate=evaluate,
        algorithm=FedAvg(server=SGD(1.0)),
        sampling=All(),
        pipeline=(),
        minimum=1,
        share="*",
        stop=(),
        budget=None,
    )
    pooled = Population.from_arrays({"everybody": population.pooled()})
    found = {
        "centralized": simulate(
            plain,
            pooled,
            evaluate_on,
            judged=population,
            path=folder / "centralized",
            resume=(folder / "centralized" / "run.db").exists(),
            options=replace(options, workers=1),
        )
    }
    found["local"] = simulate(
        replace(plain, share="!*"),
        population,
        evaluate_on,
        path=folder / "local",
        resume=(folder / "local" / "run.db").exists(),
        options=options,
    )
    return found
