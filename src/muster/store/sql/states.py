# SPDX-License-Identifier: Apache-2.0
"""The run half of a ledger: facts, committed rounds, their state, the memories of clients.

A large state is a blob of its own: beside the database on SQLite, where SQLiteStore looks for it,
in rows on PostgreSQL. It is complete and durable before the transaction that points to it, and is
written in pieces that lie in the arrays, so that a state is in memory once.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load, save
from sqlalchemy import Connection, delete, exists, func, insert, literal, select, union

from muster import tree_codec
from muster.errors import DataError, RunError
from muster.mapped import own
from muster.store.blob import checksum, plain
from muster.store.blobs import Blobs
from muster.store.records import JournalRow, name_of
from muster.store.sql import journal
from muster.store.sql.tables import (
    memory,
    meta,
    rounds,
    state,
    superseded,
    versions,
)
from muster.store.sql.transact import Turn
from muster.types import ClientId

__all__ = [
    "Drawn",
    "States",
    "advance",
    "amend",
    "facts",
    "files",
    "go_back",
    "history",
    "kept",
    "last_line",
    "last_round",
    "note",
    "recorded",
    "remembered",
    "row",
    "set_aside",
    "version",
]

LARGE = 1 << 16  # bytes from which a state is a blob
LAST = select(state.c.round, state.c.file, state.c.arrays)
FILES = union(select(versions.c.file), select(state.c.file))
NEWER = memory.alias("newer")
NEXT = (
    select(func.min(NEWER.c.round))
    .where(NEWER.c.client == memory.c.client, NEWER.c.round > memory.c.round)
    .correlate(memory)
    .scalar_subquery()
)
# Neither the newest memory of its client, nor the one that was when a kept version was committed.
NEEDLESS = delete(memory).where(
    NEXT.is_not(None),
    ~exists().where(versions.c.round >= memory.c.round, versions.c.round < NEXT).correlate(memory),
)
Row = tuple[int, str | None, bytes | None]  # round, the blob's name, or the arrays themselves


@dataclass(frozen=True)
class Drawn:
    """A state that is written, and what its row says."""

    round: int
    file: str | None
    arrays: bytes | None


@dataclass(frozen=True)
class States:
    """Large states as blobs; `where` is what errors call the run."""

    blobs: Blobs
    where: str

    def written(self, round: int, arrays: Mapping[str, Any], mark: int | None) -> Drawn:
        """Write a state durably; `mark` tells blobs of two servers apart that both mean to lead.

        Raises `RunError`, `NoRoom` where there is none; then nothing is left over.
        """
        found = plain(arrays)
        if sum(array.nbytes for array in found.values()) < LARGE:
            return Drawn(round, None, save(found))
        tail = "" if mark is None else f"-{mark}"
        name = f"state-{round:06d}-{checksum(found)}{tail}.safetensors"
        with self.dropped_on_error(name):
            self.blobs.drop(name)
            end = 0
            for piece in tree_codec.pieces(found):
                end = self.blobs.append(name, end, piece)
            self.blobs.finish(name)
        return Drawn(round, name, None)

    def loaded(self, row: Row | None) -> tuple[int, dict[str, Any]] | None:
        """Return the state of a row. Raises `RunError` for one that is damaged or gone."""
        if row is None:
            return None
        round, file, data = row
        try:
            arrays = tree_codec.read(self.blobs.whole(file) if file else data)
            if file and checksum(arrays) not in file:
                raise DataError(f"the checksum of {file} is wrong")
        except (DataError, RunError) as error:
            raise RunError(
                f"the state of round {round} in {self.where} is damaged ({error}); "
                f"restore it from a copy, or start a new run"
            ) from error
        return round, {name: _own(array) for name, array in arrays.items()}

    def sweep(self, keep: Collection[str]) -> None:
        """Remove what a death in the middle of a commit left over."""
        for name in self.blobs.names("state-"):
            if name not in keep:
                with suppress(RunError):  # it does no harm
                    self.blobs.erase(name)  # as an amended one would have been

    @contextmanager
    def dropped_on_error(self, name: str | None) -> Iterator[None]:
        """Drop a blob that nothing points to when an error comes."""
        try:
            yield
        except BaseException:
            if name is not None:
                with suppress(RunError):  # it would be swept away later
                    self.blobs.drop(name)
            raise


def facts(connection: Connection) -> dict[str, Any]:
    """Return all facts about the run."""
    return {row.key: json.loads(row.value) for row in connection.execute(select(meta))}


def note(turn: Turn, rows: Sequence[tuple[str, str]]) -> None:
    """Write facts as JSON, replacing those of the same name."""
    turn.connection.execute(delete(meta).where(meta.c.key.in_([key for key, _ in rows])))
    turn.connection.execute(insert(meta), [{"key": key, "value": value} for key, value in rows])


def history(connection: Connection) -> list[dict[str, Any]]:
    """Return the records of all committed rounds in order."""
    lines = connection.execute(select(rounds.c.record).order_by(rounds.c.round)).scalars()
    return [json.loads(line) for line in lines]


def recorded(connection: Connection, round: int) -> dict[str, Any] | None:
    """Return the record of one committed round."""
    line = connection.execute(select(rounds.c.record).where(rounds.c.round == round)).scalar()
    return None if line is None else dict(json.loads(line))


def last_round(connection: Connection) -> int:
    """Return the last committed round, or 0."""
    return connection.execute(select(func.max(rounds.c.round))).scalar() or 0


def last_line(connection: Connection) -> str | None:
    """Return the record of the last committed round as JSON."""
    query = select(rounds.c.record).order_by(rounds.c.round.desc()).limit(1)
    line: str | None = connection.execute(query).scalar()
    return line


def remembered(
    connection: Connection, clients: Iterable[ClientId], version: int | None = None
) -> dict[ClientId, dict[str, Any]]:
    """Return the committed memory of these clients, now or when a version was committed."""
    query = select(memory.c.arrays).order_by(memory.c.round.desc()).limit(1)
    if version is not None:
        query = query.where(memory.c.round <= version)
    found: dict[ClientId, dict[str, Any]] = {}
    for client in clients:
        data = connection.execute(query.where(memory.c.client == name_of(client))).scalar()
        try:
            found |= {} if data is None else {client: dict(load(data))}
        except SafetensorError as error:
            raise RunError(
                f"the memory of client {client!r} is damaged ({error}); restore the run from a "
                f"copy, or start a new one"
            ) from error
    return found


def row(connection: Connection) -> Row | None:
    """Return the row of the last state."""
    found = connection.execute(LAST).one_or_none()
    return None if found is None else (found.round, found.file, found.arrays)


def kept(connection: Connection) -> list[int]:
    """Return the versions that are kept, in order; the last is one."""
    both = union(select(versions.c.round), select(state.c.round)).subquery()
    return list(connection.execute(select(both.c.round).order_by(both.c.round)).scalars())


def version(connection: Connection, round: int) -> Row | None:
    """Return the row of a version that is kept."""
    last = row(connection)
    if last is not None and last[0] == round:
        return last
    found = connection.execute(select(versions).where(versions.c.round == round)).one_or_none()
    return None if found is None else (found.round, found.file, found.arrays)


def files(connection: Connection) -> set[str]:
    """Return the blobs of all versions that are kept."""
    return {name for name in connection.execute(FILES).scalars() if name}


def set_aside(connection: Connection) -> list[tuple[int, dict[str, Any]]]:
    """Return the records that rollbacks went back before, each with the rollback's number."""
    query = select(superseded).order_by(superseded.c.number, superseded.c.round)
    return [(row.number, json.loads(row.record)) for row in connection.execute(query)]


