# SPDX-License-Identifier: Apache-2.0
"""Messages between server and site, beside tensors.

A site says `Hello` and is told `Welcome`, then polls: the answer is a `TrainAssignment`, an
`Evaluate`, whether its last update was `Settled`, `Wait`, or `RunEnded`. It announces an
`UpdateHeader`, is told the place to `ResumeAt`, sends the body, and hears an `Ack`; or it says
`Decline`, `TrainingFailure`, `Progress`, `Measured`. `kind` is what a message is called in JSON,
whatever its class is called here.

An assignment, what one client is asked to do for one version, is named by its run, round and
`attempt`: 1, and one more each time that the run went back to an older round and said so.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from muster.federation.protocol.codec_json import (
    LIMIT,
    TEXT,
    ClientName,
    Digest,
    Message,
    Metrics,
    Name,
    Number,
    Report,
    Round,
    RunId,
    Sentence,
    StudyName,
    Truth,
    Versions,
    Why,
    from_json,
    to_json,
)
from muster.security.refusal import RefusalReason, Refused, malformed

__all__ = [
    "Ack",
    "Decline",
    "Evaluate",
    "Hello",
    "LIMIT",
    "Measured",
    "Message",
    "Poll",
    "Progress",
    "ResumeAt",
    "RunEnded",
    "STUDY",
    "Settled",
    "TrainAssignment",
    "TrainingFailure",
    "UpdateHeader",
    "VERSIONS",
    "Wait",
    "Welcome",
    "agree",
    "from_json",
    "to_json",
]

VERSIONS = (2,)  # of the protocol, that this release speaks
STUDY = "default"  # the study of whoever names none

Count = Annotated[int, Number(0, 1 << 50, whole=True)]
Attempt = Annotated[int, Number(1, 1 << 31, whole=True)]
Seconds = Annotated[float, Number(0, 1e7)]
Truthful = Annotated[bool, Truth()]


@dataclass(frozen=True)
class Hello(Message):
    """The first word: what this side speaks, who it is, which plan it holds, on how many rows."""

    kind: ClassVar[str] = "hello"

    versions: Annotated[tuple[int, ...], Versions()]
    name: Name
    fingerprint: Digest
    rows: Count = 0


@dataclass(frozen=True)
class Welcome(Message):
    """Enrolled: the version to speak, the run and its study, the id this site has in the run."""

    kind: ClassVar[str] = "welcome"

    version: Annotated[int, Number(1, 9999, whole=True)]
    run: RunId
    client: ClientName
    lease: Seconds
    study: StudyName = STUDY


@dataclass(frozen=True)
class Poll(Message):
    """Ask what there is to do; `pending` is the round of an update whose fate is open, or 0.

    The server may keep the question for `wait` seconds until there is something. `attempt` is that
    of the pending update.
    """

    kind: ClassVar[str] = "poll"

    run: RunId
    pending: Count
    wait: Annotated[float, Number(0, 60)]
    attempt: Attempt = 1


@dataclass(frozen=True)
class TrainAssignment(Message):
    """An invitation: train `model` (a digest) within `lease` seconds, renewed by progress.

    `times` is how often the client was drawn, 1 unless with replacement; `peers` how many clients
    are asked for a secure sum, 0 for a plan without masks: who else was drawn is nobody's business.
    """

    kind: ClassVar[str] = "task"

    run: RunId
    round: Round
    model: Digest
    lease: Seconds
    times: Annotated[int, Number(1, 1 << 31, whole=True)] = 1
    peers: Annotated[int, Number(0, 1 << 31, whole=True)] = 0
    attempt: Attempt = 1


@dataclass(frozen=True)
class Evaluate(Message):
    """Measure `model` on your own rows; `counted`: with what your reply of this round left you."""

    kind: ClassVar[str] = "evaluate"

    run: RunId
    round: Round
    model: Digest
    lease: Seconds
    counted: Truthful
    attempt: Attempt = 1


@dataclass(frozen=True)
class Settled(Message):
    """The fate of a site's reply to a round: whether it is in the model."""

    kind: ClassVar[str] = "settled"

    run: RunId
    round: Round
    accepted: Truthful
    attempt: Attempt = 1


