# SPDX-License-Identifier: Apache-2.0
"""Small frozen records as strict JSON: every field has a rule, and a record checks itself.

What one side cannot say the other cannot be told: unknown and missing fields, wrong types, long
texts, deep nests and numbers that are not finite are refused, with a reason out of one list.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, Protocol, TypeVar, get_type_hints

from muster.federation.protocol.limits import MESSAGE
from muster.metrics.sums import MOST
from muster.security.refusal import RefusalReason, Refused, malformed, parse, shown
from muster.types import ClientId

__all__ = [
    "ClientName",
    "Digest",
    "HEX",
    "LIMIT",
    "Message",
    "Metrics",
    "Name",
    "Number",
    "Report",
    "Round",
    "RunId",
    "STUDY_NAME",
    "Sentence",
    "StudyName",
    "Text",
    "Truth",
    "Versions",
    "Why",
    "from_json",
    "rules",
    "to_json",
]

LIMIT = MESSAGE  # bytes of a message
DEPTH = 4
TEXT = 1000  # characters of a sentence
REPORT = 8000  # characters of a traceback


class FieldRule(Protocol):
    """The rule for what a field may hold."""

    def read(self, value: Any, name: str) -> Any:
        """Return the value as the record keeps it. Raises `Refused`."""

    def schema(self) -> dict[str, Any]:
        """Return the rule as JSON Schema; what it cannot say is left out."""


@dataclass(frozen=True)
class Text:
    """Printable text that matches a pattern as a whole."""

    pattern: str
    what: str

    def read(self, value: Any, name: str) -> str:
        """Return the text."""
        if not isinstance(value, str) or not re.fullmatch(self.pattern, value):
            malformed(name, value, self.what)
        if not value.replace("\n", "").isprintable():
            malformed(name, value, self.what)
        return value

    def schema(self) -> dict[str, Any]:
        """Return the pattern, or the length of a text that may hold anything."""
        free = re.fullmatch(r"\(\?s:\.\{0,(\d+)\}\)", self.pattern)
        said = {"maxLength": int(free[1])} if free else {"pattern": f"^{self.pattern}$"}
        return {"type": "string", "description": self.what} | said


@dataclass(frozen=True)
class Number:
    """A finite number in a range; a whole one where `whole`."""

    low: float
    high: float
    whole: bool = False

    def read(self, value: Any, name: str) -> int | float:
        """Return the number."""
        if isinstance(value, float) and not math.isfinite(value):
            raise Refused(RefusalReason.NOT_FINITE, f"{name} is {value}; give a finite number")
        kinds = int if self.whole else int | float
        fits = isinstance(value, kinds) and not isinstance(value, bool)
        if not fits or not self.low <= value <= self.high:
            what = "a whole number" if self.whole else "a number"
            malformed(name, value, f"{what} from {self.low:g} to {self.high:g}")
        return int(value) if self.whole else float(value)

    def schema(self) -> dict[str, Any]:
        """Return the range."""
        kind = "integer" if self.whole else "number"
        return {"type": kind, "minimum": self.low, "maximum": self.high}


@dataclass(frozen=True)
class Versions:
    """Versions of the protocol, each once, from the oldest to the newest."""

    def read(self, value: Any, name: str) -> tuple[int, ...]:
        """Return the versions."""
        if isinstance(value, list | tuple) and 0 < len(value) <= 16:
            found = tuple(Number(1, 9999, whole=True).read(part, name) for part in value)
            if list(found) == sorted(set(found)):
                return tuple(int(part) for part in found)
        malformed(name, value, "1 to 16 versions, each once, the oldest first")

    def schema(self) -> dict[str, Any]:
        """Return the list; its order is not said."""
        one = Number(1, 9999, whole=True).schema()
        return {"type": "array", "items": one, "minItems": 1, "maxItems": 16, "uniqueItems": True}


@dataclass(frozen=True)
class Numbers:
    """A few finite numbers by name."""

    def read(self, value: Any, name: str) -> dict[str, float]:
        """Return the metrics."""
        if not isinstance(value, Mapping) or len(value) > MOST:
            malformed(name, value, f"at most {MOST} numbers by name")
        one, words = Number(-1.7e308, 1.7e308), Text(*NAME)
        return {words.read(k, name): one.read(v, f"{name}[{shown(k)}]") for k, v in value.items()}

    def schema(self) -> dict[str, Any]:
        """Return the object."""
        values = {"type": "number", "minimum": -1.7e308, "maximum": 1.7e308}
        names = Text(*NAME).schema()
        return {
            "type": "object",
            "propertyNames": names,
            "additionalProperties": values,
            "maxProperties": MOST,
        }


@dataclass(frozen=True)
class Truth:
    """True or false."""

    def read(self, value: Any, name: str) -> bool:
        """Return the truth value."""
        return value if isinstance(value, bool) else malformed(name, value, "true or false")

    def schema(self) -> dict[str, Any]:
        """Return a boolean."""
        return {"type": "boolean"}


@dataclass(frozen=True)
class Id:
    """A client's id: a whole number, or printable text."""

    def read(self, value: Any, name: str) -> ClientId:
        """Return the id."""
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63:
            return value
        if isinstance(value, str) and 0 < len(value) <= 128 and value.isprintable():
            return value
        malformed(name, value, "a whole number or 1 to 128 printable characters")

    def schema(self) -> dict[str, Any]:
        """Return a number or a text."""
        number = {"type": "integer", "minimum": 1 - (1 << 63), "maximum": (1 << 63) - 1}
        return {"anyOf": [number, {"type": "string", "minLength": 1, "maxLength": 128}]}


