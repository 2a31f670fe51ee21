# SPDX-License-Identifier: Apache-2.0
"""What server and site say to each other beside tensors: small frozen records as strict JSON.

A record checks itself when it is made, so what one side cannot say the other cannot be told. A
field is annotated with its rule; unknown and missing fields, wrong types, long texts, deep nests
and numbers that are not finite are refused, with a reason out of one list.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Protocol, TypeVar, get_type_hints

from muster.service.refusal import Reason, Refused, malformed, parse, shown

__all__ = [
    "Hello",
    "LIMIT",
    "Message",
    "Task",
    "Update",
    "VERSIONS",
    "Verdict",
    "agree",
    "from_json",
    "to_json",
]

VERSIONS = (1,)  # of the protocol, that this release speaks
LIMIT = 1 << 16  # bytes of a message
DEPTH = 4
TEXT = 1000  # characters of a sentence


class Rule(Protocol):
    """What a field may hold."""

    def read(self, value: Any, name: str) -> Any:
        """The value as the record keeps it. Raises `Refused`."""


@dataclass(frozen=True)
class Text:
    """Printable text that matches a pattern as a whole."""

    pattern: str
    what: str

    def read(self, value: Any, name: str) -> str:
        """The text."""
        if not isinstance(value, str) or not re.fullmatch(self.pattern, value):
            malformed(name, value, self.what)
        if not value.replace("\n", "").isprintable():
            malformed(name, value, self.what)
        return value


@dataclass(frozen=True)
class Number:
    """A finite number in a range; a whole one where `whole`."""

    low: float
    high: float
    whole: bool = False

    def read(self, value: Any, name: str) -> int | float:
        """The number."""
        if isinstance(value, float) and not math.isfinite(value):
            raise Refused(Reason.NOT_FINITE, f"{name} is {value}; give a finite number")
        kinds = int if self.whole else int | float
        fits = isinstance(value, kinds) and not isinstance(value, bool)
        if not fits or not self.low <= value <= self.high:
            what = "a whole number" if self.whole else "a number"
            malformed(name, value, f"{what} from {self.low:g} to {self.high:g}")
        return int(value) if self.whole else float(value)


@dataclass(frozen=True)
class Versions:
    """Versions of the protocol, each once, from the oldest to the newest."""

    def read(self, value: Any, name: str) -> tuple[int, ...]:
        """The versions."""
        if isinstance(value, list | tuple) and 0 < len(value) <= 16:
            found = tuple(Number(1, 9999, whole=True).read(part, name) for part in value)
            if list(found) == sorted(set(found)):
                return tuple(int(part) for part in found)
        malformed(name, value, "1 to 16 versions, each once, the oldest first")


@dataclass(frozen=True)
class Metrics:
    """A few finite numbers by name."""

    def read(self, value: Any, name: str) -> dict[str, float]:
        """The metrics."""
        if not isinstance(value, Mapping) or len(value) > 256:
            malformed(name, value, "at most 256 numbers by name")
        one, words = Number(-1.7e308, 1.7e308), Text(*NAME)
        return {words.read(k, name): one.read(v, f"{name}[{shown(k)}]") for k, v in value.items()}


@dataclass(frozen=True)
class Truth:
    """True or false."""

    def read(self, value: Any, name: str) -> bool:
        """The truth."""
        return value if isinstance(value, bool) else malformed(name, value, "true or false")


@dataclass(frozen=True)
class Why:
    """A reason, or null."""

    def read(self, value: Any, name: str) -> Reason | None:
        """The reason."""
        if value is None or (isinstance(value, str) and value in set(Reason)):
            return None if value is None else Reason(value)
        malformed(name, value, "null or one of " + ", ".join(Reason))


NAME = (r"\S(.{0,126}\S)?", "1 to 128 printable characters")
RUN = (r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", "the id of a run, up to 128 letters, digits, . _ -")
HEX = (r"[0-9a-f]{64}", "a SHA-256 in 64 hexadecimal digits")
SENTENCE = (rf"(?s:.{{0,{TEXT}}})", f"at most {TEXT} printable characters")

Name = Annotated[str, Text(*NAME)]
RunId = Annotated[str, Text(*RUN)]
Digest = Annotated[str, Text(*HEX)]
Round = Annotated[int, Number(1, 1 << 31, whole=True)]


@dataclass(frozen=True)
class Message:
    """A record that travels; making one with a field that may not travel raises `Refused`."""

    def __post_init__(self) -> None:
        kind: Any = type(self)
        for name, rule in _rules(kind).items():
            value = rule.read(getattr(self, name), f"{_kind(kind)}.{name}")
            object.__setattr__(self, name, value)


@dataclass(frozen=True)
class Hello(Message):
    """The first word of either side: what it speaks, who it is, and which plan it holds."""

    versions: Annotated[tuple[int, ...], Versions()]
    name: Name
    fingerprint: Digest


@dataclass(frozen=True)
class Task(Message):
    """An invitation: train `model` (a digest) within `lease` seconds, renewed by progress."""

    run: RunId
    round: Round
    model: Digest
    lease: Annotated[float, Number(0, 1e7)]


@dataclass(frozen=True)
class Update(Message):
    """What a site is about to upload: the digest and size of its body, its weight, its metrics."""

    run: RunId
    round: Round
    digest: Digest
    size: Annotated[int, Number(8, 1 << 50, whole=True)]
    weight: Annotated[float, Number(0, 1e300)]
    metrics: Annotated[Mapping[str, float], Metrics()] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict(Message):
    """The answer to an update: accepted, or refused for a reason and in a sentence."""

    accepted: Annotated[bool, Truth()]
    reason: Annotated[Reason | None, Why()] = None
    text: Annotated[str, Text(*SENTENCE)] = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.accepted != (self.reason is None):
            malformed("verdict.reason", self.reason, "null when accepted, a reason when refused")

    @classmethod
    def of(cls, error: Refused) -> Verdict:
        """The refusal as it is told to the sender."""
        text = "".join(c if c.isprintable() or c == "\n" else "?" for c in error.text[:TEXT])
        return cls(False, error.reason, text)


KINDS = (Hello, Task, Update, Verdict)
M = TypeVar("M", bound=Message)


def to_json(message: Message) -> bytes:
    """A message as JSON.

    >>> to_json(Verdict(False, Reason.LATE, "ended 3 s ago"))
    b'{"kind":"verdict","accepted":false,"reason":"late","text":"ended 3 s ago"}'
    """
    values = {part.name: getattr(message, part.name) for part in fields(message)}
    kind = {"kind": _kind(type(message))}
    return json.dumps(kind | values, separators=(",", ":"), allow_nan=False).encode()


def from_json(data: bytes, *kinds: type[M]) -> M:
    """A message of one of these kinds. Raises `Refused`, and nothing else, whatever the bytes."""
    value = parse(data, LIMIT, DEPTH)
    names = {_kind(kind): kind for kind in kinds}
    said = value.pop("kind", None) if isinstance(value, dict) else None
    if not isinstance(said, str) or said not in names:
        malformed("kind", said, " or ".join(names))
    kind = names[said]
    wanted = [part.name for part in fields(kind)]
    odd = [name for name in value if name not in wanted]
    missing = [name for name in wanted if name not in value]
    if odd or missing:
        what = f"knows no field {shown(odd[0])}" if odd else f"lacks the field {missing[0]!r}"
        raise Refused(Reason.MALFORMED, f"{said} {what}; it has {', '.join(wanted)}")
    return kind(**value)


def agree(ours: Hello, theirs: Hello) -> int:
    """The newest version of the protocol that both sides speak, when they hold the same plan."""
    common = set(ours.versions) & set(theirs.versions)
    if not common:
        spoken = [", ".join(map(str, side.versions)) for side in (ours, theirs)]
        raise Refused(
            Reason.WRONG_VERSION,
            f"this side speaks version {spoken[0]} of the protocol and {theirs.name!r} speaks "
            f"{spoken[1]}; upgrade muster on the side with the older one",
        )
    if ours.fingerprint != theirs.fingerprint:
        raise Refused(
            Reason.WRONG_FINGERPRINT,
            f"this side's plan is {ours.fingerprint[:12]}… and that of {theirs.name!r} is "
            f"{theirs.fingerprint[:12]}…; both sides must hold the same plan file",
        )
    return max(common)


def _kind(kind: type[Message]) -> str:
    return kind.__name__.lower()


@functools.cache
def _rules(kind: Any) -> dict[str, Rule]:
    hints = get_type_hints(kind, include_extras=True)
    return {part.name: hints[part.name].__metadata__[0] for part in fields(kind)}
