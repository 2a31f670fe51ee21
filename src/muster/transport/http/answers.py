# SPDX-License-Identifier: Apache-2.0
"""Bounds on a server's answers: the size of a body, and compression only where it was asked for.

A site that reads whatever comes has all of its memory taken by a server that lies, and a few
kilobytes are enough where they are unpacked.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from muster.extras import require
from muster.federation.protocol.limits import ANSWER
from muster.federation.protocol.transport import Traffic

if TYPE_CHECKING:
    import httpx
else:
    httpx = require("httpx", extra="site")

__all__ = ["LONGEST", "bound"]

LONGEST = "muster.longest"  # an extension of a request: the bytes of its answer, None for no bound
WHOLE = (200, 206)  # the answers to a question for a model that hold some of it


async def bound(traffic: Traffic, answer: httpx.Response) -> None:
    """Hold an answer to its bounds before its body is read, and count it; for `event_hooks`.

    Raises `httpx.RemoteProtocolError`, now or while it is read: the line tries again.
    """
    asked = answer.request.headers.get("accept-encoding", "identity")
    coding = answer.headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("identity", "", asked):
        raise httpx.RemoteProtocolError(f"it answered in {coding!r:.40}; {asked} was asked for")
    size = answer.request.extensions.get(LONGEST, ANSWER)
    if size is None and answer.status_code not in WHOLE:
        size = ANSWER  # a refusal
    answer.stream = _Bounded(answer.stream, size, traffic)


class _Bounded(httpx.AsyncByteStream):
    """A body that is counted, and ends in an error behind so many bytes."""

    def __init__(self, stream: Any, size: int | None, traffic: Traffic) -> None:
        self._stream, self._size, self._traffic = stream, size, traffic

    async def __aiter__(self) -> AsyncIterator[bytes]:
        seen = 0
        async for data in self._stream:
            seen += len(data)
            self._traffic.received += len(data)
            if self._size is not None and seen > self._size:
                raise httpx.RemoteProtocolError(f"it answered with more than {self._size} bytes")
            yield data

    async def aclose(self) -> None:
        await self._stream.aclose()
