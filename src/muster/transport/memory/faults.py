# SPDX-License-Identifier: Apache-2.0
"""All that goes wrong on a line, and when: each fault is drawn by its own name from one seed.

No generator is shared, so a fault that is left out leaves all others where they are; a run is
played again, or made smaller, by the names of the faults that are to happen. A name says the link,
the kind of message, and how many of that kind went before on that link: one message more of another
kind shifts no name. (After the swarm tests of FoundationDB and TigerBeetle; see `Faults`.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from hashlib import sha256

__all__ = ["FaultRates", "Faults"]


@dataclass(frozen=True)
class FaultRates:
    """How often what goes wrong, for each message: probabilities from 0 to 1.

    Fields: `drop`, a question never arrives; `lose`, it does, and its answer is lost; `double`, it
    arrives twice, the second time later; `delay`, it takes up to `longest` seconds; `cut`, a body
    breaks off somewhere, on its way up or down.
    """

    drop: float = 0.0
    lose: float = 0.0
    double: float = 0.0
    delay: float = 0.0
    cut: float = 0.0
    longest: float = 5.0


class Faults:
    """The faults of one run. `only` names those that happen, if not all that are drawn do.

    `happened` has the names of those that did; with `calm` none happens any more.

    >>> faults = Faults(7, FaultRates(drop=0.5))
    >>> [faults.strikes("drop", "ann", "poll") for _ in range(4)]
    [False, True, True, False]
    >>> faults.happened
    ['drop:ann:poll#2', 'drop:ann:poll#3']
    >>> again = Faults(7, FaultRates(drop=0.5), only={"drop:ann:poll#3"})
    >>> [again.strikes("drop", "ann", "poll") for _ in range(4)]
    [False, False, True, False]
    """

    def __init__(self, seed: int, rates: FaultRates, only: Collection[str] | None = None) -> None:
        self.seed, self.rates, self.only = seed, rates, only
        self.happened: list[str] = []
        self.calm = False
        self._uses: Counter[str] = Counter()

    def draw(self, name: str) -> float:
        """Return a number from 0 up to 1, by the seed, a name, and how often it was drawn."""
        self._uses[name] += 1
        said = f"{self.seed} {name} {self._uses[name]}"
        return int.from_bytes(sha256(said.encode()).digest()[:7]) / (1 << 56)

    def strikes(self, kind: str, link: str, what: str) -> bool:
        """Return whether this kind of fault hits a kind of message on a link, this time."""
        name = f"{kind}:{link}:{what}"
        hit = (
            self.draw(name)
            < {
                "drop": self.rates.drop,
                "lose": self.rates.lose,
                "double": self.rates.double,
                "delay": self.rates.delay,
                "cut": self.rates.cut,
            }[kind]
        )
        named = f"{name}#{self._uses[name]}"
        if not hit or self.calm or (self.only is not None and named not in self.only):
            return False
        self.happened.append(named)
        return True

    def seconds(self, link: str, what: str) -> float:
        """Return how long a delay is."""
        return self.draw(f"seconds:{link}:{what}") * self.rates.longest
