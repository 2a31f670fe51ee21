# SPDX-License-Identifier: Apache-2.0
"""With whom a site lets its updates be summed: its own rules, over certificates it has checked.

    least_peers = 4                        at least four others beside this site
    peers = ["lyon=3fa9…", "paris-*"]      only these, whatever the server invites
    organisations = ["Inserm", "CNRS"]     somebody else of each of them is among them

A secure sum hides a client among those who are in it, so who they are is all that the hiding is
worth: a server that is also the authority can enrol names of its own, and certify keys of its own
under the names of others. A name with a key, the fingerprint that `muster pki` shows, is held by
whoever holds that key and by nobody else. A site asks twice: of the roster, before it masks
anything, and of whoever is left, before it reveals what opens the sum. Two clients are never a sum:
each would know the other's part.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from muster.errors import IdentityError, PlanError
from muster.security.identity import NAME
from muster.security.organisation import LONGEST_ORGANISATION, check_organisation
from muster.security.pki.notary import Peer

__all__ = ["FEWEST", "PeerRules"]

FEWEST = 2  # others, whatever the rules say
MOST = 100_000  # peers that can be asked for
PATTERNS, ORGANISATIONS = 1000, 100  # of a rule
PATTERN = r"[a-z0-9*]([a-z0-9*-]{0,61}[a-z0-9*])?"
KEYED = rf"{NAME}=[0-9a-fA-F]{{2}}(:?[0-9a-fA-F]{{2}}){{31}}"
PEER = rf"{PATTERN}|{KEYED}"
SHOWN = 5  # names in a sentence


@dataclass(frozen=True)
class PeerRules:
    """A site's rules about its peers; a field that is None rules nothing.

    Fields: `least_peers`, how many others at least (2 to 100,000); `peers`, up to 1000 names, each
    with any number of `*` for any characters, or one name, `=` and the SHA-256 of its public key in
    64 hexadecimal digits (as `muster pki show` has it; a name may stand with several keys, one of
    which it must have); `organisations`, up to 100 of them. Lists become tuples, organisations are
    brought to form C, keys to small digits without colons. Raises `PlanError`.

    >>> rules = PeerRules(least_peers=2, organisations=("Inserm",))
    >>> ann, bob = (Peer(name, "Inserm", name, name) for name in ("ann", "bob"))
    >>> rules.refusal(ann, [ann, bob])
    '1 (bob) is in the sum beside this site, and a sum must have at least 2'
    """

    least_peers: int | None = None
    peers: tuple[str, ...] | None = None
    organisations: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for name, (fits, wanted) in RULES.items():
            value = getattr(self, name)
            if isinstance(value, list):
                value = tuple(value)
                object.__setattr__(self, name, value)
            if value is not None and not fits(value):
                raise PlanError(f"the site's policy has {name} = {_short(value)}; give {wanted}")
        if self.organisations is not None:
            object.__setattr__(self, "organisations", _spelled(self.organisations))
        if self.peers is not None:
            object.__setattr__(self, "peers", tuple(map(_plain, self.peers)))
        self._possible()

    def refusal(self, me: Peer, room: Iterable[Peer]) -> str:
        """Say in one sentence why this site takes no part in a sum of these, or "".

        `me` is this site by its own certificate; `room` everybody in the sum, by certificates that
        were checked, with or without this site.
        """
        others = sorted((one for one in room if one.name != me.name), key=lambda one: one.name)
        why = _twins(me, others) or self._strangers(others)
        return why or self._few(others) or self._absent(others)

    @property
    def least(self) -> int:
        """The number of others that must be in a sum."""
        return max(FEWEST, self.least_peers or 0)

    def _few(self, others: Sequence[Peer]) -> str:
        if len(others) >= self.least:
            return ""
        who = f" ({_listed([one.name for one in others])})" if others else ""
        why = f"least_peers = {self.least_peers} in the site's policy asks for"
        if self.least == FEWEST:
            why = "a sum must have at least"
        verb = "is" if len(others) == 1 else "are"
        return f"{len(others)}{who} {verb} in the sum beside this site, and {why} {self.least}"

    def _strangers(self, others: Sequence[Peer]) -> str:
        if self.peers is None:
            return ""
        keys, patterns = self._keys, [p for p in self.peers if "=" not in p]
        for one in others:
            held = keys.get(one.name)
            if held is not None and one.key not in held:
                return (
                    f"{one.name} is in the sum with the key {one.key}, and the site's policy has "
                    f"{one.name} with the key {_listed(held, ' or ')}: ask {one.name} itself, by "
                    f"telephone, which one it holds (muster pki show)"
                )
        odd = [
            one
            for one in others
            if one.name not in keys and not any(fnmatchcase(one.name, p) for p in patterns)
        ]
        if not odd:
            return ""
        who = _listed([f"{one.name} ({one.organisation})" for one in odd])
        verb = "is" if len(odd) == 1 else "are"
        return f"{who} {verb} in the sum and not among the peers of the site's policy"

    def _absent(self, others: Sequence[Peer]) -> str:
        here = {one.organisation for one in others}
        absent = [name for name in self.organisations or () if name not in here]
        if not absent:
            return ""
        return (
            f"nobody else in the sum speaks for {_listed(absent)}, and the site's policy asks for "
            f"that; those in it speak for {_listed(sorted(here)) if here else 'nobody'}"
        )

    @property
    def _keys(self) -> dict[str, list[str]]:
        """The keys of the names that stand with one."""
        found: dict[str, list[str]] = {}
        for name, _, key in (one.partition("=") for one in self.peers or ()):
            if key:
                found.setdefault(name, []).append(key)
        return found

    def _possible(self) -> None:
        """Refuse rules that no sum can meet, or that say two things."""
        keys, peers = self._keys, self.peers or ()
        both = sorted(keys.keys() & set(peers))
        if both:
            raise PlanError(
                f"the site's policy has {both[0]} among its peers with a key and without one, "
                f"which allows any key: take {both[0]!r} out, and keep the one with its key"
            )
        holders: dict[str, str] = {}
        for name, held in keys.items():
            for key in held:
                if holders.setdefault(key, name) != name:
                    raise PlanError(
                        f"the site's policy has {holders[key]} and {name} with one key among its "
                        f"peers: each has a key of its own; ask both which one it is"
                    )
        if peers and not any("*" in pattern for pattern in peers):
            count = len({one.partition("=")[0] for one in peers})
            if count < self.least:
                raise PlanError(
                    f"the site's policy has peers = {_short(self.peers)} and asks for {self.least} "
                    f"others: name more peers, or ask for fewer"
                )


def _twins(me: Peer, others: Sequence[Peer]) -> str:
    """Say who is in the sum twice, under two names."""
    keys: dict[str, Peer] = {}
    for one in (me, *others):
        for mark in (f"key {one.key}", f"serial {one.serial}"):
            twin = keys.setdefault(mark, one)
            if twin is not one:
                return (
                    f"{twin.name} and {one.name} are in the sum with one {mark.split()[0]}, so "
                    f"they are one holder; each must have a certificate of its own"
                )
    return ""


def _count(value: Any) -> bool:
    return type(value) is int and FEWEST <= value <= MOST


def _patterns(value: Any) -> bool:
    several = isinstance(value, tuple) and 0 < len(value) <= PATTERNS
    return several and all(isinstance(one, str) and re.fullmatch(PEER, one) for one in value)


def _plain(peer: str) -> str:
    """Return a peer of the policy as it is compared: its key without colons, in small digits."""
    name, equals, key = peer.partition("=")
    return name + equals + key.replace(":", "").lower()


def _names(value: Any) -> bool:
    several = isinstance(value, tuple) and 0 < len(value) <= ORGANISATIONS
    return several and all(isinstance(one, str) for one in value)


RULES = {
    "least_peers": (_count, f"a whole number from {FEWEST} to {MOST}: two clients are never a sum"),
    "peers": (
        _patterns,
        f'a list of 1 to {PATTERNS} names such as "lyon" or "paris-*", or "lyon=" and the '
        f"fingerprint of its key, all 64 digits that muster pki show prints",
    ),
    "organisations": (
        _names,
        f"a list of 1 to {ORGANISATIONS} names of up to {LONGEST_ORGANISATION} characters",
    ),
}


def _spelled(names: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return tuple(check_organisation(name) for name in names)
    except IdentityError as error:
        raise PlanError(f"in the organisations of the site's policy, {error}") from None


def _listed(names: Sequence[str], between: str = ", ") -> str:
    shown = between.join(names[:SHOWN])
    more = len(names) - SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def _short(value: Any) -> str:
    said = ascii(list(value) if isinstance(value, tuple) else value)
    return said if len(said) <= 100 else f"{said[:100]}…"