@dataclass(frozen=True)
class Why:
    """A reason, or null."""

    def read(self, value: Any, name: str) -> RefusalReason | None:
        """Return the reason."""
        if value is None or (isinstance(value, str) and value in set(RefusalReason)):
            return None if value is None else RefusalReason(value)
        malformed(name, value, "null or one of " + ", ".join(RefusalReason))

    def schema(self) -> dict[str, Any]:
        """Return the list of reasons, and null."""
        return {"enum": [None, *(reason.value for reason in RefusalReason)]}


NAME = (r"\S(.{0,126}\S)?", "1 to 128 printable characters")
RUN = (r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", "the id of a run, up to 128 letters, digits, . _ -")
STUDY_NAME = (
    r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}",
    "the name of a study, up to 64 letters, digits, . _ - and first a letter or digit",
)
HEX = (r"[0-9a-f]{64}", "a SHA-256 in 64 hexadecimal digits")
SENTENCE = (rf"(?s:.{{0,{TEXT}}})", f"at most {TEXT} printable characters")

ClientName = Annotated[ClientId, Id()]
Metrics = Annotated[Mapping[str, float], Numbers()]
Sentence = Annotated[str, Text(*SENTENCE)]
Report = Annotated[str, Text(rf"(?s:.{{0,{REPORT}}})", f"at most {REPORT} printable characters")]
Name = Annotated[str, Text(*NAME)]
RunId = Annotated[str, Text(*RUN)]
StudyName = Annotated[str, Text(*STUDY_NAME)]
Digest = Annotated[str, Text(*HEX)]
Round = Annotated[int, Number(1, 1 << 31, whole=True)]


@dataclass(frozen=True)
class Message:
    """A record that travels; making one with a field that may not travel raises `Refused`."""

    kind: ClassVar[str]  # what it is called on the wire

    def __post_init__(self) -> None:
        kind: Any = type(self)
        for name, rule in rules(kind).items():
            value = rule.read(getattr(self, name), f"{kind.kind}.{name}")
            object.__setattr__(self, name, value)


M = TypeVar("M", bound=Message)


def to_json(message: Message) -> bytes:
    """Return a message as JSON."""
    values = {part.name: getattr(message, part.name) for part in fields(message)}
    kind = {"kind": message.kind}
    return json.dumps(kind | values, separators=(",", ":"), allow_nan=False).encode()


def from_json(data: bytes, *kinds: type[M]) -> M:
    """Return a message of one of these kinds.

    Raises `Refused`, and nothing else, whatever the bytes.
    """
    value = parse(data, LIMIT, DEPTH)
    names = {kind.kind: kind for kind in kinds}
    said = value.pop("kind", None) if isinstance(value, dict) else None
    if not isinstance(said, str) or said not in names:
        malformed("kind", said, " or ".join(names))
    kind = names[said]
    wanted = [part.name for part in fields(kind)]
    odd = [name for name in value if name not in wanted]
    missing = [name for name in wanted if name not in value]
    if odd or missing:
        what = f"knows no field {shown(odd[0])}" if odd else f"lacks the field {missing[0]!r}"
        raise Refused(RefusalReason.MALFORMED, f"{said} {what}; it has {', '.join(wanted)}")
    return kind(**value)


@functools.cache
def rules(kind: Any) -> dict[str, FieldRule]:
    """Return the rule for each field of a kind of message."""
    hints = get_type_hints(kind, include_extras=True)
    return {part.name: hints[part.name].__metadata__[0] for part in fields(kind)}
