# SPDX-License-Identifier: Apache-2.0
"""A small round of a federation, as the tests of its ledger know it."""

import threading
from hashlib import sha256

from muster.federation.coordinator.events import (
    Decided,
    MemberEnrolled,
    Opened,
    Ordered,
    read_event,
    row_of,
)
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


def write(ledger, *events, leads=False):
    """Append events; resolves when they are durable."""
    rows = [row_of(event) for event in events]
    return ledger.write(lambda turn: turn.append(rows, leads=leads))


def begin(ledger, work):
    """Open a piece of a round, as who leads."""
    write(ledger, Opened(work), leads=True).result()


def enrol(ledger, member):
    """Enrol a member."""
    return write(ledger, MemberEnrolled(member))


def decide(ledger, round, assignments, kind="train"):
    """Decide assignments; nobody looks whether they are decided already."""
    return write(ledger, *(Decided(round, 1, kind, one) for one in assignments))


def order(ledger, word):
    """An operator's word."""
    write(ledger, Ordered(word)).result()


def events(ledger, kind):
    """The events of a kind, in order."""
    found = map(read_event, ledger.rows())
    return [event for event in found if isinstance(event, kind)]


def members(ledger):
    """Return the members, by name."""
    return {event.member.name: event.member for event in events(ledger, MemberEnrolled)}


def opened(ledger):
    """Return the work that is open."""
    return [event.work for event in events(ledger, Opened)]


def seats(ledger):
    """Return the decided assignments, by client."""
    return {event.assignment.client: event.assignment for event in events(ledger, Decided)}


def wanted(ledger):
    """The last order, or "run"."""
    return ([event.word for event in events(ledger, Ordered)] or ["run"])[-1]
