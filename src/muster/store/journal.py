# SPDX-License-Identifier: Apache-2.0
"""The bound of a journal: which of its rows an event makes needless.

A commit takes all that was open in its round with it, another enrolment of a member the one before,
another order the last one. What is left, read in order, gives the same state as all of it: it is
its own snapshot, and no second form of the state lies beside it.
"""

from __future__ import annotations

from dataclasses import dataclass

from muster.store.records import JournalRow

__all__ = ["RECENT", "RowSpan", "forgets"]

RECENT = 64  # committed rounds whose accepted clients are kept at hand
LAST = (1 << 31) - 1  # a round behind all others
OPEN = ("opened", "decided", "said")


@dataclass(frozen=True)
class RowSpan:
    """The rows of a topic of the rounds `first` to `last`, or of `first` alone about a `key`."""

    topic: str
    key: str | None = None
    first: int = 0
    last: int = LAST

    def covers(self, row: JournalRow) -> bool:
        """Return whether a row is one of them.

        >>> RowSpan("ordered").covers(JournalRow("ordered", 0, "", {"word": "run"}))
        True
        """
        if self.key is not None:
            place = (row.topic, row.key, row.round)
            return place == (self.topic, self.key, self.first)
        return row.topic == self.topic and self.first <= row.round <= self.last


def forgets(row: JournalRow) -> tuple[RowSpan, ...]:
    """Return the rows before it that a row makes needless.

    >>> forgets(JournalRow("enrolled", 0, "ann", {}))
    (RowSpan(topic='enrolled', key='ann', first=0, last=2147483647),)
    """
    if row.topic == "enrolled":
        return (RowSpan("enrolled", row.key),)
    if row.topic == "ordered":
        return (RowSpan("ordered"),)
    if row.topic == "committed":
        over = tuple(RowSpan(topic, last=row.round) for topic in OPEN)
        return (*over, RowSpan("committed", last=row.round - RECENT))
    if row.topic == "went back":
        void = tuple(RowSpan(topic) for topic in (*OPEN, "went back"))
        return (*void, RowSpan("committed", first=row.round + 1))
    return ()
