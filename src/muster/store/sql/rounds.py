# SPDX-License-Identifier: Apache-2.0
"""The part of a ledger that any Store has: facts, committed rounds, states, client memories."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from safetensors.numpy import load, save

from muster.errors import RunError
from muster.store.blob import plain
from muster.store.records import Transition
from muster.store.sql import states, steps
from muster.store.sql.states import States
from muster.store.sql.transact import Transactions, Turn
from muster.store.sqlite import Snapshot, not_kept
from muster.types import ClientId

__all__ = ["RoundTables"]


class RoundTables(ABC):
    """The half of a ledger that is a Store; what a commit leaves behind, the other half tidies."""

    _transactions: Transactions
    _states: States
    _at: Callable[[str], None]
    _clock: Callable[[], float]
    _round: int  # the last that this process saw committed
    _epoch: int | None  # of the lead that this process took last
    _staged: dict[tuple[int, ClientId], bytes]

    def meta(self, key: str) -> Any:
        """Return a fact about the run (plan, engine, versions), or None."""
        return self.facts().get(key)

    def facts(self) -> dict[str, Any]:
        """Return all facts about the run."""
        return self._transactions.read(states.facts)

    def note(self, **facts: Any) -> None:
        """Write facts about the run, all of them or none, replacing those of the same name.

        Raises `RunError` where another leads by now: it would lose charges, and the secrets of
        noise.
        """
        rows = [(key, json.dumps(value)) for key, value in facts.items()]

        def body(turn: Turn) -> None:
            turn.fence(self._epoch)
            states.note(turn, rows)

        if rows:
            self._transactions.write("write its facts", body)

    def snapshot(self) -> Snapshot:
        """Return facts, records and state of one instant, also while another process commits."""
        while True:
            facts, history, row = self._transactions.read(
                lambda c: (states.facts(c), states.history(c), states.row(c))
            )
            try:
                return Snapshot(facts, history, self._states.loaded(row))
            except RunError:
                if self._transactions.read(states.row) == row:
                    raise  # else: a later round was committed, and this one's blob is gone

    def latest(self) -> tuple[int, dict[str, Any]] | None:
        """Return the last committed round and its state's arrays."""
        while True:
            row = self._transactions.read(states.row)
            try:
                return self._states.loaded(row)
            except RunError:
                if self._transactions.read(states.row) == row:
                    raise

    def history(self) -> list[dict[str, Any]]:
        """Return the records of all committed rounds in order."""
        return self._transactions.read(states.history)

    def round_record(self, round: int) -> dict[str, Any] | None:
        """Return the record of one committed round; None for a round that is not committed."""
        return self._transactions.read(lambda c: states.recorded(c, round))

    def last_line(self) -> str:
        """Return the record of the last committed round as JSON, without the line's end."""
        line = self._transactions.read(states.last_line)
        if line is None:
            raise RunError(f"{self._transactions.name} has no committed round yet; resume it")
        return line

    def last_record(self) -> dict[str, Any]:
        """Return the record of the last committed round."""
        return dict(json.loads(self.last_line()))

    def versions(self) -> list[int]:
        """Return the committed versions whose states are kept, in order; the last is always one."""
        return self._transactions.read(states.kept)

    def state(self, round: int) -> dict[str, Any] | None:
        """Return the arrays of a version that is kept, or None."""
        while True:
            row = self._transactions.read(lambda c: states.version(c, round))
            try:
                found = self._states.loaded(row)
            except RunError:
                if self._transactions.read(lambda c: states.version(c, round)) == row:
                    raise  # else: it went just now
            else:
                return None if found is None else found[1]

    def superseded(self) -> list[tuple[int, dict[str, Any]]]:
        """Return the records that a rollback went back before, each with the rollback's number.

        In the order in which they were committed; the first rollback is number 1.
        """
        return self._transactions.read(states.set_aside)

    def memory(
        self, clients: Iterable[ClientId], version: int | None = None
    ) -> dict[ClientId, dict[str, Any]]:
        """Return the committed memory of these clients; those without one are left out.

        With a `version` that is kept, as it was when that was committed.
        """
        return self._transactions.read(lambda c: states.remembered(c, clients, version))

    def remember(self, round: int, client: ClientId, arrays: Mapping[str, Any]) -> None:
        """Stage a client's new memory, in this process; too late for a round that is committed."""
        if round > self._round:
            self._staged[round, client] = save(plain(arrays))

    def staged(self, round: int, clients: Iterable[ClientId]) -> dict[ClientId, dict[str, Any]]:
        """Return the memory of these clients that waits for this round's commit."""
        waits = self._staged
        return {c: dict(load(waits[round, c])) for c in clients if (round, c) in waits}

    def rollback(self) -> None:
        """Forget what was staged since the last commit."""
        self._staged.clear()

    def commit(
        self,
        round: int,
        arrays: Mapping[str, Any],
        record: Mapping[str, Any],
        accepted: Sequence[ClientId],
        stays: Collection[int] = (),
    ) -> None:
        """Make a round durable: all of it, in one transaction, or nothing.

        Of the versions that are kept, those in `stays` stay beside it; the others go.
        """
        self._at("commit: begin")
        old = self._transactions.write("be written", lambda turn: self._may(turn, round))
        line = json.dumps(record)
        drawn = self._states.written(round, arrays, self._epoch)
        kept = {c: self._staged[round, c] for c in accepted if (round, c) in self._staged}
        after = "abandoned" if record.get("abandoned") else "committed"
        step = Transition(self._clock(), round, "committing", after, f"{len(accepted)} accepted")

        def body(turn: Turn) -> None:
            self._may(turn, round)
            states.advance(turn, drawn, line, kept, stays, accepted)
            steps.recorded(turn, [step])
            self._at("commit: before the transaction ends")

        try:
            self._at("commit: between blob and row")
            self._transactions.write(f"commit round {round}", body)
        except BaseException:
            self._undo_state(drawn.file)
            raise
        self._round = round
        self._staged.clear()
        self._at("commit: after the transaction")
        self._tidy(old - self._transactions.read(states.files))
        self._at("commit: end")

    def go_back(self, round: int, number: int, **facts: Any) -> None:
        """Make a version that is kept the last, with these facts: all of it, or nothing.

        What was committed after it goes: versions, memories, what is open. The records stay, as
        `superseded` by the rollback of this `number`. Raises `RunError` for one that is not kept.
        """
        if self.state(round) is None:
            raise RunError(not_kept(self._transactions.name, round, self.versions()))
        rows = [(key, json.dumps(value)) for key, value in facts.items()]
        step = Transition(self._clock(), round, "waiting", "rolled back", f"to round {round}")

        def body(turn: Turn) -> set[str]:
            turn.fence(self._epoch)
            before = states.files(turn.connection)
            states.go_back(turn, round, number, facts.get("raised") or ())
            if rows:
                states.note(turn, rows)
            steps.recorded(turn, [step])
            self._at("going back: before the transaction ends")
            return before

        old = self._transactions.write(f"go back to round {round}", body)
        self._round = round
        self._staged.clear()
        self._at("going back: after the transaction")
        self._tidy(old - self._transactions.read(states.files), everything=True)

    def amend(self, arrays: Mapping[str, Any], **facts: Any) -> None:
        """Put another state in the place of the last round's, with these facts: both, or nothing.

        What was there is written over, as far as that is in a program's power.
        """
        drawn = self._states.written(self._round, arrays, self._epoch)
        rows = [(key, json.dumps(value)) for key, value in facts.items()]

        def body(turn: Turn) -> str | None:
            turn.fence(self._epoch)
            states.note(turn, rows)
            return states.amend(turn, drawn)

        try:
            old = self._transactions.write("amend its state", body)
        except BaseException:
            self._undo_state(drawn.file)
            raise
        if old is not None and old != drawn.file:
            self._states.blobs.erase(old)

    @abstractmethod
    def _tidy(self, gone: Collection[str], *, everything: bool = False) -> None:
        """Remove what a commit has made needless: these blobs of states, and updates."""

    def _may(self, turn: Turn, round: int) -> set[str]:
        """Refuse a round that may not be committed now; the blobs of the states that are kept."""
        turn.fence(self._epoch)
        row = states.row(turn.connection)
        last = -1 if row is None else row[0]
        if round <= last:
            raise RunError(
                f"round {round} was given to {turn.name}, which has committed round {last}; go "
                f"on with round {last + 1}"
            )
        return states.files(turn.connection)

    def _undo_state(self, file: str | None) -> None:
        """Drop the blob of a commit that failed, once it is sure that nothing points to it."""
        if file is None:
            return

        def body(turn: Turn) -> None:
            if file not in states.files(turn.connection):
                self._states.blobs.drop(file)

        with suppress(RunError):  # it would be swept away later
            self._transactions.write("be tidied", body)
