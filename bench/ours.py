# SPDX-License-Identifier: Apache-2.0
"""One contender of muster's: `python -m bench.ours w1 --framework numpy --workers 1`."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

import muster
from bench import contenders
from bench.workloads import WORKLOADS
from muster import keys

__all__ = ["main"]


def main() -> None:
    """Run rounds with durable commits and print one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("workload", choices=list(WORKLOADS))
    parser.add_argument("--framework", default="torch")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--save", default="")
    options = parser.parse_args()
    w = WORKLOADS[options.workload]
    plan = contenders.plan(w, options.framework, options.rounds)
    rows = contenders.population(w)
    workers = options.workers or None
    seconds: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        run = muster.simulate(
            plan,
            rows,
            path=Path(folder) / "run",
            engine=options.engine,
            workers=workers,
            watch=lambda record: seconds.append(record["seconds"]),
        )
        if options.save:
            start, _ = plan.task.init(keys.key(plan.seed).at("init"))
            np.save(options.save, np.stack([start, run.parameters]))
    why = muster.explain(plan, rows, options.engine, workers)
    print(json.dumps({"seconds": seconds, "engine": why["engine"], "workers": why["workers"]}))


if __name__ == "__main__":
    sys.exit(main())
