# SPDX-License-Identifier: Apache-2.0
"""A ledger in a file of its own, which outlives runs and is shared by those over one population."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from muster.errors import NoRoom, RunError, short
from muster.locks import flock
from muster.privacy.ledger import Budget, PrivacyLedger
from muster.privacy.release import Charge

__all__ = ["ChargeRequest", "LedgerFile", "try_charge", "united"]


@dataclass(frozen=True)
class ChargeRequest:
    """A round that is to be released: its charges, and the budget that it must fit, if any."""

    round: int
    charges: tuple[Charge, ...]
    budget: Budget | None = None


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
        after = after.enter(wish.round, charge)
    return after, None


def united(one: PrivacyLedger, other: PrivacyLedger) -> PrivacyLedger:
    """Add to the first ledger what only the second knows; nothing that was released is lost."""
    for entry in other.entries:
        if not one.holds(entry.charge.run, entry.round):
            one = one.enter(entry.round, entry.charge, entry.accepted)
    return one


class LedgerFile:
    """The file: read and replaced as a whole, under a lock that other processes respect.

    Raises `RunError` when it cannot be read or written, `MusterError` for what is no ledger.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def read(self, delta: float) -> PrivacyLedger:
        """Return the ledger that stands in it; an empty one at this δ where there is no file."""
        try:
            text = self.path.read_text("utf-8") if self.path.exists() else None
        except OSError as error:
            raise self._failed(error) from error
        return PrivacyLedger(delta) if text is None else PrivacyLedger.from_json(text)

    def grant(self, wish: ChargeRequest, known: PrivacyLedger) -> tuple[PrivacyLedger, str | None]:
        """Charge as `try_charge` does, durably; what `known` holds beside is entered, too.

        The least number of replies that `known` has of a round is put where it was not recorded.
        """
        with self._locked():
            ledger = united(self.read(known.delta), known)
            ledger, why = try_charge(_counted(ledger, known), wish)
            self._replace(ledger.to_json())
        return ledger, why

    def witness(self, known: PrivacyLedger) -> None:
        """Write down which rounds were released with how many replies, as far as `known` has it.

        A round with a count has been given out: a folder that does not know so is an older copy.
        """
        with self._locked():
            before = united(self.read(known.delta), known)
            after = _counted(before, known)
            if after != before:
                self._replace(after.to_json())

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
