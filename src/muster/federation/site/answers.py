# SPDX-License-Identifier: Apache-2.0
"""Bounds on a server's answers: the size of a body, and compression only where it was asked for.

A site that reads whatever comes has all of its memory taken by a server that lies, and a few
kilobytes are enough where they are unpacked.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from muster.extras import require
from muster.federation.protocol.limits import ANSWER, LONG_ANSWERS

if TYPE_CHECKING:
    import httpx
else:
    httpx = require("httpx", extra="service")

__all__ = ["bound", "most"]

WHOLE = (200, 206)  # the answers to a question for a model that hold some of it


def most(path: str) -> int | None:
    """Return the bytes that an answer at this address may have; None where whoever reads it counts.

    >>> most("/v1/hello") == ANSWER, most("/v1/plan") > ANSWER, most("/v1/models/0")
    (True, True, None)
    """
    if path.startswith("/v1/models/"):
        return None
    return next((size for start, size in LONG_ANSWERS if path.startswith(start)), ANSWER)


async def bound(answer: httpx.Response) -> None:
    """Hold an answer to its bounds before its body is read; for `event_hooks` of a client.

    Raises `httpx.RemoteProtocolError`, now or while it is read: the line tries again.
    """
    asked = answer.request.headers.get("accept-encoding", "identity")
    coding = answer.headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("identity", "", asked):
        raise httpx.RemoteProtocolError(f"it answered in {coding!r:.40}; {asked} was asked for")
    size = most(answer.request.url.path)
    if size is None and answer.status_code not in WHOLE:
        size = ANSWER  # a refusal
    if size is not None:
        answer.stream = _Bounded(answer.stream, size)


class _Bounded(httpx.AsyncByteStream):
    """A body that ends in an error behind so many bytes."""

    def __init__(self, stream: Any, size: int) -> None:
        self._stream, self._size = stream, size

    async def __aiter__(self) -> AsyncIterator[bytes]:
        seen = 0
        async for data in self._stream:
            seen += len(data)
            if seen > self._size:
                raise httpx.RemoteProtocolError(f"it answered with more than {self._size} bytes")
            yield data

    async def aclose(self) -> None:
        await self._stream.aclose()
