# SPDX-License-Identifier: Apache-2.0
"""The source of a population's rows: stored in one array, or loaded client by client."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from muster.data.rows import ClientId, Pair, RowFormat, Rows, checked, joined
from muster.errors import DataError

__all__ = ["Lazy", "Load", "Loads", "Sizes", "Source", "Stored"]

Load = Callable[[Any], Pair]
Loads = Callable[[Any], "Pair | None"]
Sizes = int | Mapping[Any, int] | Sequence[int] | NDArray[Any] | None
_KEPT = 64  # clients a lazy source keeps in memory


class Stored:
    """Rows of all clients in one array; clients are positions 0 … k-1, in the order of their ids.

    `train` and `test` are read-only from here on; `segment` is the shared memory they lie in.
    """

    def __init__(self, train: Rows, test: Rows | None = None, segment: object = None) -> None:
        self.train, self.test, self.segment = train, test, segment
        for rows in (train, test):
            for array in rows or ():
                array.flags.writeable = False

    def __reduce__(self) -> tuple[Any, ...]:
        return Stored, (self.train, self.test)

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Training rows of each client `(k,)`."""
        return self.train.sizes

    def pair(self, position: int) -> Pair:
        """Return one client's training rows, as views."""
        return _slice(self.train, position)

    def test_pair(self, position: int) -> Pair | None:
        """Return one client's test rows, as views, or None."""
        if self.test is None or not self.test.sizes[position]:
            return None
        return _slice(self.test, position)

    def gather(self, positions: NDArray[np.int64]) -> Rows:
        """Return the whole arrays with the offsets of some clients; copies nothing."""
        x, y, starts, sizes = self.train
        return Rows(x, y, starts[positions], sizes[positions])

    def pooled(self) -> Pair:
        """Return all training rows in client order: the arrays themselves where they are that."""
        return _pool(self.train)

    def pooled_test(self) -> Pair | None:
        """Return all test rows in client order, or None."""
        if self.test is None or not self.test.sizes.any():
            return None
        return _pool(self.test)

    def only(self, positions: NDArray[np.int64]) -> Stored:
        """Return some of the clients, over the same arrays."""
        test = self.test
        if test is not None:
            test = Rows(test.x, test.y, test.starts[positions], test.sizes[positions])
        return Stored(self.gather(positions), test, self.segment)