def advance(
    turn: Turn,
    drawn: Drawn,
    line: str,
    staged: Mapping[ClientId, bytes],
    stays: Collection[int],
    accepted: Sequence[ClientId],
) -> None:
    """Write a commit's rows: state, record, memories, and its event, which ends what was open.

    Of the versions that are kept, those in `stays` stay beside it; the others go.
    """
    connection, round = turn.connection, drawn.round
    before = list(connection.execute(select(versions.c.round)).scalars())
    gone = [one for one in before if one not in stays]
    if gone:
        connection.execute(delete(versions).where(versions.c.round.in_(gone)))
    if not set(connection.execute(select(state.c.round)).scalars()).isdisjoint(stays):
        connection.execute(insert(versions).from_select(["round", "file", "arrays"], LAST))
    connection.execute(delete(state))
    connection.execute(insert(state), vars(drawn) | {"one": 1})
    connection.execute(insert(rounds), {"round": round, "record": line})
    alone = connection.execute(select(versions.c.round).limit(1)).one_or_none() is None
    for client, data in {name_of(client): data for client, data in staged.items()}.items():
        if alone:
            connection.execute(delete(memory).where(memory.c.client == client))
        connection.execute(insert(memory), {"client": client, "round": round, "arrays": data})
        if not alone:
            connection.execute(NEEDLESS.where(memory.c.client == client))
    if gone:  # some of the memories were theirs alone
        connection.execute(NEEDLESS)
    journal.append(turn, [JournalRow("committed", round, "", {"accepted": [*accepted]})])


def go_back(turn: Turn, round: int, number: int, raised: Sequence[int]) -> None:
    """Write a rollback's rows: a kept version is last, nothing is open, records are set aside.

    What was committed after it goes: versions, memories. `number` is that of the rollback; behind
    the rounds that are `raised`, a federation began a new attempt.
    """
    connection = turn.connection
    found = version(connection, round)
    assert found is not None
    drawn = {"one": 1, "round": found[0], "file": found[1], "arrays": found[2]}
    connection.execute(delete(state))
    connection.execute(insert(state), drawn)
    connection.execute(delete(versions).where(versions.c.round >= round))
    connection.execute(delete(memory).where(memory.c.round > round))
    later = select(literal(number), rounds.c.round, rounds.c.record).where(rounds.c.round > round)
    connection.execute(insert(superseded).from_select(["number", "round", "record"], later))
    connection.execute(delete(rounds).where(rounds.c.round > round))
    journal.append(turn, [JournalRow("went back", round, "", {"raised": [*raised]})])


def amend(turn: Turn, drawn: Drawn) -> str | None:
    """Put another state in the place of the last; return the blob of that one."""
    before = row(turn.connection)
    turn.connection.execute(delete(state))
    turn.connection.execute(insert(state), vars(drawn) | {"one": 1})
    return None if before is None else before[1]


def _own(array: Any) -> Any:
    """Return an array that its reader may change, outside of any file."""
    return array if array.flags.writeable else own(array)
