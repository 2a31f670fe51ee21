# SPDX-License-Identifier: Apache-2.0
"""A plan whose `fit` misbehaves where a file in $CREW says so.

`python -m tests.chaos.crew FOLDER WORKERS` trains it. The files are named
`<deed>-<client>-<round>`: "die" kills the process once, "doom" each time, "leave" and "exit" end
it, "raise" and "starve" raise, "hang" says so on standard output and never returns.
"""

import contextlib
import os
import signal
import sys
import threading
from functools import partial
from pathlib import Path

import numpy as np

import muster
from muster import algorithms, tasks

CLIENTS, ROUNDS = 9, 4


def start():
    """One array."""
    return {"mean": np.zeros(3)}


def fit(model, data, config):
    """Towards the mean of the rows, unless a file says otherwise."""
    client = int(data[1][0])
    for deed, act in DEEDS.items():
        flag = Path(os.environ.get("CREW", "/nowhere")) / f"{deed}-{client}-{config.round}"
        if flag.exists():
            if deed == "die":
                flag.unlink()
            elif deed in ("leave", "exit"):
                with flag.open("a") as file:
                    file.write("once\n")
            act()
    return {"mean": model["mean"] + config.rate * (data[0].mean(0) - model["mean"])}


def die():
    """At once."""
    os.kill(os.getpid(), signal.SIGKILL)


def fail():
    """As user code does."""
    raise ValueError("the scanner was off")


def starve():
    """As where memory runs out."""
    raise MemoryError("no room for the batch")


def hang():
    """For ever."""
    print("hanging", flush=True)
    threading.Event().wait()


DEEDS = {
    "die": die,
    "doom": die,
    "leave": partial(os._exit, 3),
    "exit": partial(sys.exit, 3),
    "raise": fail,
    "starve": starve,
    "hang": hang,
}


def measure(model, data):
    """The squared distance."""
    return {"loss": float(((data[0] - model["mean"]) ** 2).mean())}


def load(client):
    """A client's rows, where they are loaded on demand."""
    draw = np.random.default_rng(client)
    return draw.normal(client, 1, (4 + client, 3)), np.full(4 + client, client)


PLAN = muster.Plan(
    task=tasks.custom.Custom(start, fit, measure),
    algorithm=algorithms.FedAvg(),
    local=muster.Local(epochs=1),
    rounds=ROUNDS,
    dtype="float64",
)


def population(*, lazy=False):
    """Nine clients of 4 to 12 rows."""
    if lazy:
        return muster.Population.lazy(range(CLIENTS), load)
    return muster.Population.from_arrays({client: load(client) for client in range(CLIENTS)})


def train(folder, workers, *, lazy=False, **options):
    """A run, or the rest of one."""
    resume = (Path(folder) / "run.db").exists()
    return muster.simulate(
        PLAN, population(lazy=lazy), path=folder, resume=resume, workers=workers, **options
    )


if __name__ == "__main__":
    from tests.chaos import crew  # not __main__, whose functions no worker could find

    with contextlib.suppress(KeyboardInterrupt):
        crew.train(sys.argv[1], int(sys.argv[2]))
        sys.exit(0)
    print("interrupted", flush=True)
    sys.exit(130)