@dataclass(frozen=True)
class Wait(Message):
    """Nothing to do now: ask again in so many seconds."""

    kind: ClassVar[str] = "wait"

    seconds: Seconds


@dataclass(frozen=True)
class RunEnded(Message):
    """The run is over, after so many rounds, and why."""

    kind: ClassVar[str] = "ended"

    run: RunId
    rounds: Count
    text: Sentence


@dataclass(frozen=True)
class UpdateHeader(Message):
    """The header of an upload: the digest and size of its body, its weight, its metrics.

    No metrics where the plan, or the site's policy, keeps them with the site.
    """

    kind: ClassVar[str] = "update"

    run: RunId
    round: Round
    digest: Digest
    size: Annotated[int, Number(8, 1 << 50, whole=True)]
    weight: Annotated[float, Number(0, 1e300)]
    metrics: Metrics = field(default_factory=dict)
    attempt: Attempt = 1


@dataclass(frozen=True)
class ResumeAt(Message):
    """The body is wanted from this byte on; equal to its size: all of it is held."""

    kind: ClassVar[str] = "offer"

    offset: Count


@dataclass(frozen=True)
class Decline(Message):
    """A site that will not train, or not measure, and why; that is no failure."""

    kind: ClassVar[str] = "decline"

    run: RunId
    round: Round
    text: Sentence
    attempt: Attempt = 1


@dataclass(frozen=True)
class TrainingFailure(Message):
    """A site's own code failed at a stage of a round: the traceback, without values of data."""

    kind: ClassVar[str] = "failure"

    run: RunId
    round: Round
    stage: Name
    text: Report
    attempt: Attempt = 1


@dataclass(frozen=True)
class Progress(Message):
    """A site at work: steps done so far in this round; renews its lease when they grow."""

    kind: ClassVar[str] = "progress"

    run: RunId
    round: Round
    steps: Count
    attempt: Attempt = 1


@dataclass(frozen=True)
class Measured(Message):
    """The answer to an `Evaluate`: sums over the site's rows by metric, with "rows"."""

    kind: ClassVar[str] = "measured"

    run: RunId
    round: Round
    model: Digest
    metrics: Metrics = field(default_factory=dict)
    attempt: Attempt = 1


@dataclass(frozen=True)
class Ack(Message):
    """The answer to all that a site says: accepted, or refused for a reason and in a sentence.

    >>> to_json(Ack(False, RefusalReason.LATE, "ended 3 s ago"))
    b'{"kind":"verdict","accepted":false,"reason":"late","text":"ended 3 s ago"}'
    """

    kind: ClassVar[str] = "verdict"

    accepted: Truthful
    reason: Annotated[RefusalReason | None, Why()] = None
    text: Sentence = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.accepted != (self.reason is None):
            malformed("verdict.reason", self.reason, "null when accepted, a reason when refused")

    @classmethod
    def of(cls, error: Refused) -> Ack:
        """Return the refusal as it is told to the sender."""
        text = "".join(c if c.isprintable() or c == "\n" else "?" for c in error.text[:TEXT])
        return cls(False, error.reason, text)


def agree(ours: Hello, theirs: Hello) -> int:
    """Return the newest version of the protocol that both speak, when they hold one plan."""
    common = set(ours.versions) & set(theirs.versions)
    if not common:
        spoken = [", ".join(map(str, side.versions)) for side in (ours, theirs)]
        raise Refused(
            RefusalReason.WRONG_VERSION,
            f"this side speaks version {spoken[0]} of the protocol and {theirs.name!r} speaks "
            f"{spoken[1]}; upgrade muster on the side with the older one",
        )
    if ours.fingerprint != theirs.fingerprint:
        raise Refused(
            RefusalReason.WRONG_FINGERPRINT,
            f"this side's plan is {ours.fingerprint[:12]}… and that of {theirs.name!r} is "
            f"{theirs.fingerprint[:12]}…; both sides must hold the same plan file",
        )
    return max(common)
