# SPDX-License-Identifier: Apache-2.0
"""Every error muster raises on purpose.

    MusterError
    ├── PlanError        a plan that cannot run as written; raised before any training
    ├── DataError        data that cannot be trained on; names the client
    │   └── DatasetError a named dataset that is missing, damaged or cannot be downloaded
    ├── ClientError      one client failed; names round, client and stage, carries the cause
    ├── RunError         a run folder that is missing, damaged, newer, or belongs to another plan
    │   ├── WorkerError  a worker process that cannot be started or keeps dying
    │   └── NoRoom       no room on a disk, no descriptor, no memory: for now
    │       └── LogFull  the same of an audit log, which is as it was before
    ├── SumError         numbers that cannot be added up: too many, too large, or none
    ├── IdentityError    a key, request, certificate or bundle that cannot be used or is refused
    ├── AuditError       an audit log that was altered, cannot be written, or may not hold a value
    │   └── LogFull      the same that stands under NoRoom
    ├── secagg.Aborted   a secure sum that was not opened; carries the reason
    ├── secagg.Malformed bytes that are no message of a secure sum's session
    ├── security.Refused  a request that the server refuses; carries the reason
    └── MissingExtra     an optional framework that is not installed; names the extra

Each message is one sentence: what was given, what is required, what to do.
"""

from __future__ import annotations

import errno

__all__ = [
    "AuditError",
    "ClientError",
    "DataError",
    "DatasetError",
    "IdentityError",
    "LogFull",
    "MissingExtra",
    "MusterError",
    "NoRoom",
    "PlanError",
    "RunError",
    "SumError",
    "WorkerError",
]

# What a system lacks for now: room on a disk, descriptors, memory.
SHORT = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
)


class MusterError(Exception):
    """Root of all errors that muster raises on purpose."""


class PlanError(MusterError, ValueError):
    """A plan that cannot run as written: a value out of range or a forbidden combination."""


class DataError(MusterError, ValueError):
    """Data that cannot be trained on: empty, ragged, non-finite, or labels outside the classes."""


class DatasetError(DataError):
    """A named dataset that is missing, damaged or cannot be downloaded."""


class RunError(MusterError):
    """A run folder that is missing, damaged, from a newer version, or of another plan."""


class NoRoom(RunError):
    """No room on a disk or in a database, no descriptor, no memory; what was written is safe.

    It passes: whoever must go on waits, and tries again.
    """


class WorkerError(RunError):
    """A worker process that cannot be started or keeps dying."""


class SumError(MusterError, ArithmeticError):
    """A sum in fixed point that has no value: too many numbers, too large ones, or what is none."""


class IdentityError(MusterError):
    """A key, request, certificate or bundle that cannot be used, or whose holder is refused."""


class AuditError(MusterError):
    """An audit log that was altered, cannot be written, or may not hold a value.

    `line` is the number of the first bad line, or 0 where no line is to blame.
    """

    def __init__(self, message: str, line: int = 0) -> None:
        self.line = line
        super().__init__(message)


class LogFull(AuditError, NoRoom):
    """An entry that an audit log has no room for now; the log is as it was before."""


class MissingExtra(MusterError, ImportError):
    """An optional package that is not installed; the message names the extra to install."""


class ClientError(MusterError):
    """One client failed in one round.

    Fields: `round` (1-based), `client` (its id), `stage` ("data", "train", "report",
    "encode" or "evaluate"), `cause` (text, with the traceback where user code raised).
    """

    def __init__(self, round: int, client: int | str, stage: str, cause: str) -> None:
        self.round, self.client, self.stage, self.cause = round, client, stage, cause
        super().__init__(
            f"client {client!r} failed in round {round} at stage {stage!r}: {cause.rstrip()}"
        )

    def __reduce__(self) -> tuple[type[ClientError], tuple[int, int | str, str, str]]:
        return type(self), (self.round, self.client, self.stage, self.cause)


def short(error: OSError) -> bool:
    """Return whether a system refuses something for what it lacks, and may have again.

    >>> short(OSError(errno.EMFILE, "")), short(OSError(errno.EIO, ""))
    (True, False)
    """
    return error.errno in SHORT