class Lazy:
    """Rows loaded when asked for, and checked then; the last few clients are kept.

    `sizes` is one number for all, a mapping, a sequence in the order of `clients`, or None:
    then every client is loaded once when the sizes are first needed.
    """

    def __init__(
        self, clients: tuple[ClientId, ...], load: Load, sizes: Sizes, test: Loads | None
    ) -> None:
        self.clients, self.load, self.test = clients, load, test
        self._sizes = _sizes(clients, sizes)
        self._form: RowFormat | None = None
        self._kept: OrderedDict[tuple[str, int], Pair | None] = OrderedDict()

    def __reduce__(self) -> tuple[Any, ...]:
        return Lazy, (self.clients, self.load, self._sizes, self.test)

    @property
    def sizes_known(self) -> bool:
        """Return whether `sizes` costs nothing."""
        return self._sizes is not None

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Training rows of each client `(k,)`."""
        if self._sizes is None:
            counts = [len(self._fresh(self.load, i)[0]) for i in range(len(self.clients))]
            self._sizes = np.array(counts, np.int64)
            self._sizes.flags.writeable = False
        return self._sizes

    def pair(self, position: int) -> Pair:
        """Return one client's training rows.

        Raises `DataError`, with the client's name, when loading fails or the rows are no good.
        """
        pair = self._recall(("train", position))
        assert pair is not None
        return pair

    def test_pair(self, position: int) -> Pair | None:
        """Return one client's test rows, or None."""
        return None if self.test is None else self._recall(("test", position))

    def gather(self, positions: NDArray[np.int64]) -> Rows:
        """Return the rows of some clients, one after the other, in fresh arrays."""
        pairs = [self.pair(int(position)) for position in positions]
        return joined(pairs, RowFormat.common(pairs) if pairs else self._any_form())

    def pooled(self) -> Pair:
        """Return all training rows in client order, in fresh arrays."""
        return self.gather(np.arange(len(self.clients)))[:2]

    def pooled_test(self) -> Pair | None:
        """Return all test rows in client order, in fresh arrays, or None."""
        pairs = [self.test_pair(i) for i in range(len(self.clients)) if self.test is not None]
        given = [pair for pair in pairs if pair is not None]
        return joined(given, RowFormat.common(given))[:2] if given else None

    def only(self, positions: NDArray[np.int64]) -> Lazy:
        """Return some of the clients."""
        clients = tuple(self.clients[int(position)] for position in positions)
        sizes = None if self._sizes is None else self._sizes[positions]
        return Lazy(clients, self.load, sizes, self.test)

    def _any_form(self) -> RowFormat:
        return self._form or RowFormat.of(self.pair(0))

    def _recall(self, place: tuple[str, int]) -> Pair | None:
        if place in self._kept:
            self._kept.move_to_end(place)
            return self._kept[place]
        kind, position = place
        pair: Pair | None
        if kind == "test":
            assert self.test is not None
            pair = self._fresh(self.test, position)
        else:
            pair = self._fresh(self.load, position)
            self._same_size(position, len(pair[0]))
        self._kept[place] = pair
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return pair

    def _fresh(self, load: Loads, position: int) -> Any:
        client = self.clients[position]
        try:
            pair = load(client)
        except Exception as error:
            raise DataError(
                f"loading client {client!r} raised {type(error).__name__}: {error}; "
                "load(client) must return its (x, y), so mend the loader or leave the client out"
            ) from error
        if pair is None and load is self.test:
            return None
        pair = checked(client, pair, self._form)
        self._form = self._form or RowFormat.of(pair)
        return pair

    def _same_size(self, position: int, size: int) -> None:
        if self._sizes is not None and self._sizes[position] != size:
            raise DataError(
                f"client {self.clients[position]!r} loaded {size} rows but sizes says "
                f"{self._sizes[position]}, they must agree; give its true size or sizes=None"
            )


Source = Stored | Lazy


def _slice(rows: Rows, position: int) -> Pair:
    start = int(rows.starts[position])
    stop = start + int(rows.sizes[position])
    return rows.x[start:stop], rows.y[start:stop]


def _pool(rows: Rows) -> Pair:
    ends = np.cumsum(rows.sizes)
    if ends[-1] == len(rows.x) and (rows.starts == ends - rows.sizes).all():
        return rows.x, rows.y
    parts = [_slice(rows, i) for i in range(len(rows.sizes)) if rows.sizes[i]]
    return joined(parts, RowFormat.of(parts[0]))[:2]


def _sizes(clients: tuple[ClientId, ...], sizes: Sizes) -> NDArray[np.int64] | None:
    if sizes is None:
        return None
    if isinstance(sizes, (int, np.integer)):
        counts = np.full(len(clients), sizes, np.int64)
    elif isinstance(sizes, Mapping):
        missing = next((client for client in clients if client not in sizes), None)
        if missing is not None:
            raise DataError(f"sizes has no client {missing!r}, all are required; add its size")
        counts = np.array([sizes[client] for client in clients], np.int64)
    else:
        counts = np.array(sizes, np.int64)
    if counts.shape != (len(clients),):
        raise DataError(
            f"sizes has shape {counts.shape} for {len(clients)} clients, one size per client is "
            "required; give a sequence as long as clients"
        )
    if (counts < 1).any():
        empty = clients[int(np.argmax(counts < 1))]
        raise DataError(f"client {empty!r} is empty, at least one row is required; leave it out")
    counts.flags.writeable = False
    return counts
