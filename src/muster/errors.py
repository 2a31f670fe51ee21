# SPDX-License-Identifier: Apache-2.0
"""Every error muster raises on purpose.

    MusterError
    ├── PlanError        a plan that cannot run as written; raised before any training
    ├── DataError        data that cannot be trained on; names the client
    │   └── DatasetError a named dataset that is missing, damaged or cannot be downloaded
    ├── ClientError      one client failed; names round, client and stage, carries the cause
    ├── RunError         a run folder that is missing, damaged, newer, or belongs to another plan
    │   ├── WorkerError  a worker process that cannot be started or keeps dying
    │   └── store.NoRoom a disk without room for what was to be stored
    ├── IdentityError    a key, request, certificate or bundle that cannot be used or is refused
    ├── AuditError       an audit log that was altered, cannot be written, or may not hold a value
    ├── secagg.Aborted   a secure sum that was not opened; carries the reason
    ├── secagg.Malformed bytes that are no message of a secure sum's session
    ├── service.Refused  a request that the server refuses; carries the reason
    └── MissingExtra     an optional framework that is not installed; names the extra

Each message is one sentence: what was given, what is required, what to do.
"""

from __future__ import annotations

__all__ = [
    "AuditError",
    "ClientError",
    "DataError",
    "DatasetError",
    "IdentityError",
    "MissingExtra",
    "MusterError",
    "PlanError",
    "RunError",
    "WorkerError",
]


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


class WorkerError(RunError):
    """A worker process that cannot be started or keeps dying."""


class IdentityError(MusterError):
    """A key, request, certificate or bundle that cannot be used, or whose holder is refused."""


class AuditError(MusterError):
    """An audit log that was altered, cannot be written, or may not hold a value.

    `line` is the number of the first bad line, or 0 where no line is to blame.
    """

    def __init__(self, message: str, line: int = 0) -> None:
        self.line = line
        super().__init__(message)


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
