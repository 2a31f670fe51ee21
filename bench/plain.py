# SPDX-License-Identifier: Apache-2.0
"""The loop one would write by hand: FedAvg in plain PyTorch, on one process or several.

    python -m bench.plain w2e1 --rounds 7 --threads 1 --processes 2

Rows are in memory, there is no evaluation and no checkpoint; with several processes the cohort
is dealt to forked workers and weights travel through pipes. `--follow` takes cohorts and batch
orders from muster's keys instead of its own generator, so that results can be compared.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from typing import Any

import numpy as np
import torch
from torch import nn

from bench import models
from bench.workloads import WORKLOADS, Workload, client_rows
from muster import keys

__all__ = ["main"]


def cohort(w: Workload, round: int, follow: bool) -> list[int]:
    """Return the clients of a round (1-based)."""
    if follow:
        draw = keys.key(0).at("sample", round).generator()
    else:
        draw = np.random.default_rng([20240, 777_777, round])
    return sorted(draw.choice(w.clients, w.cohort, replace=False).tolist())


def orders(w: Workload, round: int, client: int, follow: bool) -> list[Any]:
    """Return the order of the client's rows in each epoch."""
    if follow:
        key = keys.key(0).at("train", round)
        drawn = keys.order(key, keys.numbers([client]), [w.rows], w.epochs)[0]
        return [torch.from_numpy(order) for order in drawn]
    generator = torch.Generator().manual_seed(round * 100003 + client)
    return [torch.randperm(w.rows, generator=generator) for _ in range(w.epochs)]


def train(w: Workload, model: nn.Module, rows: tuple[Any, Any], walks: list[Any]) -> None:
    """Train one client's local epochs of plain SGD."""
    x, y = rows
    optimizer = torch.optim.SGD(model.parameters(), lr=w.rate)
    loss = nn.CrossEntropyLoss()
    model.train()
    for walk in walks:
        for first in range(0, w.rows, w.batch):
            chosen = walk[first : first + w.batch]
            optimizer.zero_grad()
            loss(model(x[chosen]), y[chosen]).backward()
            optimizer.step()


def summed(
    w: Workload,
    model: nn.Module,
    weights: list[Any],
    rows: dict[int, Any],
    clients: list[int],
    round: int,
    follow: bool,
) -> list[Any]:
    """Return Σ n_k w_k over some clients."""
    sums = [torch.zeros_like(p) for p in weights]
    for client in clients:
        with torch.no_grad():
            for p, g in zip(model.parameters(), weights, strict=True):
                p.copy_(g)
        train(w, model, rows[client], orders(w, round, client, follow))
        with torch.no_grad():
            for s, p in zip(sums, model.parameters(), strict=True):
                s.add_(p, alpha=w.rows)
    return sums


def _work(pipe: Any, w: Workload, threads: int, rows: dict[int, Any], follow: bool) -> None:
    torch.set_num_threads(threads)
    model = getattr(models, w.model)()
    while (job := pipe.recv()) is not None:
        round, clients, weights = job
        tensors = [torch.from_numpy(p) for p in weights]
        pipe.send([s.numpy() for s in summed(w, model, tensors, rows, clients, round, follow)])


def main() -> None:
    """Run rounds and print one JSON line: seconds of each round, and the final weights' file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("workload", choices=list(WORKLOADS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--follow", action="store_true")
    parser.add_argument("--start", default="", help="a file with the start, as one vector")
    parser.add_argument("--save", default="")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    w = WORKLOADS[options.workload]
    model = getattr(models, w.model)()
    weights = [p.detach().clone() for p in model.parameters()]
    if options.start:
        start = torch.from_numpy(np.load(options.start))
        parts = start.split([p.numel() for p in weights])
        weights = [part.view_as(p) for part, p in zip(parts, weights, strict=True)]
    rows = {
        c: tuple(torch.from_numpy(part) for part in client_rows(w, c)) for c in range(w.clients)
    }
    pipes = _forked(w, options, rows) if options.processes > 1 else []
    seconds = []
    for round in range(1, options.rounds + 1):
        began = time.perf_counter()
        clients = cohort(w, round, options.follow)
        if pipes:
            weights = _dealt(w, pipes, weights, clients, round)
        else:
            sums = summed(w, model, weights, rows, clients, round, options.follow)
            weights = [s / (w.rows * len(clients)) for s in sums]
        seconds.append(time.perf_counter() - began)
    for pipe in pipes:
        pipe.send(None)
    if options.save:
        np.save(options.save, np.concatenate([p.numpy().reshape(-1) for p in weights]))
    print(json.dumps({"seconds": seconds}), flush=True)


def _forked(w: Workload, options: Any, rows: dict[int, Any]) -> list[Any]:
    context, pipes = multiprocessing.get_context("fork"), []
    for _ in range(options.processes):
        ours, theirs = context.Pipe()
        arguments = (theirs, w, options.threads, rows, options.follow)
        context.Process(target=_work, args=arguments, daemon=True).start()
        pipes.append(ours)
    return pipes


def _dealt(
    w: Workload, pipes: list[Any], weights: list[Any], clients: list[int], round: int
) -> list[Any]:
    arrays = [p.numpy() for p in weights]
    for i, pipe in enumerate(pipes):
        pipe.send((round, clients[i :: len(pipes)], arrays))
    parts = [pipe.recv() for pipe in pipes]
    total = np.float32(w.rows * len(clients))
    return [
        torch.from_numpy(np.sum([part[i] for part in parts], axis=0) / total)
        for i in range(len(arrays))
    ]


if __name__ == "__main__":
    main()
