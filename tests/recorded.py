# SPDX-License-Identifier: Apache-2.0
"""A record as a run would have written it down, every number of it by chance."""

from muster.runs.measure import CENTRAL, spread

DIRECTIONS = {"accuracy": False, "loss": True}


def facts_of(rng, clients):
    """Return the facts a run wrote down of itself, every number by chance."""
    kinds = rng.randrange(2, 6)
    labels = [[rng.randrange(1, 90) for _ in range(kinds)] for _ in clients]
    rows = [sum(one) for one in labels]
    target = rng.choice([0, 1]) + rng.random() / 100  # reached at once, or never
    plan = {
        "class": "Plan",
        "task": {"class": "tasks.numpy.LogisticRegression", "features": rng.randrange(2, 99)},
        "algorithm": {"class": "FedAvg", "server": {"class": "SGD", "rate": rng.random()}},
        "pipeline": [{"class": "Clip", "bound": rng.random()}],
        "rounds": rng.randrange(20, 99),
        "seed": rng.randrange(10**6),
        "stop": [{"class": "Target", "metric": "accuracy", "value": target}],
    }
    version = ".".join(str(rng.randrange(1, 30)) for _ in range(3))
    return {
        "plan": plan,
        "metrics": DIRECTIONS,
        "engine": rng.choice(["matrix", "loop"]),
        "workers": rng.randrange(1, 65),
        "versions": {"python": version, "numpy": version},
        "population": {
            "clients": clients,
            "rows": rows,
            "labels": labels,
            "names": list("abcde"[:kinds]),
            "skew": rng.random(),
            "count": len(clients),
            "total": sum(rows),
        },
    }


def history_of(rng, clients, rounds, answers=False):
    """Records as rounds write them; with `answers`, some clients gave none."""
    found, first = [], rng.randrange(1, 9)  # not 1 in all of them: the first round moves, too
    for round in range(first, first + rounds):
        sums = [{"rows": rng.randrange(1, 99)} for _ in clients]
        own = [{"accuracy": rng.random(), "loss": 9 * rng.random()} for _ in clients]
        asked = rng.sample(clients, rng.randrange(2, len(clients)))
        one = {
            "round": round,
            "invited": asked,
            "accepted": asked[1:] if answers else asked,
            "abandoned": False,
            "train": {"loss": 5 * rng.random(), "steps": rng.randrange(9), "drift": rng.random()},
            "bytes_up": rng.randrange(10**7),
            "bytes_down": rng.randrange(10**9),
            "seconds": rng.random() * rng.choice([0.5, 50, 50000]),
            "model": f"{rng.getrandbits(256):064x}",
            "metrics": {"loss": 3 * rng.random(), "accuracy": rng.random()},
            "measured": CENTRAL,
            "clients": spread(DIRECTIONS, sums, own),
        }
        one["clients"]["each"] = [[c, one] for c, one in zip(clients, own, strict=True)]
        if answers:
            one["late"] = [{"client": asked[0]}]
        found.append(one)
    return found
