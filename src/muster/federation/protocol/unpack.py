# SPDX-License-Identifier: Apache-2.0
"""Unpacking a little at a time, so that whoever takes what was compressed can say stop."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from muster.extras import require
from muster.federation.protocol.limits import UNPACKED, WINDOW
from muster.security.refusal import RefusalReason, Refused

if TYPE_CHECKING:
    import zstandard
else:
    zstandard = require("zstandard", extra="service")

__all__ = ["bounded"]


class _Sink:
    """A file in the eyes of zstandard."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self.write = write


def bounded(put: Callable[[Any], None]) -> Callable[[bytes | bytearray], None]:
    """Feed zstd to the result and `put` gets what it holds, half a megabyte at a time.

    So whoever is given the octets can refuse them long before a bomb has become large.

    >>> found = []
    >>> bounded(found.append)(bytearray(zstandard.compress(b"a" * 1000)))
    >>> b"".join(found) == b"a" * 1000
    True
    """
    reader = zstandard.ZstdDecompressor(max_window_size=WINDOW)
    stream = reader.stream_writer(_Sink(put), write_size=UNPACKED, closefd=False)  # type: ignore[arg-type]

    def feed(data: bytes | bytearray) -> None:
        try:
            stream.write(data)
        except zstandard.ZstdError as error:
            raise Refused(RefusalReason.MALFORMED, f"the body is no zstd: {error}"[:200]) from None

    return feed
