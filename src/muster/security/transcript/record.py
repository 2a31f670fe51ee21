# SPDX-License-Identifier: Apache-2.0
"""One secure sum as a site saw it: with whom, under which terms, who was left, how it ended.

It holds nothing that the sum hides: names, certificates' serial numbers, digests, times. It is
what the site says; its signature (see `seal`) shows who says so, and that nobody changed it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any

from muster.errors import AuditError, IdentityError
from muster.security.identity import NAME
from muster.security.organisation import check_organisation
from muster.security.pki.notary import Peer
from muster.security.transcript.seal import canonical

__all__ = ["OUTCOMES", "Transcript", "described", "from_value", "to_value"]

OUTCOMES = ("opened", "given up")
CROWD = 100_000  # members of a roster
STEPS, TERMS = 16, 64
DIGEST, HEX = r"[0-9a-f]{64}", r"[0-9a-f]{1,64}"
STEP = r"[a-z][a-z -]{0,39}"
FIELD = r"[a-z][a-z_]{0,39}"
LABEL, SENTENCE = 128, 1000  # characters of a name, and of a reason
WHOLE = 1 << 63


@dataclass(frozen=True)
class Transcript:
    """A transcript of one session, as a site knows it.

    Fields: the `study`, the `run`, its `round` and which `attempt` at it (both from 1); the
    `session`'s id, 64 hexadecimal digits, or "" where it ended before there was one; the `terms`,
    numbers and short texts by name (see `described`); `revoked`, the number of the revocation list
    that was in force; the `roster`, sorted by name; for each step that was reached, in order, the
    names that were `left`; the `outcome`, "opened" or "given up", and the `reason` in words (""
    where there is none); when it `began` and `ended`, with a time zone. Raises `AuditError` for a
    field that it may not hold.

    >>> from datetime import timedelta
    >>> begin = datetime(2026, 5, 4, 12, tzinfo=UTC)
    >>> peer = Peer("ann", "Inserm", "1f", "0" * 64)
    >>> Transcript("heart", "run-1", 3, 1, "", {"cohort": 5}, 0, (peer,), (("share", ("ann",)),),
    ...            "given up", "too few", begin, begin + timedelta(minutes=2)).round
    3
    """

    study: str
    run: str
    round: int
    attempt: int
    session: str
    terms: Mapping[str, int | str]
    revoked: int
    roster: tuple[Peer, ...]
    left: tuple[tuple[str, tuple[str, ...]], ...]
    outcome: str
    reason: str
    began: datetime
    ended: datetime

    def __post_init__(self) -> None:
        for name in ("study", "run"):
            _text(name, getattr(self, name), 1, LABEL)
        _whole("round", self.round, 1)
        _whole("attempt", self.attempt, 1)
        _whole("revoked", self.revoked, 0)
        _matches("session", self.session, rf"({DIGEST})?", "64 hexadecimal digits, or nothing")
        self._check_terms()
        self._check_roster()
        self._check_left()
        if self.outcome not in OUTCOMES:
            _refuse("outcome", self.outcome, " or ".join(OUTCOMES))
        _text("reason", self.reason, 0, SENTENCE)
        for name in ("began", "ended"):
            value = getattr(self, name)
            if not isinstance(value, datetime) or value.tzinfo is None:
                _refuse(name, value, "a time with its time zone")
            plain = value.astimezone(UTC)
            fine = plain.replace(microsecond=plain.microsecond // 1000 * 1000)
            object.__setattr__(self, name, fine)

    def _check_terms(self) -> None:
        terms: Any = self.terms
        if not isinstance(terms, Mapping) or len(terms) > TERMS:
            _refuse("terms", terms, f"at most {TERMS} numbers and texts by name")
        for name, value in terms.items():
            _matches("a term's name", name, FIELD, "small letters and _")
            if isinstance(value, str):
                _text(f"terms[{name}]", value, 0, LABEL)
            else:
                _whole(f"terms[{name}]", value, -WHOLE)

    def _check_roster(self) -> None:
        roster: Any = self.roster
        if not isinstance(roster, tuple) or len(roster) > CROWD:
            _refuse("roster", roster, f"at most {CROWD} members")
        for one in roster:
            if not isinstance(one, Peer):
                _refuse("a member of the roster", one, "a Peer")
            _matches("a member's name", one.name, NAME, "the name of a member")
            _matches(f"the serial of {one.name}", one.serial, HEX, "hexadecimal digits")
            _matches(f"the key of {one.name}", one.key, DIGEST, "64 hexadecimal digits")
            try:
                same = check_organisation(one.organisation) == one.organisation
            except IdentityError as error:
                raise AuditError(f"a transcript cannot hold this: {error}") from None
            if not same:
                _refuse(f"the organisation of {one.name}", one.organisation, "it in form C")
        names = [one.name for one in roster]
        if names != sorted(set(names)):
            _refuse("roster", names[:3], "each member once, sorted by name")

    def _check_left(self) -> None:
        known, left = {one.name for one in self.roster}, self.left
        each: Any = left if isinstance(left, tuple) and len(left) <= STEPS else [left]
        for pair in each:
            if not isinstance(pair, tuple) or len(pair) != 2 or not isinstance(pair[1], tuple):
                _refuse("left", pair, f"at most {STEPS} pairs of a step and the names left")
            _matches("a step", pair[0], STEP, "small letters")
            names = [name for name in pair[1] if isinstance(name, str)]
            if len(names) != len(pair[1]) or names != sorted(set(names)) or not known >= {*names}:
                _refuse(f"left at {pair[0]!r}", names[:3], "members of the roster, once, sorted")


def described(terms: Any) -> dict[str, int | str]:
    """Describe the terms of a session (any dataclass) as a transcript may hold them.

    Whole numbers stay, bytes become hexadecimal digits, all else its text.
    """
    found = ((part.name, getattr(terms, part.name)) for part in fields(terms))
    return {name: _plain(value) for name, value in found}


def to_value(transcript: Transcript) -> dict[str, Any]:
    """Turn a transcript into a value of JSON: whole numbers, texts, lists and objects only."""
    times = {name: _stamp(getattr(transcript, name)) for name in ("began", "ended")}
    return asdict(transcript) | {"terms": dict(transcript.terms)} | times


def from_value(value: Any) -> Transcript:
    """Turn a value of JSON into the transcript that it is. Raises `AuditError` for any other."""
    names = {part.name for part in fields(Transcript)}
    try:
        if set(value) != names:
            raise ValueError("it has other fields than a transcript")
        members = tuple(Peer(**one) for one in value["roster"])
        left = tuple((step, tuple(those)) for step, those in value["left"])
        times = {name: datetime.fromisoformat(value[name]) for name in ("began", "ended")}
        made = Transcript(**value | {"roster": members, "left": left} | times)
        same = canonical(to_value(made)) == canonical(value)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise AuditError(f"this is no transcript ({str(error)[:200]})") from None
    if not same:
        raise AuditError("this is no transcript: it is written in another way")
    return made


def _stamp(when: datetime) -> str:
    return when.isoformat(timespec="milliseconds")


def _plain(value: Any) -> int | str:
    if type(value) is int:
        return value
    return value.hex() if isinstance(value, bytes) else str(value)[:LABEL]


def _text(name: str, value: Any, least: int, most: int) -> None:
    if not isinstance(value, str) or not least <= len(value) <= most or not value.isprintable():
        _refuse(name, value, f"{least} to {most} printable characters")


def _whole(name: str, value: Any, least: int) -> None:
    if type(value) is not int or not least <= value < WHOLE:
        _refuse(name, value, f"a whole number from {least} up, below 2^63")


def _matches(name: str, value: Any, pattern: str, wanted: str) -> None:
    if not isinstance(value, str) or not re.fullmatch(pattern, value):
        _refuse(name, value, wanted)


def _refuse(name: str, value: Any, wanted: str) -> None:
    said = ascii(value)
    said = said if len(said) <= 80 else f"{said[:80]}…"
    raise AuditError(f"a transcript cannot hold {name} = {said}; give {wanted}")
