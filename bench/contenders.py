# SPDX-License-Identifier: Apache-2.0
"""The plans that muster runs on each workload, importable by its worker processes."""

from __future__ import annotations

from typing import Any

import muster
from bench.workloads import Workload, client_rows
from muster import algorithms, optimizers, sampling

__all__ = ["plan", "population"]


def population(w: Workload) -> muster.Population:
    """Return all clients of a workload."""
    return muster.Population.from_arrays({c: client_rows(w, c) for c in range(w.clients)})


def plan(w: Workload, framework: str, rounds: int, **changes: Any) -> muster.Plan:
    """Return FedAvg on a workload in one framework, without evaluation inside the rounds."""
    return muster.Plan(
        task=task(w, framework),
        algorithm=algorithms.FedAvg(),
        local=muster.Local(epochs=w.epochs, batch=w.batch, optimizer=optimizers.SGD(w.rate)),
        sampling=sampling.Uniform(count=w.cohort),
        rounds=rounds,
        evaluate=muster.Every(10**9, clients=0),
        **changes,
    )


def task(w: Workload, framework: str) -> Any:
    """Return the workload's model as a task of muster."""
    sizes = (784, 200, 200, 10)
    if framework == "numpy":
        from muster.tasks import numpy as tasks

        return tasks.SoftmaxRegression(60, 10) if w.model == "softmax" else tasks.MLP(sizes)
    if framework == "jax":
        from muster.tasks import jax as tasks_jax

        if w.model == "softmax":
            return tasks_jax.SoftmaxRegression(60, 10)
        return tasks_jax.MLP(sizes)
    from bench import models
    from muster.tasks import torch as tasks_torch

    return tasks_torch.Classifier(getattr(models, w.model))
