# SPDX-License-Identifier: Apache-2.0
"""A metric of your own: a name, a direction, sums over rows that become a value.

python examples/own_metric.py
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

import muster
from muster import algorithms, data, metrics, optimizers, tasks
from muster.testing import check_metric


@dataclass(frozen=True)
class Within(metrics.Metric):
    """Share of rows whose true class is among the k likeliest."""

    k: int = 3
    lower_is_better = False

    @property
    def name(self) -> str:
        """The name in tables and stop rules."""
        return f"within {self.k}"

    def sums(self, outputs: Any, y: Any) -> dict[str, Any]:
        """Return the sums, which add up over rows, clients and masks."""
        hits = (np.argsort(-outputs, 1)[:, : self.k] == y[:, None]).any(1)
        return {"hits": hits.sum(), "rows": len(y)}

    def value(self, sums: Mapping[str, Any]) -> float:
        """Return the value that these sums stand for."""
        return float(sums["hits"] / sums["rows"])


plan = muster.Plan(
    task=tasks.numpy.MLP((64, 32, 10)),
    algorithm=algorithms.FedAvg(),
    local=muster.Local(epochs=1, batch=16, optimizer=optimizers.SGD(0.1)),
    metrics=(Within(3), metrics.F1("macro"), metrics.Brier()),
    stop=(muster.Target("within 3", 0.95), muster.EarlyStopping("brier", evaluations=5)),
    rounds=40,
)

if __name__ == "__main__":
    check_metric(Within())
    run = muster.simulate(plan, data.digits(clients=10, alpha=0.5))
    print(f"round {run.round}, on {run.measured}: {run.metrics}")
