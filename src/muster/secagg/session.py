# SPDX-License-Identifier: Apache-2.0
"""Both sides of a session: what they hold before it begins, and a driver's words with a side.

A side is a generator without input or output. It yields what is to be done (`Persist`, `Say`,
`Saw`, `Forget`; `Tell`, `MessageRefused`) and, with `Await`, asks for what came. Everything but the
answer to `Await` is answered with None.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import fields as dataclass_fields
from enum import Enum
from functools import cached_property
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from muster.errors import MusterError, PlanError
from muster.secagg.agreement import LABEL, PrivateKey, framed
from muster.secagg.messages import SecAggMessage
from muster.secagg.ring import IntegerRing

__all__ = [
    "Aborted",
    "Await",
    "Closed",
    "Forget",
    "Heard",
    "Liar",
    "MessageRefused",
    "Party",
    "Persist",
    "Saw",
    "Say",
    "SessionReason",
    "SessionStep",
    "SessionTerms",
    "Sum",
    "Tell",
    "bitmap",
    "members",
]

CLIENTS = 65520  # the points of GF(65521) other than 0


class SessionStep(Enum):
    """The steps, in order; `OVER` is where a client waits to hear that it may forget.

    `ANSWER` is for those whose shares somebody complained about, and is left out where nobody did.
    """

    ADVERTISE = "advertise"
    SHARE = "share"
    COMPARE = "compare"
    ANSWER = "answer"
    MASK = "mask"
    CONSENT = "consent"
    UNMASK = "unmask"
    OVER = "over"


class SessionReason(Enum):
    """The reason why a session ended or a message was refused: one for every exit."""

    DONE = "done"
    STOPPED = "stopped by its driver"
    TERMS = "other terms: plan, model, round, size or parameters differ"
    COHORT = "fewer clients than the minimum, or more than the terms allow"
    THRESHOLD = "fewer holders of a secret than the threshold"
    ROSTER = "a roster that is not sorted or names a client twice"
    KEYS = "a key that two entries share, or that is no key"
    OWN_KEY = "the own entry is missing or was changed"
    SIGNATURE = "a signature that does not verify"
    MALFORMED = "bytes that are no message, or of the wrong length"
    ORDER = "a message of another step"
    SESSION = "a message of another session"
    SURVIVORS = "a set that is no subset of the one before it, or leaves out who is asked"
    QUORUM = "fewer valid signatures on the survivors than the threshold"
    INPUT = "a vector that does not fit the terms"
    SHARES = "a secret that its shares do not give back"
    COMPLAINTS = "complaints that are not those of holders about what this client sent"
    PEERS = "peers that this client will not share a sum with"
    LIED = "it said what does not fit what it had bound itself to"
    UNKNOWN = "a client that was not invited"
    DUPLICATE = "a second message of one kind; the first stands"
    LATE = "a message after the step was closed"


@dataclass(frozen=True)
class Liar:
    """A client that said what does not fit what it had bound itself to, and what that was."""

    name: str
    why: str


class Aborted(MusterError):
    """A session that ended without a sum; nothing was revealed beyond what the steps before say.

    `reason` says why; `remote` whether the other side ended it; `liars` who is known to have lied.
    """

    def __init__(
        self,
        reason: SessionReason,
        message: str,
        remote: bool = False,
        liars: tuple[Liar, ...] = (),
    ) -> None:
        self.reason, self.remote, self.liars = reason, remote, liars
        super().__init__(message)

    def __reduce__(self) -> tuple[type[Aborted], tuple[SessionReason, str, bool, tuple[Liar, ...]]]:
        return type(self), (self.reason, str(self), self.remote, self.liars)


@dataclass(frozen=True)
class SessionTerms:
    """The terms of a session; each side takes them from its own plan and copy of the model.

    Fields: `study` and `run` by name; `round`, and which `attempt` at it; `plan` and `model`, 32
    bytes each (the plan's fingerprint, the hash of the model as received); `size`, coordinates of a
    vector; `most`, the largest value of one; `cohort`, the most clients that may take part;
    `minimum`, the fewest whose sum may be opened, three at least; `colluders`, how many of the
    cohort may lie, or work with the server, one at least; `losses`, how many of those who
    advertised may fall silent (what a ring is made for: the complete graph bears what its threshold
    leaves).

    >>> nothing = bytes(32)
    >>> terms = SessionTerms("s", "run-1", 3, nothing, nothing, size=8, most=65535, cohort=1000)
    >>> terms.ring.bits
    26
    """

    study: str
    run: str
    round: int
    plan: bytes
    model: bytes
    size: int
    most: int
    cohort: int
    minimum: int = 3
    colluders: int = 1
    losses: int = 0
    attempt: int = 1

    def __post_init__(self) -> None:
        if len(self.plan) != 32 or len(self.model) != 32:
            raise PlanError(
                f"plan and model have {len(self.plan)} and {len(self.model)} bytes; give SHA-256 "
                f"digests of 32"
            )
        if not 3 <= self.minimum <= self.cohort <= CLIENTS:
            raise PlanError(
                f"minimum={self.minimum!r} and cohort={self.cohort!r}; secure aggregation needs "
                f"3 ≤ minimum ≤ cohort ≤ {CLIENTS}: of two, each would know the other's vector"
            )
        if not (1 <= self.colluders < self.cohort and 0 <= self.losses < self.cohort):
            raise PlanError(
                f"colluders={self.colluders!r} and losses={self.losses!r} of {self.cohort} "
                f"clients; give 1 ≤ colluders < cohort (were nobody taken to lie, one liar would "
                f"have honest clients named in its place) and 0 ≤ losses < cohort"
            )
        if self.size < 1 or self.round < 0 or self.attempt < 1:
            raise PlanError(
                f"size={self.size!r}, round={self.round!r}, attempt={self.attempt!r}; give "
                f"size ≥ 1, round ≥ 0, attempt ≥ 1"
            )
        IntegerRing.of(self.cohort, self.most)

    @cached_property
    def ring(self) -> IntegerRing:
        """The ring in which cohort · most cannot overflow."""
        return IntegerRing.of(self.cohort, self.most)

    @cached_property
    def context(self) -> bytes:
        """SHA-256 of all of the terms; signed with every key and bound into every derived key."""
        fields = vars(self) | {"plan": self.plan.hex(), "model": self.model.hex()}
        about = [f"{f.name}={fields[f.name]!r}".encode() for f in dataclass_fields(self)]
        return sha256(framed(LABEL + b"terms", *about)).digest()

    @property
    def place(self) -> tuple[str, str, str, str]:
        """Study, run, round and attempt, as a session's id is made of them."""
        return self.study, self.run, str(self.round), str(self.attempt)


def _accepting(names: tuple[str, ...]) -> str:
    """Accept whoever is there."""
    return ""


@dataclass(frozen=True)
class Party:
    """A client's identity: its name, and the doors to the keys behind it.

    `sign(data)` gives a signature of at most 256 bytes; `verify(name, data, signature)` says
    whether it is that client's; `agree(private, public)` is X25519, see `Pairs` for another;
    `judge(names)` says in a sentence why this client will not be in a sum with these others, or
    nothing: it is asked of the roster, of the members, and of the survivors; in a ring, of those of
    them that are its neighbours, whose signatures it has checked.
    """

    name: str
    sign: Callable[[bytes], bytes]
    verify: Callable[[str, bytes, bytes], bool]
    agree: Callable[[PrivateKey, bytes], bytes] = PrivateKey.agree
    judge: Callable[[tuple[str, ...]], str] = _accepting


@dataclass(frozen=True, repr=False)
class Persist:
    """Make these bytes durable under this name before going on: what follows relies on it.

    They hold secrets: keep them from other users, and leave them out of logs and backups.
    """

    name: str
    data: bytes


@dataclass(frozen=True)
class Say:
    """Send this to the server; at least once."""

    message: SecAggMessage


@dataclass(frozen=True)
class Saw:
    """The names a client was told before it acts on them: the roster before it shares (`SHARE`).

    At `MASK` the members of the sum, at `CONSENT` the survivors; all sorted, this client among
    them; in a ring, its neighbours alone. `session` is the session's id.
    """

    step: SessionStep
    session: bytes
    names: tuple[str, ...]


@dataclass(frozen=True)
class Forget:
    """Erase all that was kept: the session is over for this client; `text` tells the reason."""

    reason: SessionReason = SessionReason.DONE
    text: str = ""


@dataclass(frozen=True)
class Await:
    """Nothing to do: answer with what came. `due` are those whom the server's side waits for."""

    step: SessionStep
    due: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Tell:
    """Send this to a client; at least once."""

    name: str
    message: SecAggMessage


@dataclass(frozen=True)
class MessageRefused:
    """A message had no effect; for the audit log. `DUPLICATE` is harmless."""

    name: str
    reason: SessionReason


@dataclass(frozen=True)
class Heard:
    """A message, or its bytes, from an authenticated client."""

    name: str
    message: SecAggMessage | bytes


@dataclass(frozen=True)
class Closed:
    """The deadline of a step passed; ignored unless the step is running."""

    step: SessionStep


@dataclass(frozen=True)
class Sum:
    """The exact sum `(size,)` of the survivors' vectors, and who was caught lying on the way."""

    total: NDArray[np.uint32] | NDArray[np.uint64]
    survivors: tuple[str, ...]
    liars: tuple[Liar, ...] = ()


def bitmap(alive: NDArray[np.bool_]) -> bytes:
    """Return a set of clients as one bit for each entry of the roster.

    >>> bitmap(np.array([True, False, True])).hex()
    '05'
    """
    return np.packbits(alive, bitorder="little").tobytes()


def members(data: bytes, count: int) -> NDArray[np.bool_]:
    """Return the set that a bitmap names; raises `Aborted` unless it is one of `count` bits."""
    alive = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little").astype(np.bool_)
    if len(data) != (count + 7) // 8 or alive[count:].any():
        raise Aborted(
            SessionReason.MALFORMED,
            f"a set of {len(data)} bytes for {count} clients; one bit for each is required",
        )
    return alive[:count]
