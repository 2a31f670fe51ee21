# SPDX-License-Identifier: Apache-2.0
"""Lies in a masked sum: what liars do, and what groups with a rule across them do about it.

    python -m bench.liars [--seeds 5] [--write docs/privacy.md]

A hundred writers of digits, all of them in every round. Liars train on their own rows with every
label d turned into 9 − d and INK times the ink, under a clip that no honest update reaches.
Everything but the aggregation and the groups is equal; the masks change no bit.
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
from bench.privacy import WRITERS, digits, put
from muster import aggregation, data, pipeline, sampling

__all__ = ["defended", "main", "poisoned", "table"]

INK = 30
BOUND = 20.0  # no honest update is as long (tests/bench/test_liars.py)
LIARS = (0, 2, 5, 10)
# a rule, over how many groups, and the fraction of clients that so small groups let collude
DEFENCES: tuple[tuple[str, int, Any, float], ...] = (
    ("`Mean()`, one sum", 1, aggregation.Mean(), 1 / 3),
    ("`Median()`, 10 groups", 10, aggregation.Median(), 0.35),
    ("`TrimmedMean(5)`, 20 groups", 20, aggregation.TrimmedMean(5), 0.09),
    ("`Median()`, 33 groups", 33, aggregation.Median(), 0.01),
)


def defended(groups: int, rule: Any, corrupt: float, seed: int) -> muster.Plan:
    """Return the plan of the digits, in integers under masks."""
    secure = pipeline.SecureSum(groups=groups, corrupt=corrupt, dropout=0.0)
    stages = (pipeline.Clip(BOUND), pipeline.Quantize(16), secure)
    return replace(
        digits(None, seed),
        sampling=sampling.All(),
        pipeline=stages,
        aggregation=rule,
        rounds=20,
        evaluate=muster.Every(20, clients=0),
    )


def poisoned(population: muster.Population, liars: int, seed: int) -> muster.Population:
    """Return the population with some clients' rows turned into lies."""
    some = np.random.default_rng(seed).choice(len(population), liars, replace=False).tolist()
    names = {population.clients[i] for i in some}
    told = {}
    for client in population.clients:
        x, y = population[client]
        told[client] = (INK * x, 9 - y) if client in names else (x, y)
    return muster.Population.from_arrays(told)


def table(seeds: Sequence[int]) -> str:
    """Return accuracy on central test rows, a row for each defence, as Markdown."""
    head = (
        "| aggregation | may collude | "
        + " | ".join(f"{n} liars of {WRITERS}" for n in LIARS)
        + " |"
    )
    return "\n".join([head, "|---" * (2 + len(LIARS)) + "|", *_rows(seeds)])


def _rows(seeds: Sequence[int]) -> Iterator[str]:
    population, test = data.digits(clients=WRITERS)
    for name, groups, rule, corrupt in DEFENCES:
        cells = []
        for liars in LIARS:
            found = []
            for seed in seeds:
                people = poisoned(population, liars, seed)
                with tempfile.TemporaryDirectory() as folder:
                    path = Path(folder) / "run"
                    run = muster.simulate(
                        defended(groups, rule, corrupt, seed), people, test, path=path, workers=1
                    )
                found.append(run.history[-1]["metrics"]["accuracy"])
            cells.append(f"{np.mean(found):.3f} ± {np.std(found, ddof=1):.3f}")
        yield f"| {name} | {int(corrupt * WRITERS)} | {' | '.join(cells)} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, or put it between the marks of a page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--write", type=Path)
    given = parser.parse_args(arguments)
    text = table(range(given.seeds))
    print(text)
    if given.write:
        put(given.write, "liars", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
