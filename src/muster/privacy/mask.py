# SPDX-License-Identifier: Apache-2.0
"""The safety of masked sums, and its limits, as a statement says them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Mask", "Sums", "described"]


@dataclass(frozen=True)
class Sums:
    """The sums that a run has opened, at the worst of them.

    `clients` were in a session, of whom `colluders` may work with the server and `losses` be lost;
    `threshold` of them together open what one dealt; `honest` are the fewest honest ones in
    whatever is opened; `ring` says whether each shares with some neighbours only.
    """

    clients: int
    threshold: int
    honest: int
    colluders: int
    losses: int = 0
    ring: bool = False


@dataclass(frozen=True)
class Mask:
    """The secure sums of a run: their `settings` by name, and the `worst` that was made.

    `worst` is None before the first. `chance`: that a given client is exposed by the group it sits
    in, over all rounds of the plan; 0 without groups.
    """

    settings: Mapping[str, str | int | float]
    worst: Sums | None = None
    chance: float = 0.0

    @property
    def public(self) -> bool:
        """Return whether losses, steps and rows are told beside the sum."""
        return self.settings.get("metrics") == "public"


def described(mask: Mask | None) -> str:
    """Describe in a line what the masked sums of a run are safe from, and what they are not.

    >>> described(None)
    'none'
    >>> text = described(Mask({"metrics": "hidden"}, Sums(9, 7, 4, 3, 1)))
    >>> text[:84]
    'at least 4 honest clients in each sum that is opened; 3 of 9 clients may work with t'
    """
    if mask is None:
        return "none"
    told = "public: each client's losses, steps and rows" if mask.public else "hidden"
    return "; ".join(
        part
        for part in (_worst(mask.worst), _groups(mask), f"metrics {told}", _not_covered(mask))
        if part
    )


def _worst(sums: Sums | None) -> str:
    if sums is None:
        return "no sum was made yet, so nothing is known of its clients"
    where = "part of a sum that can be told apart (a ring)" if sums.ring else "sum that is opened"
    return (
        f"at least {sums.honest} honest clients in each {where}; {sums.colluders} of "
        f"{sums.clients} clients may work with the server, and {sums.losses} be lost; "
        f"{sums.threshold} of them open what one of them dealt"
    )


def _groups(mask: Mask) -> str:
    groups = mask.settings.get("groups", 1)
    if groups == 1:
        return ""
    return (
        f"{groups} groups, drawn by the server: over the plan's rounds a given client sits with "
        f"too many who work with it with a chance of {mask.chance:.2g}"
    )


def _not_covered(mask: Mask) -> str:
    """Say what no mask does."""
    worth = "all its clients" if mask.worst is None else f"all {mask.worst.clients} clients"
    would = "would bound" if mask.settings.get("groups", 1) == 1 else "bounds"
    bound = f"a rule across groups {would} it; "
    return (
        f"not covered: a member that lies may move a sum as far as {worth} could, unnamed ({bound}"
        f"proofs of what was put in are not made); what the sums of two rounds differ by, which "
        f"only noise, the number of peers and who they are bound"
    )
