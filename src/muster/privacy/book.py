# SPDX-License-Identifier: Apache-2.0
"""A ledger in a file of its own, which outlives runs and is shared by those over one population.

A run that was charged in it brings what stood there then: a file that holds less is gone, or was
put back, and nothing is charged in it. Under the file's lock a round belongs to the secret that it
was begun with, and to the model that came of it: another secret is another server's and is refused,
another model is another release and is charged.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from muster.errors import NoRoom, RunError, short
from muster.locks import flock
from muster.privacy.ledger import Budget, PrivacyLedger
from muster.privacy.release import Charge

__all__ = ["ChargeRequest", "LedgerFile", "try_charge"]

PLACE = 16  # digits of a model's digest that tell two releases of one round apart


@dataclass(frozen=True)
class ChargeRequest:
    """A round that is to be released: its charges, and the budget that it must fit, if any.

    `secret` is the SHA-256 of what its noise is drawn from, "" for no secret; `rounds` how many
    its run is to have, None where nobody says.
    """

    round: int
    charges: tuple[Charge, ...]
    budget: Budget | None = None
    secret: str = ""
    rounds: int | None = None

    @property
    def terms(self) -> tuple[int | None, float | None]:
        """The number of rounds, and the ε of the budget, that an entry of the round notes."""
        return self.rounds, None if self.budget is None else self.budget.epsilon

    def again(self, model: str) -> ChargeRequest:
        """Return the request for another release of the round, which this model came of."""
        return replace(self, charges=tuple(c.again(model[:PLACE]) for c in self.charges))

    @property
    def places(self) -> frozenset[tuple[str, int]]:
        """Each (run, round) that a ledger has it under."""
        return frozenset((charge.run, self.round) for charge in self.charges)


def try_charge(ledger: PrivacyLedger, wish: ChargeRequest) -> tuple[PrivacyLedger, str | None]:
    """Return the ledger with the round in it, or unchanged with the reason why it is refused.

    A round that is in it already is charged no second time.

    >>> from muster.privacy.release import Release
    >>> charge = Charge(Release("gaussian", 4.0, 1.0), run="a")
    >>> wish = ChargeRequest(1, (charge,), Budget(2.0, 1e-6))
    >>> ledger, why = try_charge(PrivacyLedger(1e-6), wish)
    >>> try_charge(ledger, wish)[0] == ledger, why
    (True, None)
    """
    after = ledger
    for charge in wish.charges:
        if after.holds(charge.run, wish.round):
            continue
        why = wish.budget.refusal(after, charge) if wish.budget else None
        if why:
            return ledger, why
        after = after.enter(wish.round, charge, secret=wish.secret, terms=wish.terms)
    return after, None


class LedgerFile:
    """The file: read and replaced as a whole, under a lock that other processes respect.

    Raises `RunError` when it cannot be read or written, `MusterError` for what is no ledger.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def read(self, delta: float, stood: PrivacyLedger | None = None) -> PrivacyLedger:
        """Return the ledger that stands in it; an empty one at this δ where there is no file.

        `stood` is what is known to have stood there: without all of that it raises `RunError`.
        """
        try:
            text = self.path.read_text("utf-8") if self.path.exists() else None
        except OSError as error:
            raise self._failed(error) from error
        found = PrivacyLedger(delta) if text is None else PrivacyLedger.from_json(text)
        self._refuse_gone(found, stood)
        return found

    def grant(
        self, wish: ChargeRequest, known: PrivacyLedger, stood: PrivacyLedger | None = None
    ) -> tuple[PrivacyLedger, str | None]:
        """Charge as `try_charge` does, durably; what `known` holds beside is entered, too.

        The least number of replies that `known` has of a round is put where it was not recorded.
        Raises `RunError` where the round was begun with another secret: by another server.
        """
        with self._locked():
            ledger = self.read(known.delta, stood).joined(known)
            self._refuse_begun(ledger, wish)
            ledger, why = try_charge(_counted(ledger, known), wish)
            self._replace(ledger.to_json())
        return ledger, why

    def give_out(
        self, wish: ChargeRequest, model: str, known: PrivacyLedger, stood: PrivacyLedger
    ) -> tuple[PrivacyLedger, bool]:
        """Write down, before it is given out, which model came of a round; say if it is another.

        `model` is its SHA-256. Where another one came of this round before, nobody knows whether
        it was given out: this is another release, and is charged beside it. Raises `RunError`
        where the other was given out for certain, or the budget has no room for another.
        """
        with self._locked():
            before = self.read(known.delta, stood)
            ledger = before.joined(known)
            self._refuse_begun(ledger, wish)
            ledger, why = try_charge(ledger, wish)
            found = [entry for entry in ledger.entries if entry.place in wish.places]
            other = any(entry.model not in ("", model) for entry in found)
            if other and any(entry.accepted is not None for entry in found):
                why = "that one was given out; stop the server of one of the two"
            if other and not why:
                wish = wish.again(model)
                ledger, why = try_charge(ledger, wish)
            if why:
                raise RunError(
                    f"another model came of round {wish.round} before, by a server with a copy of "
                    f"this folder or before it was put back, and this one is not given out: {why}"
                )
            ledger = ledger.given_out(wish.places, model)
            if ledger != before:
                self._replace(ledger.to_json())
        return ledger, other

    def witness(self, known: PrivacyLedger, stood: PrivacyLedger | None = None) -> PrivacyLedger:
        """Write down which rounds were released with how many replies, as far as `known` has it.

        A round with a count has been given out: a folder that does not know so is an older copy.
        """
        with self._locked():
            before = self.read(known.delta, stood)
            after = _counted(before.joined(known), known)
            if after != before:
                self._replace(after.to_json())
        return after

    def _refuse_gone(self, found: PrivacyLedger, stood: PrivacyLedger | None) -> None:
        held = {entry.place for entry in found.entries}
        lost = 0 if stood is None else sum(entry.place not in held for entry in stood.entries)
        if stood is not None and lost:
            what = "is gone" if not found.entries else "was put back to an older copy"
            raise RunError(
                f"the privacy ledger {self.path} {what}: of {len(stood.entries)} releases that "
                f"this run has seen in it, {lost} are not there, and nobody knows what other runs "
                f"have charged; mount its disk, or restore its newest copy, then resume"
            )

    def _refuse_begun(self, ledger: PrivacyLedger, wish: ChargeRequest) -> None:
        for charge in wish.charges:
            entry = ledger.entry(charge.run, wish.round)
            if entry is not None and entry.secret != wish.secret:
                raise RunError(
                    f"round {wish.round} of run {charge.run} was begun with another secret, by a "
                    f"server with a copy of this folder; go on with one of the two: in this one, "
                    f"say muster rollback RUN {wish.round - 1} --lost LAST before"
                )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._failed(error) from error
        try:
            flock(lock)
            yield
        finally:
            os.close(lock)

    def _replace(self, text: str) -> None:
        part = f"{self.path}.part"
        try:
            file = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(file, "w") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(part, self.path)
            folder = os.open(self.path.parent, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> RunError:
        kind = NoRoom if short(error) else RunError
        return kind(
            f"the privacy ledger {self.path} cannot be used ({error.strerror or error}); nothing "
            f"is released without it: repair the disk or name another file, then resume"
        )


def _counted(ledger: PrivacyLedger, known: PrivacyLedger) -> PrivacyLedger:
    counts: Iterable[tuple[str, int, int | None]] = (
        (entry.charge.run, entry.round, entry.accepted) for entry in known.entries
    )
    return ledger.witnessed({(run, round): n for run, round, n in counts if n is not None})
