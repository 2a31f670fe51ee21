# SPDX-License-Identifier: Apache-2.0
"""Sums in fixed point against sums of floats: how long a number takes to be added.

    python -m bench.sums [--pairs 15]

Four sides take turns in one process on the same float32 replies, one reply at a time: a float64
sum; the float32 sum that is the default of such a plan; fixed point; and the least that any
fixed point costs, with one unit agreed before and a check of the range. Then whole rounds of a
small plan, with either sum. Processor seconds on one thread, since the machine may be busy;
medians and quartiles, one JSON line a case. That fixed point is within its bound of the float64
sum, and the same in another order, is tried before its seconds count.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

import muster
from muster import aggregation, algorithms, data, optimizers, tasks
from muster.aggregation.fixed_point import BLOCK, FixedPointSum

__all__ = ["main", "rounds", "sums"]

CASES = [  # coordinates, replies; 10^7 with 1000 would be 10^10 numbers a turn
    (10**5, 10),
    (10**5, 100),
    (10**5, 1000),
    (10**6, 10),
    (10**6, 100),
    (10**6, 1000),
    (10**7, 10),
    (10**7, 100),
]
HELD = 200 << 20  # bytes of replies that differ; they come again and again
UNIT, RANGE = 2.0**-44, 2.0**7  # of the one unit that is agreed before
CLIENTS = (10, 100)
ROUNDS = 10


def sums(size: int, count: int, pairs: int) -> dict[str, Any]:
    """Nanoseconds a number, of each side."""
    draw = np.random.default_rng(size + count)
    distinct = min(count, max(2, HELD // (4 * size)))
    held = [draw.normal(size=size).astype(np.float32) for _ in range(distinct)]
    replies = [held[i % distinct] for i in range(count)]
    wanted, found = _floats(replies, np.float64), _fixed(replies)
    largest = max(float(np.abs(one).max()) for one in held)
    bound = count * largest * 2.0**-40 + np.spacing(np.abs(found)).astype(float)
    assert (np.abs(found - wanted) <= bound).all()
    assert found.tobytes() == _fixed(replies[::-1]).tobytes()
    sides: dict[str, Callable[[], Any]] = {
        "float64": lambda: _floats(replies, np.float64),
        "float32": lambda: _floats(replies, np.float32),
        "fixed": lambda: _fixed(replies),
        "one agreed unit": lambda: _agreed(replies),
    }
    assert (np.abs(_agreed(replies) - wanted) <= count * UNIT).all()
    seen = _alternated(sides, pairs)
    each = {name: [s / size / count * 1e9 for s in seconds] for name, seconds in seen.items()}
    return {"coordinates": size, "replies": count, **_facts(each, "ns a number")}


def _floats(replies: list[Any], dtype: Any) -> Any:
    total = np.zeros(len(replies[0]), dtype)
    for reply in replies:
        total += reply
    return total


def _fixed(replies: list[Any]) -> Any:
    total = FixedPointSum(len(replies[0]), np.float32)
    for reply in replies:
        total.deposit(reply)
    return total.value()


def _agreed(replies: list[Any]) -> Any:
    """Multiples of one unit, for numbers that are known to be below 2^51 of them."""
    total, magic = np.zeros(len(replies[0]), np.uint64), 1.5 * 2.0**52 * UNIT
    for begin in range(0, len(total), BLOCK):
        scratch, part = np.empty(BLOCK), total[begin : begin + BLOCK]
        cast = scratch[: len(part)]
        for reply in replies:
            numbers = reply[begin : begin + BLOCK]
            assert numbers.max() < RANGE and numbers.min() > -RANGE
            cast[...] = numbers
            cast += magic
            part += cast.view(np.uint64)
    bits = len(replies) * int(np.float64(magic).view(np.uint64)) % 2**64
    return (total - np.uint64(bits)).view(np.int64) * UNIT


def rounds(clients: int, pairs: int) -> dict[str, Any]:
    """Milliseconds a round of a small network on digits, training and commit included."""
    plan = muster.Plan(
        task=tasks.numpy.MLP([64, 64, 10]),
        algorithm=algorithms.FedAvg(),
        local=muster.Local(epochs=1, batch=16, optimizer=optimizers.SGD(0.1)),
        rounds=ROUNDS,
        evaluate=muster.Every(ROUNDS, clients=0),
    )
    people = data.digits(clients=clients).population
    fixed = replace(plan, aggregation=aggregation.Mean(sum="fixed"))
    sides = {"float": lambda: _trained(plan, people), "fixed": lambda: _trained(fixed, people)}
    seen = _alternated(sides, pairs)
    each = {name: [s / ROUNDS * 1e3 for s in seconds] for name, seconds in seen.items()}
    return {"clients": clients, **_facts(each, "ms a round")}


def _trained(plan: muster.Plan, people: muster.Population) -> None:
    with tempfile.TemporaryDirectory() as folder:
        muster.simulate(plan, people, path=Path(folder) / "run", workers=1)


def _alternated(sides: dict[str, Callable[[], Any]], pairs: int) -> dict[str, list[float]]:
    """Return the processor seconds of each side, which takes its turn first every other time."""
    seen: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(pairs + 1):
        for name, side in list(sides.items())[:: -1 if turn % 2 else 1]:
            began = time.process_time()
            side()
            seen[name].append(time.process_time() - began)
    return {name: seconds[1:] for name, seconds in seen.items()}  # the first warms up


def _facts(each: dict[str, list[float]], unit: str) -> dict[str, Any]:
    first = next(iter(each))
    found: dict[str, Any] = {"unit": unit}
    for name, values in each.items():
        low, _, high = quantiles(values, n=4)
        found[name] = {"median": _short(median(values)), "quartiles": [_short(low), _short(high)]}
    found["fixed/" + first] = _short(median(each["fixed"]) / median(each[first]))
    return found


def _short(value: float) -> float:
    return float(f"{value:.3g}")


def main() -> None:
    """Print one JSON line for each case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=15)
    pairs = parser.parse_args().pairs
    with threadpool_limits(1):
        for size, count in CASES:
            print(json.dumps({"sum": sums(size, count, pairs)}), flush=True)
        for clients in CLIENTS:
            print(json.dumps({"round": rounds(clients, pairs)}), flush=True)


if __name__ == "__main__":
    main()
