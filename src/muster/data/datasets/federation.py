# SPDX-License-Identifier: Apache-2.0
"""A federation, as every dataset function returns it: who holds what, and central test rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from muster.data.partition import Parts, dirichlet, iid, shards, split
from muster.data.population import Population
from muster.data.rows import ClientId, Pair
from muster.errors import DataError

__all__ = ["Federation", "Partition", "as_population", "dealt", "federated"]

Partition = Literal["iid", "shards", "dirichlet"]


class Federation(NamedTuple):
    """A population, and the test rows `(x, y)` that a central evaluation uses."""

    population: Population
    test: Pair


def as_population(given: Any) -> tuple[Population, Pair | None]:
    """Return the population in what was given, and the central test rows where it has some.

    A population, a dataset with its test rows, or rows by client. Raises `DataError`.

    >>> as_population({"a": ([[1.0]], [0])})
    (<Population clients=1, rows=1>, None)
    """
    if isinstance(given, Federation):
        return given
    if isinstance(given, Mapping):
        return Population.from_arrays(given), None
    if isinstance(given, Population):
        return given, None
    raise DataError(
        f"population is a {type(given).__name__}; give a muster.Population, such as "
        f"Population.from_arrays({{client: (x, y)}}), or a dataset such as muster.data.digits()"
    )


def federated(train: Mapping[ClientId, Pair], test: Mapping[ClientId, Pair]) -> Federation:
    """Return a federation whose central test rows are all clients' own, in client order."""
    population = Population.from_arrays(
        train, {k: pair for k, pair in test.items() if len(pair[0])}
    )
    pooled = population.pooled_test()
    assert pooled is not None
    return Federation(population, pooled)


def dealt(
    train: Pair,
    test: Pair,
    clients: int,
    partition: str,
    alpha: float,
    seed: int,
    local_test: float,
) -> Federation:
    """Deal training rows to clients by a named partition, with a central test set.

    Raises `DataError` on an unknown partition, or where it is impossible.
    """
    x, y = train
    parts: Parts
    if partition == "iid":
        parts = iid(len(y), clients, seed)
    elif partition == "shards":
        parts = shards(y, clients, 2, seed)
    elif partition == "dirichlet":
        parts = dirichlet(y, clients, alpha, seed)
    else:
        raise DataError(
            f"partition={partition!r} was given, 'iid', 'shards' or 'dirichlet' is required; "
            "or deal the rows yourself with split"
        )
    return Federation(split(x, y, parts, local_test, seed), test)
