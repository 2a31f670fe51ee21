# SPDX-License-Identifier: Apache-2.0
"""100,000 clients known by a function, w1's model: `python -m bench.crowd --cohort 1000`."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import muster
from bench.contenders import plan
from bench.workloads import WORKLOADS, client_rows
from muster import sampling

__all__ = ["main", "rows_of"]


def rows_of(client: int) -> tuple[Any, Any]:
    """Return the rows of one client, made when asked for."""
    return client_rows(WORKLOADS["w1"], client)


def main() -> None:
    """Run rounds and print their seconds."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cohort", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    crowd = muster.Population.lazy(range(100_000), rows_of, sizes=WORKLOADS["w1"].rows)
    chosen = sampling.Uniform(count=options.cohort)
    task = plan(WORKLOADS["w1"], "numpy", options.rounds)
    again = muster.Plan(
        task.task,
        task.algorithm,
        task.local,
        chosen,
        rounds=options.rounds,
        evaluate=task.evaluate,
    )
    seconds: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        muster.simulate(
            again,
            crowd,
            path=Path(folder) / "run",
            workers=1,
            watch=lambda record: seconds.append(record["seconds"]),
        )
    print(json.dumps({"seconds": seconds}))


if __name__ == "__main__":
    main()
