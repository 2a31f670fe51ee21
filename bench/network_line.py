# SPDX-License-Identifier: Apache-2.0
"""Connections of the load generator: requests are bytes, and answers are hardly looked at."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.network_server import name_of
from muster.federation.protocol.message import Poll, to_json
from muster.security.identity import client_context

__all__ = ["Line", "dial", "head", "poll", "tls_of"]

HOST = "127.0.0.1"
LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")


class Line(asyncio.Protocol):
    """A connection that is kept alive, with one request on it at a time."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.lost = False
        self._room = asyncio.Event()
        self._room.set()
        self._data, self._answer = bytearray(), asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        """Note that the connection is made."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Take a piece of an answer."""
        self._data += data
        end = self._data.find(b"\r\n\r\n")
        found = LENGTH.search(self._data, 0, end) if end >= 0 else None
        if found and len(self._data) >= end + 4 + int(found[1]) and not self._answer.done():
            self._answer.set_result((int(self._data[9:12]), bytes(self._data[end + 4 :])))

    def connection_lost(self, error: Exception | None) -> None:
        """Note that the connection is gone."""
        self.lost = True
        if not self._answer.done():
            self._answer.set_exception(error or ConnectionResetError("closed by the server"))
            self._answer.exception()

    def pause_writing(self) -> None:
        """Pause: the server takes less than is sent."""
        self._room.clear()

    def resume_writing(self) -> None:
        """Go on: the server has taken it."""
        self._room.set()

    async def send(self, head: bytes, pieces: Sequence[memoryview]) -> bytes:
        """Send a large body as fast as it is taken; return the body of the answer."""
        self._data.clear()
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(head)
        for piece in pieces:
            await self._room.wait()
            self.transport.write(piece)
        _, said = await self._answer
        return said

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Ask, and return the status and the body of the answer."""
        self._data.clear()
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        found: tuple[int, bytes] = await self._answer
        return found


async def dial(port: int, tls: ssl.SSLContext | None = None) -> Line:
    _, line = await asyncio.get_running_loop().create_connection(
        Line, HOST, port, ssl=tls, server_hostname=HOST if tls else None
    )
    return line


def head(method: str, path: str, name: str, size: int) -> bytes:
    first = f"{method} {path} HTTP/1.1\r\nhost: {HOST}\r\nmuster-site: {name}\r\n"
    return f"{first}content-length: {size}\r\n\r\n".encode()


def poll(run: str, name: str) -> bytes:
    body = to_json(Poll(run, 0, 0.0))
    return head("POST", "/v1/poll", name, len(body)) + body


def tls_of(folder: Path, number: int) -> ssl.SSLContext:
    home = folder / "federation" / name_of(number)
    return client_context(home, home / "authority.pem")
