# SPDX-License-Identifier: Apache-2.0
"""`simulate`: plan + data → run, in scripts, notebooks and the shell alike."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from muster import keys
from muster.data import Federation, Population
from muster.data.datasets.federation import as_population
from muster.errors import DataError, PlanError, RunError
from muster.locks import require_locks
from muster.plan import Plan
from muster.plan.measured import check_metrics
from muster.plan.quorum import refuse_few
from muster.rounds import start
from muster.runs.drive import Options, drive
from muster.runs.folder import begun_with, fresh_folder, know, open_folder
from muster.runs.measure import Examiner, check_rows
from muster.runs.run import Run
from muster.sampling.sampler import asks_candidates
from muster.simulation import Choice, Executor, LocalExecutor, Pool, Simulation, choose
from muster.simulation.origins import travels
from muster.simulation.threads import one_thread
from muster.store.sqlite import SQLiteStore

__all__ = ["afresh", "check", "explain", "simulate"]

Rows = tuple[Any, Any]


def simulate(
    plan: Plan,
    population: Population | Federation | Mapping[Any, Any],
    evaluate_on: Rows | None = None,
    *,
    path: str | Path | None = None,
    resume: bool = False,
    judged: Population | None = None,
    options: Options | None = None,
    **chosen: Any,
) -> Run:
    """Train a plan on a population in one machine and return its durable run.

    `population` may be a dataset (`muster.data.digits()`), whose own test rows are then used, or a
    dict `{client: (x, y)}`. `evaluate_on` are central test rows `(x, y)`; `path` the run's folder
    (a new one under `runs/` unless given); `resume` goes on with what is committed there, with the
    same bits.
    `judged` is another population whose clients' rows the model is evaluated on. Further
    keywords are the fields of `Options`. Raises `PlanError` and `DataError` before any
    training, `ClientError` when a client fails, `RunError` when `resume` meets another plan.
    """
    require_locks()
    options = replace(options or Options(), **chosen)
    if resume and path is None:
        raise RunError("resume=True was given without a folder; give path=, the folder of the run")
    plan = afresh(plan)
    population, evaluate_on = check(plan, population, evaluate_on)
    folder = Path(path) if path is not None else fresh_folder(Path("runs"), plan)
    asked = options.engine
    choice = _choice(plan, population, (resume and begun_with(folder, asked)) or asked)
    opened = open_folder(
        folder, plan, choice, resume=resume, at=options.at, override=options.override
    )
    with closing(opened) as store:
        know(store, population, resume=resume)
        choice = replace(choice, together=store.meta("together"))  # of the run's first day
        _train(plan, population, (evaluate_on, judged), store, choice, options)
    run = Run(folder, plan)
    run.export()
    return run


def _train(
    plan: Plan,
    population: Population,
    tests: tuple[Rows | None, Population | None],
    store: SQLiteStore,
    choice: Choice,
    options: Options,
) -> None:
    """Train all rounds; workers and threads are as before when it ends, however it ends."""
    rows, judged = tests
    with ExitStack() as stack:
        executor = _hands(plan, population, choice, options, store)
        stack.callback(executor.close)
        lenient = options.lenient
        judges = LocalExecutor(plan, choice.engine, judged, lenient=lenient) if judged else executor
        stack.enter_context(one_thread(plan.task))  # central metrics too: a stop rule reads them
        simulation = Simulation(plan, population, store, choice, executor)
        everybody = (judged or population).clients
        examiner = Examiner(plan, simulation, judges, lambda: everybody, rows)
        drive(plan, simulation, store, examiner, options)
        if simulation.alone:
            store.note(alone=simulation.alone)


def afresh(plan: Plan) -> Plan:
    """Return the plan with a task that has found out nothing yet.

    In a notebook what its functions read may be another than when the plan was made.
    """
    task = plan.task
    return replace(plan, task=replace(task)) if is_dataclass(task) else plan


def check(plan: Plan, given: Any, evaluate_on: Any) -> tuple[Population, Rows | None]:
    """Return the population and the test rows as this plan is trained on them.

    Refuses with `DataError` what it cannot be trained on, naming the client.
    """
    population, test = as_population(given)
    refuse_few(plan, population.roster().eligible)
    evaluate_on = test if evaluate_on is None else evaluate_on
    if plan.stop and evaluate_on is None and not (population.has_test and _asks(plan)):
        raise PlanError(
            f"Plan(stop={list(plan.stop)!r}) reads metrics of test rows, and there are none, "
            f"central or of clients; give evaluate_on=(x, y), or leave stop out"
        )
    if plan.keep.best and evaluate_on is None and not (population.has_test and _asks(plan)):
        raise PlanError(
            f"Plan(keep={plan.keep}) reads metrics of test rows, and there are none, central or of "
            f"clients; give evaluate_on=(x, y), or leave best out"
        )
    if evaluate_on is not None:
        evaluate_on = check_rows(plan, evaluate_on)
    if not population.is_lazy:
        _check_all(plan, population)
    if evaluate_on is not None or _asks(plan):
        check_metrics(plan, *(evaluate_on or population[population.clients[0]]))
    return population, evaluate_on


def _asks(plan: Plan) -> bool:
    """Return whether clients are asked for metrics."""
    return plan.evaluate.clients != 0


def _check_all(plan: Plan, population: Population) -> None:
    try:
        plan.task.check(*population.pooled())
    except DataError:
        for client in population.clients:
            try:
                plan.task.check(*population[client])
            except DataError as error:
                raise DataError(f"client {client!r}: {error}") from None
        raise


def _choice(plan: Plan, population: Population, engine: str) -> Choice:
    roster, key = population.roster(), keys.key(plan.seed)
    if asks_candidates(plan.sampling):  # nobody is asked before a run has begun
        invited = plan.sampling.size(len(roster.eligible))
    else:
        cohort, _ = plan.sampling.sample(roster, None, 1, key.at("sample", 1))
        invited = len(cohort.clients)
    return choose(plan, population, max(1, invited), engine)


def _hands(
    plan: Plan, population: Population, choice: Choice, options: Options, store: SQLiteStore
) -> Executor:
    workers, pickled, why = _crew(plan, population, choice, options.workers)
    store.note(workers=workers, workers_reason=why)
    if workers == 1 or pickled is None:
        return LocalExecutor(plan, choice.engine, population, lenient=options.lenient)
    shared = population if population.is_lazy else population.shared()
    return Pool(
        pickled,
        choice.engine,
        shared,
        start(plan).sent(),
        workers,
        lenient=options.lenient,
        tell=options.tell,
    )


def _crew(
    plan: Plan, population: Population, choice: Choice, asked: int | None
) -> tuple[int, bytes | None, str]:
    """Return the number of workers, the plan as it travels to them, and why."""
    if asked is not None and asked < 1:
        raise PlanError(f"workers={asked}: at least 1 is needed; 1 trains in this process")
    if asked == 1:
        return 1, None, "asked for"
    if asked is None and choice.light:
        return 1, None, "a round is too little work for more than one process"
    pickled = travels(plan)
    if pickled is None or (population.is_lazy and travels(population) is None):
        what = "plan's functions live" if pickled is None else "population's loader lives"
        return (
            1,
            None,
            (
                f"the {what} in __main__, a notebook or another function, where other processes "
                f"cannot find them; put them at the top of a module (plan.py) to use all cores"
            ),
        )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return asked or cores or 1, pickled, "asked for" if asked else "one per core"


def explain(
    plan: Plan, population: Population, engine: str = "auto", workers: int | None = None
) -> dict[str, Any]:
    """Explain which engine would train this plan, in which pieces, by how many workers, and why."""
    plan = afresh(plan)
    choice = _choice(plan, population, engine)
    crew, _, why = _crew(plan, population, choice, workers)
    return {
        "engine": choice.engine,
        "reason": choice.reason,
        "together": choice.together,
        "workers": crew,
        "workers_reason": why,
        "parameters": plan.task.layout.size,
        "upload_bytes": plan.upload_bytes(),
        "mean_rows": float(np.mean(population.sizes)),
    }
