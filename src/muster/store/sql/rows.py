# SPDX-License-Identifier: Apache-2.0
"""Blobs as rows of PostgreSQL, for servers that share no disk: a row holds at most 1 MiB."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Connection, bindparam, delete, insert, select, text, update
from sqlalchemy.dialects import postgresql

from muster.errors import RunError
from muster.store.blobs import misplaced, sound
from muster.store.sql.tables import blobs, chunks
from muster.store.sql.transact import Transactions
from muster.tree_codec import CHUNK

__all__ = ["DatabaseBlobs"]

BOUNDLESS = 1 << 62
SOON = text("SET LOCAL synchronous_commit TO off")  # `finish` waits for all that came before
NAMED = blobs.c.name == bindparam("b_name")
ENTRY = select(blobs.c.size, blobs.c.finished).where(NAMED)
BEGIN = postgresql.insert(blobs).values(size=0).on_conflict_do_nothing()
GROW = (
    update(blobs)
    .where(NAMED, ~blobs.c.finished, blobs.c.size == bindparam("b_offset"))
    .values(size=bindparam("b_end"))
)
FINISH = update(blobs).where(NAMED).values(finished=True)
DROP = delete(blobs).where(NAMED)  # and its chunks
SAME = select(chunks.c.data).where(
    chunks.c.name == bindparam("b_name"), chunks.c.start == bindparam("b_offset")
)
PIECE = (
    select(chunks.c.start, chunks.c.data)
    .where(chunks.c.name == bindparam("b_name"), chunks.c.start <= bindparam("b_at"))
    .order_by(chunks.c.start.desc())
    .limit(1)
)


class DatabaseBlobs:
    """Blobs in the database; as `muster.store.blobs.Blobs` has it."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    def size(self, name: str) -> int | None:
        """Return the bytes of a finished blob, or None."""
        size, finished = self._entry(name)
        return size if finished else None

    def held(self, name: str) -> int:
        """Return the bytes that are there of an unfinished blob."""
        size, finished = self._entry(name)
        return 0 if finished else size

    def append(self, name: str, offset: int, data: bytes | memoryview) -> int:
        """Add bytes at the end, which must be at `offset`; the new end."""
        view = memoryview(data)
        for begin in range(0, len(view), CHUNK):
            offset = self._add(name, offset, bytes(view[begin : begin + CHUNK]))
        return offset if len(view) else self._add(name, offset, b"")

    def finish(self, name: str) -> None:
        """Make a blob durable under its name; idempotent."""

        def body(connection: Connection, _: bool) -> int:
            return int(connection.execute(FINISH, {"b_name": name}).rowcount)

        if not self._transactions.change(f"finish the blob {name}", body):
            raise RunError(f"the blob {name} cannot be finished, for there is none; send it again")

    def drop(self, name: str) -> None:
        """Remove a blob, finished or not; idempotent."""

        def body(connection: Connection, _: bool) -> None:
            connection.execute(DROP, {"b_name": name})

        self._transactions.change(f"remove the blob {name}", body)

    def erase(self, name: str) -> None:
        """Remove a blob; its row is dead until a VACUUM, as of all that is deleted here."""
        self.drop(name)

    def read(self, name: str, begin: int = 0, end: int | None = None) -> Iterator[bytes]:
        """Yield bytes `begin` to `end` in pieces of at most 1 MiB."""
        size, _ = self._entry(name)
        stop = size if end is None else min(end, size)
        while begin < stop:
            piece = self._piece(name, begin, stop)
            if not piece:
                raise RunError(f"the blob {name} ends at {begin} of {size}; have it sent again")
            begin += len(piece)
            yield piece

    def whole(self, name: str, *, known: bool = False) -> bytearray:
        """Return a finished blob in memory, checked against its name's digest unless `known`."""
        size = self.size(name)
        if size is None:
            raise RunError(f"there is no blob {name} in {self._transactions.name}; have it sent")
        data = bytearray(size)
        at = 0
        for piece in self.read(name):
            data[at : at + len(piece)] = piece
            at += len(piece)
        if not known:
            sound(name, data, self._transactions.name)
        return data

    def names(self, prefix: str) -> list[str]:
        """Return the sorted names that begin so, finished or not."""
        query = select(blobs.c.name).where(blobs.c.name.startswith(prefix, autoescape=True))
        return sorted(self._transactions.read(lambda c: c.execute(query).scalars().all()))

    def room(self) -> int:
        """Return a boundless number: how much a database may grow, only its keeper knows."""
        return BOUNDLESS

    def _entry(self, name: str) -> tuple[int, bool]:
        row = self._transactions.read(lambda c: c.execute(ENTRY, {"b_name": name}).first())
        return (0, False) if row is None else (row.size, row.finished)

    def _piece(self, name: str, begin: int, stop: int) -> bytes:
        place = {"b_name": name, "b_at": begin}
        row = self._transactions.read(lambda c: c.execute(PIECE, place).first())
        return b"" if row is None else row.data[begin - row.start : stop - row.start]

    def _add(self, name: str, offset: int, data: bytes) -> int:
        end = offset + len(data)

        def body(connection: Connection, again: bool) -> int | None:
            connection.execute(SOON)
            if offset == 0:
                connection.execute(BEGIN, {"name": name})
            place = {"b_name": name, "b_offset": offset, "b_end": end}
            if not connection.execute(GROW, place).rowcount:
                held = connection.execute(SAME, place).scalar() if again else None
                return end if held == data else None
            if data:
                connection.execute(insert(chunks), {"name": name, "start": offset, "data": data})
            return end

        found = self._transactions.change(f"write the blob {name}", body)
        if found is None:
            raise misplaced(name, offset, self._entry(name)[0])
        return found
