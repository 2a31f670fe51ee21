# SPDX-License-Identifier: Apache-2.0
"""A small round of a federation, as the tests of its ledger know it."""

import threading
from hashlib import sha256

from muster.store.records import Assignment, OpenWork

CLIENTS = ("a", "b", 1, "1")
DIGEST = sha256(b"body").hexdigest()


def opening(round=1, kind="train", model="0" * 64, clients=CLIENTS):
    roster = tuple((client, 10) for client in clients)
    return OpenWork(round, kind, tuple(clients), (1,) * len(clients), roster, model, 12.5)


def arrived(client, digest=DIGEST):
    metrics = {"loss": 0.1 + 0.2, "big": 1e300, "rows": 5.0}
    return Assignment(client, "arrived", "", "", digest, 4, 2.5, metrics)


def put(blobs, name, data=b"body", *, finished=True):
    blobs.append(name, 0, data)
    if finished:
        blobs.finish(name)
    return name


def at_once(work, callers):
    """Run `work(caller)` in as many threads."""
    threads = [threading.Thread(target=work, args=(caller,)) for caller in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
