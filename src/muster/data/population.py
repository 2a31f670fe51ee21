# SPDX-License-Identifier: Apache-2.0
"""`Population`: the clients enrolled, and the rows each of them holds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from muster import keys
from muster.data.rows import (
    ClientId,
    Pair,
    RowFormat,
    Rows,
    checked,
    fraction,
    frame_rows,
    holdout,
    identities,
    joined,
)
from muster.data.shared import Handle, attached, described, share
from muster.data.source import Lazy, Load, Loads, Sizes, Source, Stored
from muster.errors import DataError
from muster.types import Roster

__all__ = ["Population"]


class Population:
    """The clients enrolled, by sorted id, and their rows; a value that is never changed.

    Rows are pairs `(x, y)` of arrays `(n, ...)` that share their trailing shape over all clients.
    Build one with `from_arrays`, `from_frame` or `lazy`.

    >>> people = Population.from_arrays({"b": ([[1.0]], [0]), "a": ([[2.0], [3.0]], [1, 0])})
    >>> people.clients, people.sizes.tolist(), people.gather(["b"]).starts.tolist()
    (('a', 'b'), [2, 1], [2])
    """

    def __init__(
        self,
        clients: tuple[ClientId, ...],
        source: Source,
        barred: Mapping[ClientId, str] | None = None,
    ) -> None:
        self.clients, self.barred = clients, barred
        self._source = source
        self._positions = {client: i for i, client in enumerate(clients)}
        self._numbers: NDArray[np.uint64] | None = None

    @classmethod
    def from_arrays(
        cls, rows: Mapping[Any, Any], test: Mapping[Any, Any] | None = None
    ) -> Population:
        """Make clients from `{client: (x, y)}`; `test` holds test rows of all or some of them.

        The arrays are copied once, into one array for x and one for y, and are read-only there.

        Whatever holds numbers is taken: arrays, frames, tensors, lists. Where dtypes differ, the
        one that holds them all is used.

        Raises `DataError` on no client, an empty one, rows without target, NaN or Inf, or a
        trailing shape that differs between clients; it names the client.
        """
        given = dict(zip(identities(rows), rows.values(), strict=True))
        clients = tuple(sorted(given))
        first = checked(clients[0], given[clients[0]])
        form = RowFormat.of(first)
        train = [first, *(checked(client, given[client], form) for client in clients[1:])]
        whole = joined(train, RowFormat.common(train))
        return cls(clients, Stored(whole, _test_rows(clients, test, form)))

    @classmethod
    def from_frame(
        cls,
        frame: Any,
        client: str,
        features: Sequence[str] | None = None,
        target: str = "y",
        test: float | None = None,
        seed: int = 0,
    ) -> Population:
        """Make clients from a pandas data frame: one per value of the column `client`.

        `features` are all other columns unless named. x becomes float32; y becomes int64 where
        the target column holds integers or booleans, else float32. `test` is the fraction of
        each client's rows kept for testing, drawn from `seed`.

        Raises `DataError` on a missing or non-numeric column, a gap, or a row without client.
        """
        rows = frame_rows(frame, client, features, target)
        return cls.from_arrays(*held_out(rows, test or 0.0, seed))

    @classmethod
    def lazy(
        cls, clients: Iterable[Any], load: Load, sizes: Sizes = None, test: Loads | None = None
    ) -> Population:
        """Make clients whose rows are loaded when needed: `load(client)` returns `(x, y)`.

        `sizes` is one row count for all clients, a mapping, or a sequence in the order of
        `clients`; when None each client is loaded once, on the first need. `test(client)`
        returns test rows or None. Rows are checked when loaded, as in `from_arrays`, and 64
        clients at most are kept. For worker processes `load` must stand at the top of a module.

        >>> many = Population.lazy(range(100_000), lambda i: (np.full((2, 1), i), np.zeros(2)), 2)
        >>> len(many), many[7][0].tolist()
        (100000, [[7], [7]])
        """
        given = identities(clients)
        ordered = tuple(sorted(given))
        if sizes is not None and not isinstance(sizes, (int, np.integer, Mapping)):
            if len(sizes) != len(given):
                raise DataError(
                    f"sizes has {len(sizes)} entries for {len(given)} clients, one per client is "
                    "required; give a sequence as long as clients"
                )
            sizes = dict(zip(given, sizes, strict=True))
        return cls(ordered, Lazy(ordered, load, sizes, test))

    def __len__(self) -> int:
        return len(self.clients)

    def __iter__(self) -> Iterator[ClientId]:
        return iter(self.clients)

    def __contains__(self, client: object) -> bool:
        return client in self._positions

    def __getitem__(self, client: ClientId) -> Pair:
        """Return the client's training rows `(x, y)`.

        Raises `DataError` when the client is not enrolled.
        """
        return self._source.pair(self.index(client))

    def __repr__(self) -> str:
        known = not isinstance(self._source, Lazy) or self._source.sizes_known
        rows = f", rows={int(self.sizes.sum())}" if known else ""
        return f"<Population clients={len(self)}{rows}>"

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Training rows of each client `(clients,)`, aligned with `clients`."""
        return self._source.sizes

    @property
    def numbers(self) -> NDArray[np.uint64]:
        """The key number of each client `(clients,)` (`keys.numbers`)."""
        if self._numbers is None:
            self._numbers = keys.numbers(self.clients)
            self._numbers.flags.writeable = False
        return self._numbers

    @property
    def is_lazy(self) -> bool:
        """Return whether rows are loaded on demand, so that nobody has seen them all."""
        return isinstance(self._source, Lazy)

    @property
    def has_test(self) -> bool:
        """Return whether any client has test rows of its own."""
        return self._source.test is not None

    def index(self, client: ClientId) -> int:
        """Return the client's position in `clients`.

        Raises `DataError` when the client is not enrolled.
        """
        try:
            return self._positions[client]
        except KeyError:
            raise self._unknown(client) from None

    def test(self, client: ClientId) -> Pair | None:
        """Return the client's test rows `(x, y)`, or None."""
        return self._source.test_pair(self.index(client))

    def gather(self, clients: Sequence[ClientId]) -> Rows:
        """Return the training rows of several clients, as whole arrays with offsets.

        Nothing is copied unless the population is lazy.

        Raises `DataError` when a client is not enrolled.
        """
        return self._source.gather(self._at(clients))

    def pooled(self) -> Pair:
        """Return all training rows of all clients, in client order."""
        return self._source.pooled()

    def pooled_test(self) -> Pair | None:
        """Return all clients' own test rows, in client order, or None where no client has any."""
        return self._source.pooled_test()

    def only(self, clients: Iterable[Any]) -> Population:
        """Return the population of these clients, over the same memory.

        Raises `DataError` when a client is not enrolled or none is given.
        """
        chosen = tuple(sorted(identities(clients)))
        barred = self.barred and {c: self.barred[c] for c in chosen if c in self.barred}
        return Population(chosen, self._source.only(self._at(chosen)), barred)

    def barring(self, reasons: Mapping[Any, str]) -> Population:
        """Bar some clients from being drawn, each for a reason, over the same memory.

        They stay enrolled. From then on each round's record counts who is known, eligible and
        sampled, and the barred by reason; `barring({})` alone asks for that. Raises `DataError` for
        a client that is not enrolled, no reason, or nobody left.

        >>> two = Population.from_arrays({"a": ([[1.0]], [0]), "b": ([[2.0]], [1])})
        >>> two.barring({"b": "no consent"}).roster().eligible
        ('a',)
        """
        given = dict(zip(identities(reasons) if reasons else (), reasons.values(), strict=True))
        for client, why in given.items():
            self.index(client)
            if not isinstance(why, str) or not why.strip():
                raise DataError(
                    f"client {client!r} is barred for {why!r}, a reason in words is required; "
                    f"give one such as 'no consent'"
                )
        if len(given) == len(self):
            raise DataError(
                f"all {len(self)} clients are barred, at least one must be left to be drawn; bar "
                f"fewer"
            )
        return Population(self.clients, self._source, given)

    def roster(self) -> Roster:
        """Return the enrolled, with those of them who may be drawn."""
        return Roster(self.clients, lambda: self.sizes, barred=self.barred)

    def shared(self) -> Population:
        """Move this population's arrays into shared memory, for worker processes, and return it.

        Moved once, so that the rows are never held twice; a lazy one stays as it is.
        """
        if isinstance(self._source, Stored) and self._source.segment is None:
            self._source = share(self._source)
        return self

    def handle(self) -> Handle:
        """Return a handle for a child process to `attach` (pass it the descriptors `handle.fds`).

        The file is closed with this population: keep it for as long as a child may start.

        Raises `DataError` when the rows lie in private memory, or a loader cannot be pickled.
        """
        return described(self.clients, self._source)

    @staticmethod
    def attach(handle: Handle) -> Population:
        """Return the population behind a handle, in a process that inherited its descriptors."""
        return Population(handle.clients, attached(handle))

    def fingerprint(self) -> str:
        """Return a SHA-256, in hex, over ids, dtypes, shapes and bytes of all train and test rows.

        Also over who is barred, where that is said. Of a lazy population over ids and sizes only:
        its rows are not read.

        >>> one = Population.from_arrays({1: ([[1.0]], [0])})
        >>> one.fingerprint() == one.shared().fingerprint()
        True
        """
        digest = hashlib.sha256(repr(self.clients).encode())
        if self.barred is not None:
            digest.update(b"barred" + repr(sorted(self.barred.items())).encode())
        if isinstance(self._source, Lazy):
            digest.update(b"lazy" + self.sizes.tobytes())
            return digest.hexdigest()
        for position in range(len(self)):
            for pair in (self._source.pair(position), self._source.test_pair(position)):
                digest.update(repr(pair and [(a.dtype.str, a.shape) for a in pair]).encode())
                for array in pair or ():
                    digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def _at(self, clients: Sequence[ClientId]) -> NDArray[np.int64]:
        if len(clients) < 2:
            return np.array([self.index(client) for client in clients], np.int64)
        try:
            return np.array(itemgetter(*clients)(self._positions), np.int64)
        except KeyError as error:
            raise self._unknown(error.args[0]) from None

    def _unknown(self, client: object) -> DataError:
        shown = ", ".join(map(repr, self.clients[:5])) + (", …" if len(self) > 5 else "")
        return DataError(
            f"client {client!r} is not enrolled, one of the {len(self)} clients {shown} is "
            "required; see population.clients"
        )


def held_out(
    rows: Mapping[ClientId, Pair], share: float, seed: int
) -> tuple[dict[ClientId, Pair], dict[ClientId, Pair] | None]:
    """Return every client's rows cut into training and test rows (see `rows.holdout`)."""
    if not fraction("test", share):
        return dict(rows), None
    train: dict[ClientId, Pair] = {}
    test: dict[ClientId, Pair] = {}
    for client, (x, y) in rows.items():
        kept, held = holdout(len(x), share, client, seed)
        train[client] = x[kept], y[kept]
        if held.size:
            test[client] = x[held], y[held]
    return train, test or None


def _test_rows(
    clients: tuple[ClientId, ...], test: Mapping[Any, Any] | None, form: RowFormat
) -> Rows | None:
    if test is None or not len(test):
        return None
    given = dict(zip(identities(test), test.values(), strict=True))
    strangers = [*given.keys() - set(clients)]
    if strangers:
        raise DataError(
            f"client {strangers[0]!r} has test rows but no training rows, both are required; "
            "give it training rows or leave it out"
        )
    pairs = [checked(c, given[c], form) if c in given else None for c in clients]
    return joined(pairs, RowFormat.common(pair for pair in pairs if pair is not None))
