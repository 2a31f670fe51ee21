# SPDX-License-Identifier: Apache-2.0
"""The price of promising every client privacy: accuracy against ε, measured.

    python -m bench.privacy [--seeds 5] [--only shares wards] [--write docs/privacy.md]

Two federations: a hundred writers of digits (Poisson cohorts), and the four hospitals of
`muster new hospitals` (everybody in every round). Noise is added by the server (central), or by
the clients inside a secure sum (distributed, digits alone; the sums of that table have the same
bits without the masks; ε is that of the masked plan, which takes a third of the clients to work
together and so to know a third of the shares). Within a table all but the noise is equal. The
hospitals' clip, rounds and rate were the best of a grid of 24 on the same test rows, those of the
digits were chosen by hand; no such choice is in ε. Neighbours: a client more or less under coins
(digits), else a client's update replaced by zero. Runs are simulations: what stands here is what
the same plan promises under `muster serve`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import muster
from muster import aggregation, algorithms, data, optimizers, pipeline, sampling, tasks
from muster.plan.private import charges
from muster.privacy import spent
from muster.runs.privacy.canaries import shown, why_not
from muster.types import Roster

__all__ = [
    "digits",
    "hospitals",
    "main",
    "masks",
    "promised",
    "put",
    "shares",
    "tables",
    "wards",
]

DIGITS, HOSPITALS, SHARES = (0.5, 1.0, 2.0), (1.0, 4.0, 16.0), (2.0, 4.0, 8.0)
WRITERS, COHORT, LOST = 100, 40, 4
BORNE = 3  # of those, with masks: one more of 40 than of 36 may know their shares of the noise
DELTA = {"digits": 1e-3, "hospitals": 1e-3}


def digits(noise: float | None, seed: int = 0) -> muster.Plan:
    """Return softmax regression on 8x8 digits, a hundred writers, three of ten in a round."""
    stages = [pipeline.Clip(1.0)]
    return muster.Plan(
        task=tasks.numpy.SoftmaxRegression(64, 10),
        algorithm=algorithms.FedAvg(),
        local=muster.Local(epochs=5, batch=16, optimizer=optimizers.SGD(0.1)),
        sampling=sampling.Poisson(0.3),
        pipeline=stages if noise is None else [*stages, pipeline.Noise(noise)],
        aggregation=aggregation.Mean("expected"),
        weighting="equal",
        rounds=40,
        seed=seed,
        evaluate=muster.Every(40, clients=0),
        budget=None if noise is None else muster.privacy.Budget(1e3, DELTA["digits"]),
    )


def shares(noise: float | None, seed: int = 0, masked: bool = False) -> muster.Plan:
    """Return the same with the noise in shares on the clients, made for nine of ten of them."""
    stages: list[Any] = [pipeline.Clip(1.0), pipeline.Quantize(16)]
    lost = LOST / COHORT
    if noise is not None:
        stages.append(pipeline.DiscreteNoise(noise, clients=COHORT, dropout=lost))
    if masked:
        stages.append(pipeline.SecureSum(minimum=COHORT - BORNE, dropout=BORNE / COHORT))
    return replace(
        digits(None, seed),
        pipeline=tuple(stages),
        sampling=sampling.Uniform(count=COHORT),
        minimum=COHORT - LOST,
        budget=None if noise is None else muster.privacy.Budget(1e3, DELTA["digits"]),
    )


def hospitals(noise: float | None, seed: int = 0) -> muster.Plan:
    """Return logistic regression at four hospitals, all of them in every round."""
    stages = [pipeline.Clip(0.25)]
    return muster.Plan(
        task=tasks.numpy.LogisticRegression(13),
        algorithm=algorithms.FedAvg(),
        local=muster.Local(steps=100, batch=4, optimizer=optimizers.SGD(0.01)),
        pipeline=stages if noise is None else [*stages, pipeline.Noise(noise)],
        aggregation=aggregation.Mean("expected"),
        weighting="equal",
        rounds=8,
        seed=seed,
        evaluate=muster.Every(8, clients=0),
        budget=None if noise is None else muster.privacy.Budget(1e3, DELTA["hospitals"]),
    )


def wards(noise: float | None, seed: int = 0, masked: bool = False) -> muster.Plan:
    """Return the four hospitals in integers, with or without masks; one may be lost."""
    stages: list[Any] = [pipeline.Clip(0.25), pipeline.Quantize(16)]
    if noise is not None:
        stages.append(pipeline.DiscreteNoise(noise, clients=4, dropout=0.25))
    if masked:
        stages.append(pipeline.SecureSum(minimum=3, dropout=0.25))
    return replace(
        hospitals(None, seed),
        pipeline=tuple(stages),
        minimum=3,
        budget=None if noise is None else muster.privacy.Budget(1e3, DELTA["hospitals"]),
    )


def masks(given: Any, make: Any, seeds: Sequence[int]) -> Iterator[str]:
    """Yield what masks cost: accuracy, bytes, time; and whether a bit of the model differs."""
    models: dict[bool, list[Any]] = {False: [], True: []}
    for masked in (False, True):
        accuracy, seconds = [], []
        for seed in seeds:
            plan = make(None, seed, masked)
            with tempfile.TemporaryDirectory() as folder:
                run = muster.simulate(plan, *given, path=Path(folder) / "run", workers=1)
            models[masked].append(run.parameters.tobytes())
            accuracy.append(run.trained[-1]["metrics"]["accuracy"])
            seconds += [record["seconds"] for record in run.trained]
        first = run.trained[0]
        up = first["bytes_up"] / len(first["accepted"])
        same = "–" if not masked else "no" if models[True] != models[False] else "yes"
        spread = f"{np.mean(accuracy):.3f} ± {np.std(accuracy, ddof=1):.3f}"
        name = "`SecureSum`" if masked else "in the clear"
        took = f"{1e3 * float(np.median(seconds)):.0f} ms"
        yield f"| {make.__name__}, {name} | {spread} | {up:,.0f} | {took} | {same} |"


def measured(plan: Any, given: Any, seeds: Sequence[int]) -> list[float]:
    """Return the accuracy on central test rows for each seed."""
    population, test = given
    found = []
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "run"
            run = muster.simulate(plan(seed), population, test, path=path, workers=1)
        found.append(run.trained[-1]["metrics"]["accuracy"])
    return found


def promised(plan: muster.Plan, given: Any) -> tuple[float, float]:
    """Return ε of all rounds, and ε were no share of the noise known to others."""
    population, _ = given
    roster = Roster(population.clients, lambda: population.sizes)
    once = charges(plan, roster, "run")
    all_shares = [replace(c, release=replace(c.release, known=0)) for c in once]
    delta = plan.budget.delta  # type: ignore[union-attr]
    whole, rest = (
        spent([replace(c, rounds=plan.rounds) for c in each], delta).epsilon
        for each in (all_shares, once)
    )
    return rest, whole


def rows(make: Any, levels: Sequence[float], given: Any, seeds: Sequence[int]) -> Iterator[str]:
    """Yield a line of the table for each level of noise."""
    masked = {"masked": True} if make in (shares, wards) else {}
    for noise in (None, *levels):
        accuracy = measured(lambda seed, z=noise: make(z, seed), given, seeds)
        name, bounds = f"{noise:g}" if noise is not None else "none (clip alone)", ["∞", "∞"]
        if noise is not None:
            bounds = [f"{epsilon:.2f}" for epsilon in promised(make(noise, **masked), given)]
        bound = " | ".join(bounds[: 1 + len(masked)])
        spread = f"{np.mean(accuracy):.3f} ± {np.std(accuracy, ddof=1):.3f}"
        yield f"| {name} | {bound} | {spread} | {_canaries(make(noise), given)} |"


def _canaries(plan: muster.Plan, given: Any) -> str:
    """Return the findings of canaries, where the model is large enough for them."""
    if why_not(plan) is not None:
        return "–"
    found = shown(plan, given[0], plan.rounds, DELTA["digits"]).last
    return f"{found.epsilon:.2f} (≥ {found.least:.2f})"


def tables(seeds: Sequence[int], only: Sequence[str] = ()) -> Iterator[tuple[str, str]]:
    """Yield every table by its name, or those that are asked for, as Markdown."""
    writers, beds = data.digits(clients=WRITERS), data.heart_disease()
    head = "| noise multiplier | ε at δ = {delta:g}{more} | test accuracy | ε that canaries find |"
    line = "|---|---|---|---|"
    for name, make, levels, given in (
        ("digits", digits, DIGITS, writers),
        ("shares", shares, SHARES, writers),
        ("hospitals", hospitals, HOSPITALS, beds),
        ("wards", wards, HOSPITALS, beds),
    ):
        if only and name not in only:
            continue
        delta = DELTA["hospitals" if given is beds else "digits"]
        more = ", a third of the shares known | with all shares" if make in (shares, wards) else ""
        body = rows(make, levels, given, seeds)
        wide = line + "---|" * bool(more)
        yield name, "\n".join([head.format(delta=delta, more=more), wide, *body])
    if not only or "masks" in only:
        head = "| plan | test accuracy | octets up, a client and round | a round | the same bits |"
        body = [*masks(writers, shares, seeds), *masks(beds, wards, seeds)]
        yield "masks", "\n".join([head, line + "---|", *body])


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables, or put them between the marks of a page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=(), help="tables by name; else all of them")
    parser.add_argument("--write", type=Path)
    given = parser.parse_args(arguments)
    for name, text in tables(range(given.seeds), given.only):
        print(f"{name}\n\n{text}\n", flush=True)
        if given.write:
            put(given.write, name, text)
    return 0


def put(page: Path, name: str, text: str) -> None:
    """Put a table between its marks on a page."""
    begin, end = f"<!-- {name}: measured -->\n", f"<!-- {name}: end -->"
    before, _, rest = page.read_text("utf-8").partition(begin)
    page.write_text(f"{before}{begin}{text}\n{end}{rest.partition(end)[2]}", "utf-8")


if __name__ == "__main__":
    sys.exit(main())
