# SPDX-License-Identifier: Apache-2.0
"""A failure in a site's own code, as the site tells it: where and what, no value of its data.

Of every frame: the file's name, the line, the function. Of the error: its type and the first
characters of its text, in which quotations, lists and numbers are masked. No line of source.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator

from muster.errors import ClientError, DataError, MusterError
from muster.federation.protocol.codec_json import REPORT
from muster.federation.protocol.message import TrainingFailure
from muster.security.refusal import Refused

__all__ = ["failed", "masked", "redacted"]

TEXT = 200  # characters of an error's own words
CHAIN = 8  # errors that led to one another
MASKS = (
    (re.compile(r"""'[^']*'|"[^"]*"|‘[^’]*’|`[^`]*`"""), "'…'"),
    (re.compile(r"\[[^\[\]]*\]|\{[^{}]*\}"), "[…]"),
    (re.compile(r"[-+]?\d(?:[\w.,:+-]*\w)?"), "#"),
    (re.compile(r"\s+"), " "),
)


def failed(run: str, round: int, error: Exception) -> TrainingFailure:
    """Return the failure as the server is told of it.

    >>> failed("r", 3, ClientError(3, "a", "report", "its delta holds NaN")).stage
    'report'
    """
    if isinstance(error, ClientError):
        stage = error.stage
    else:
        kinds = {DataError: "data", Refused: "model"}
        stage = next((word for kind, word in kinds.items() if isinstance(error, kind)), "train")
    return TrainingFailure(run, round, stage, redacted(error)[:REPORT])


def masked(text: str) -> str:
    """Return words without quotations, lists and numbers.

    >>> masked("could not convert 'Smith' at row 17: [1.5, 2]")
    "could not convert '…' at row #: […]"
    """
    text = text[: 10 * TEXT]
    for pattern, word in MASKS:
        text = pattern.sub(word, text)
    return "".join(c if c.isprintable() else "?" for c in text)[:TEXT].strip()


def redacted(error: BaseException) -> str:
    """Return the traceback of an error, and of those that led to it."""
    return "\n".join(line for one in _chain(error) for line in _lines(one))


def _chain(error: BaseException) -> list[BaseException]:
    """Return an error and those that led to it, from the first to the last."""
    found = [error]
    while len(found) < CHAIN:
        one = found[-1]
        before = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
        if before is None or before in found:
            break
        found.append(before)
    return found[::-1]


def _lines(error: BaseException) -> Iterator[str]:
    for frame in traceback.extract_tb(error.__traceback__):
        file = frame.filename.replace("\\", "/").rpartition("/")[2]
        yield f"{file}, line {frame.lineno}, in {frame.name}"
    kind = type(error)
    text = error.cause if isinstance(error, ClientError) else str(error)
    if isinstance(error, MusterError):  # its first line is a sentence; the rest may quote
        text = text.partition("\n")[0]
    name = (
        kind.__name__
        if kind.__module__ in ("builtins", "__main__")
        else (f"{kind.__module__}.{kind.__name__}")
    )
    yield f"{name}: {masked(text)}"
