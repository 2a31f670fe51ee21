# SPDX-License-Identifier: Apache-2.0
"""Federated averaging from scratch: NumPy alone, four parts, well under a second.

Five clients hold rows that never leave them. In each round the server sends the model out, every
client improves it on its own rows, and the server averages what comes back, each client counting
by its number of rows (McMahan et al. 2017, arXiv:1602.05629, Algorithm 1, with every client in
every round and full batches). The model is logistic regression; the last parameter is the bias.

    python examples/fedavg_from_scratch.py
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

HIDDEN = np.array([1.5, -2.0, 0.8, 0.0])


class Client(NamedTuple):
    """The rows of one data holder: features `(n, 4)`, the last column all ones; labels `(n,)`."""

    x: Vector
    y: Vector


def sigmoid(z: Vector) -> Vector:
    """Return the chance of label 1 at score z."""
    return 1 / (1 + np.exp(-z))


# 1. Make the federated data.
def make_clients(count: int = 5, seed: int = 0) -> list[Client]:
    """Make clients of 150 to 399 rows, whose labels are coins tossed by the hidden weights."""
    rng = np.random.default_rng(seed)
    clients = []
    for _ in range(count):
        size = rng.integers(150, 400)
        x = np.column_stack([rng.standard_normal((size, 3)), np.ones(size)])
        y = rng.random(size) < sigmoid(x @ HIDDEN)
        clients.append(Client(x, y.astype(np.float64)))
    return clients


# 2. Client update: only the difference leaves the client, never a row.
def client_update(w: Vector, client: Client, steps: int, rate: float) -> Vector:
    """Walk `steps` full-batch gradient steps from w; return how far they led, `(4,)`."""
    local = w
    for _ in range(steps):
        error = sigmoid(client.x @ local) - client.y
        local = local - rate * (client.x.T @ error / len(error))
    return local - w


# 3. Weighted average: a client of twice the rows counts twice.
def weighted_average(updates: list[Vector], sizes: list[int]) -> Vector:
    """Return the mean of the updates, weighted by rows, `(4,)`."""
    return np.average(updates, axis=0, weights=sizes)


# 4. Evaluate: the loss over all rows, as a sum over clients divided once by the row count.
def evaluate(w: Vector, clients: list[Client]) -> float:
    """Return the mean logistic loss of w over the rows of all clients together."""
    scores = [c.x @ w for c in clients]
    sums = [np.sum(np.logaddexp(0, z) - c.y * z) for z, c in zip(scores, clients, strict=True)]
    return float(sum(sums) / sum(len(c.y) for c in clients))


def fedavg(rounds: int, steps: int = 5, rate: float = 0.1) -> tuple[Vector, list[float]]:
    """Train from zero; return the final model `(4,)` and the loss after each round."""
    clients = make_clients()
    sizes = [len(c.y) for c in clients]
    w, losses = np.zeros(len(HIDDEN)), []
    for _ in range(rounds):
        updates = [client_update(w, client, steps, rate) for client in clients]
        w = w + weighted_average(updates, sizes)
        losses.append(evaluate(w, clients))
    return w, losses


def fedsgd(rounds: int, rate: float = 0.5) -> tuple[Vector, list[float]]:
    """Train by one step per round: the average of the clients' gradients is that of all rows."""
    return fedavg(rounds, steps=1, rate=rate)


def main() -> None:
    """Print the loss of both methods, round by round."""
    print("round      FedAvg      FedSGD")
    pairs = zip(fedavg(20)[1], fedsgd(20)[1], strict=True)
    for round, (averaged, single) in enumerate(pairs, start=1):
        print(f"{round:5d}{averaged:12.6f}{single:12.6f}")


if __name__ == "__main__":
    main()
