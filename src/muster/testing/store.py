# SPDX-License-Identifier: Apache-2.0
"""`check_store`: a round is committed whole and once, and only accepted memories count."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from muster.testing.claim import claim, closed, same
from muster.types import Store

__all__ = ["check_store"]

CLIENTS = ("a", "b", 3)


class UnreadableState(Mapping[str, Any]):
    """Arrays of a state that cannot be read to the end."""

    def __getitem__(self, name: str) -> Any:
        return np.zeros(2)

    def __len__(self) -> int:
        return 2

    def __iter__(self) -> Iterator[str]:
        yield "x"
        raise OSError("the state cannot be read")


def check_store(make: Callable[[], Store]) -> None:
    """Raise `AssertionError` where a store breaks a promise of `Store`.

    `make()` opens the same place at every call, empty at first; a store that has `close` is
    closed before it is opened again.

    >>> from muster.store import MemoryStore
    >>> kept = MemoryStore()
    >>> check_store(lambda: kept)
    """
    place = OpenStore(make)
    try:
        _empty(place.store)
        _state_and_history(place)
        _memories(place)
        _failed_commit(place)
        _twice(place)
        _versions(place)
    finally:
        place.close()


class OpenStore:
    """The store that is open now, and how to open it again."""

    def __init__(self, make: Callable[[], Store]) -> None:
        self._make, self.store = make, make()

    def close(self) -> None:
        """Close the store, where it can be closed."""
        closed(self.store)

    def again(self) -> Store:
        """Close it and open it again."""
        self.close()
        self.store = self._make()
        return self.store


def _empty(store: Store) -> None:
    claim(store.latest() is None, "a new store has a state before the first commit")
    claim(store.history() == [], "a new store has a history before the first commit")
    claim(dict(store.memory(CLIENTS)) == {}, "a new store remembers clients")


def _arrays(round: int) -> dict[str, Any]:
    return {
        "algorithm.x": np.linspace(0, round, 7),
        "stages.0": np.array([round], np.float32),
        "count": np.array(round, np.int64),
        "buffers": np.zeros(0, np.float32),
        "large": np.arange(300_000, dtype=np.float32) * round,
    }


def _record(round: int) -> dict[str, Any]:
    return {"round": round, "accepted": ["a", 3], "metrics": {"loss": 1 / 3}, "none": None}


def _holds(store: Store, round: int, when: str) -> None:
    """Check that the store stands exactly after this round."""
    latest = store.latest()
    claim(latest is not None and latest[0] == round, f"{when}: the last round is not {round}")
    assert latest is not None
    claim(same(dict(latest[1]), _arrays(round)), f"{when}: the state of round {round} is another")
    wanted = [_record(r) for r in range(round + 1)]
    claim(store.history() == wanted, f"{when}: the history is not rounds 0 to {round}, each once")


def _state_and_history(place: OpenStore) -> None:
    store = place.store
    for round in (0, 1, 2):
        store.commit(round, _arrays(round), _record(round), ())
        _holds(store, round, f"after the commit of round {round}")
    store = place.again()
    _holds(store, 2, "after opening again")


def _remembered(store: Store, wanted: dict[Any, float], when: str) -> None:
    found = {c: float(m["c"][0]) for c, m in store.memory(CLIENTS).items()}
    claim(found == wanted, f"{when}: clients remember {found}, expected {wanted}")


def _memories(place: OpenStore) -> None:
    store = place.store
    for client in CLIENTS:
        store.remember(3, client, {"c": np.full(2, 3.0)})
    _remembered(store, {}, "before the commit")
    store.commit(3, _arrays(3), _record(3), ("a", 3))
    _remembered(store, {"a": 3.0, 3: 3.0}, "after a commit that accepted 'a' and 3")
    store.remember(4, "a", {"c": np.full(2, 4.0)})
    store = place.again()
    _remembered(store, {"a": 3.0, 3: 3.0}, "opened again in the middle of a round")
    for client in ("a", "b"):
        store.remember(4, client, {"c": np.full(2, 4.5)})
    store.commit(4, _arrays(4), _record(4), ())
    _remembered(store, {"a": 3.0, 3: 3.0}, "after an abandoned round")
    store.remember(5, "a", {"c": np.full(2, 5.0)})
    store.commit(5, _arrays(5), _record(5), ("a", "b"))
    store = place.again()
    _remembered(store, {"a": 5.0, 3: 3.0}, "after the next accepted round, opened again")
    _holds(store, 5, "after rounds with memories")


def _failed_commit(place: OpenStore) -> None:
    store = place.store
    store.remember(6, "a", {"c": np.full(2, 6.0)})
    try:
        store.commit(6, UnreadableState(), _record(6), ("a",))
    except Exception as error:
        when = f"after a commit that failed ({error})"
    else:
        raise AssertionError("a commit whose state cannot be read did not raise")
    store = place.again()
    _remembered(store, {"a": 5.0, 3: 3.0}, when)
    _holds(store, 5, when)


def _twice(place: OpenStore) -> None:
    """Check that a round that is committed already is refused."""
    store = place.store
    try:
        store.commit(4, _arrays(4), _record(4), ())
    except Exception as error:
        store = place.again()
        _holds(store, 5, f"after a second commit of round 4 was refused ({error})")
        return
    raise AssertionError("a second commit of round 4 was not refused")


def _versions(place: OpenStore) -> None:
    """Check that what stays is there with the memories of its time, and nothing else is."""
    store = place.store
    kept: dict[int, dict[Any, float]] = {5: {"a": 5.0, 3: 3.0}}
    _keeps(store, kept, "of a store that was told to keep none")
    for round, client, stays in ((6, "a", (5,)), (7, "b", (5, 6)), (8, "a", (6,)), (9, 3, ())):
        store.remember(round, client, {"c": np.full(2, float(round))})
        store.commit(round, _arrays(round), _record(round), (client,), stays)
        now = {**kept[round - 1], client: float(round)}
        kept = {version: kept[version] for version in kept if version in stays} | {round: now}
        when = f"after the commit of round {round}, beside which {list(stays)} stay"
        _keeps(store, kept, when)
        store = place.again()
        _keeps(store, kept, f"opened again {when}")
        _holds(store, round, when)


def _keeps(store: Store, kept: dict[int, dict[Any, float]], when: str) -> None:
    found = store.versions()
    claim(list(found) == sorted(kept), f"{when}: the versions are {found}, not {sorted(kept)}")
    for version, wanted in kept.items():
        arrays = store.state(version)
        claim(
            arrays is not None and same(dict(arrays), _arrays(version)),
            f"{when}: the state of round {version} is another",
        )
        then = {c: float(m["c"][0]) for c, m in store.memory(CLIENTS, version).items()}
        claim(then == wanted, f"{when}: in round {version} clients remembered {then}, not {wanted}")
    _remembered(store, kept[max(kept)], when)
    claim(store.state(1) is None, f"{when}: it gives a state of round 1, which does not stay")
