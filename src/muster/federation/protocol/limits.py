# SPDX-License-Identifier: Apache-2.0
"""Every bound on what a stranger, a member or a server can make the other side hold, in one place.

Whoever needs a bound imports it from here, and a test stands at each one. Bytes and seconds,
unless a line says otherwise.
"""

from __future__ import annotations

__all__ = [
    "ANSWER",
    "ANSWERS",
    "BURST",
    "CONNECTIONS",
    "DESCRIPTORS",
    "DISK",
    "DOWNLOADS",
    "EACH",
    "ENROLMENTS",
    "HANDSHAKES",
    "LARGEST",
    "LINES",
    "MEMBERS",
    "MEMBERS_ANSWER",
    "MESSAGE",
    "MODELS",
    "NAMES",
    "PAUSE",
    "PLAN_ANSWER",
    "RATE",
    "ROWS",
    "SESSION_ANSWER",
    "SLACK",
    "STEP",
    "UNPACKED",
    "WATCHERS",
    "WINDOW",
    "WORK",
    "kept_of_disk",
]

# What a member claims.
ROWS = 1 << 40  # rows of one member: a hundred thousand members fit into 64 bits together
ANSWERS = 1 << 20  # answers of one row, such as the positions of a text, that a member measures
LARGEST = 1e290  # the size of a sum: that of a million members is a finite number as well
SLACK = 1e-3  # by which a row's value may lie outside of its range: sums are rounded

# Rounds of a plan without a deadline. Whoever shows progress is waited for, and it can be shown
# without end: only the member knows its steps, and no server can tell work from pretence.
WORK = 43200.0  # of training, or of measuring a model
STEP = 5400.0  # of each later step of a secure sum: all together end before its secrets do

# Disks.
DISK = 32 << 20  # kept free of uploads, beside room for models: the store's log alone takes half
MODELS = 4  # as many bodies of a model's size are kept free: a state beside the one before it
MEMBERS = 1 << 20  # who may enrol
ENROLMENTS = 16  # a day, that one member may change its rows or its certificate

# Bodies.
MESSAGE = 1 << 16  # of a message in JSON
UNPACKED = 1 << 19  # octets that are unpacked in one step
WINDOW = 8 << 20  # octets of memory that a compressed body may ask for
ANSWER = MESSAGE  # of an answer to a site; a model has what the plan says
PLAN_ANSWER = 1 << 22  # of the value of a plan
MEMBERS_ANSWER = 1 << 26  # of the credentials of a group
SESSION_ANSWER = 1 << 26  # of what is told in a secure sum

# Logs.
LINES = 20  # a minute of each kind of line that others make a server write

# Requests.
RATE = 100.0  # a second, of one name
BURST = 200.0  # at once, of one name
NAMES = 10_000  # whose requests are counted
DOWNLOADS = 4  # at once, of one name
PAUSE = 0.25  # from one question of a site to the next, at least, where nothing came of it

# Connections.
CONNECTIONS = 50_000  # at once, of all sites together, where the system gives as many descriptors
HANDSHAKES = 256  # at once of those who have not shown a certificate yet
DESCRIPTORS = 256  # kept for the store, the logs, bodies and the operator
EACH = 64  # connections of one certificate
WATCHERS = 32  # connections at the loopback port for health and metrics


def kept_of_disk(body: int) -> int:
    """Return the bytes of a server's disk that no upload may take, by the size of an update.

    >>> kept_of_disk(1000) == DISK + MODELS * 1000
    True
    """
    return DISK + MODELS * body
