# SPDX-License-Identifier: Apache-2.0
"""The price of promising every patient privacy: accuracy against ε at four hospitals.

    python -m bench.patients [--seeds 20]

The hospitals of `muster new hospitals` train one logistic regression: as it is, with each
patient's gradient clipped and next to no noise, and with three noise multipliers, all else equal.
ε is each hospital's own promise to its own patients, at δ = 1/n^1.1 of its n training rows,
add-or-remove, Poisson batches, when it takes part in every round. Accuracy is on the test
patients of all hospitals together, over seeds of start, batches and noise. Rate, steps and batch
were chosen by a small grid on those same patients, one for all rows of the table; that choice is
not in ε.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import muster
from muster import algorithms, data, optimizers, tasks
from muster.data import Population
from muster.privacy import PerExample, promise

__all__ = ["main", "measured", "planned"]

LEVELS = {"none": None, "clip alone": 1e-6, "1": 1.0, "4": 4.0, "16": 16.0}
ROUNDS, STEPS, BATCH, CLIP = 10, 10, 16, 1.0


def planned(multiplier: float | None, seed: int = 0) -> muster.Plan:
    examples = None if multiplier is None else PerExample(CLIP, multiplier)
    return muster.Plan(
        task=tasks.numpy.LogisticRegression(13),
        algorithm=algorithms.FedAvg(),
        local=muster.Local(
            steps=STEPS, batch=BATCH, optimizer=optimizers.SGD(0.1), examples=examples
        ),
        rounds=ROUNDS,
        seed=seed,
        evaluate=muster.Every(ROUNDS, clients=0),
    )


def measured(multiplier: float | None, seeds: Sequence[int]) -> Any:
    """Return the accuracy on all hospitals' test patients, for each seed."""
    population, test = data.heart_disease()
    found = []
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            run = muster.simulate(
                planned(multiplier, seed), population, test, path=Path(folder) / "run", workers=1
            )
            found.append(run.history[-1]["metrics"]["accuracy"])
    return np.array(found)


def epsilons(multiplier: float, population: Population) -> dict[str, float]:
    local = planned(multiplier).local
    sizes = dict(zip(population, population.sizes.tolist(), strict=True))
    return {str(site): promise(local, n, ROUNDS, n**-1.1).epsilon for site, n in sizes.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=20)
    seeds = range(parser.parse_args().seeds)
    population, _ = data.heart_disease()
    sites = [f"{site} ({n})" for site, n in zip(population, population.sizes, strict=True)]
    print(f"| noise multiplier | accuracy, mean ± sd | {' | '.join(f'ε {s}' for s in sites)} |")
    print("|---|---|" + "---|" * len(sites))
    for name, level in LEVELS.items():
        accuracy = measured(level, seeds)
        found = epsilons(level, population) if level and level > 0.1 else {}
        cells = [f"{math.ceil(100 * e) / 100:.2f}" for e in found.values()] or ["∞"] * len(sites)
        print(
            f"| {name} | {accuracy.mean():.3f} ± {accuracy.std(ddof=1):.3f} | "
            f"{' | '.join(cells)} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
