# SPDX-License-Identifier: Apache-2.0
"""The room of a secure sum: those in it with this site, checked, judged by its rules, written down.

What a server hands out about members is not believed. Certificates count by the authority's
signature and the newest revocation list that either side has seen, names and organisations by
certificates alone, and the site's policy is asked of the roster, of the members, and of those who
are left. What was seen of all this becomes the transcript of the session.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from muster.errors import IdentityError
from muster.federation.protocol.message import TrainAssignment
from muster.federation.site.peers import PeerRules
from muster.secagg import Aborted, Party, Saw, SessionReason, SessionTerms
from muster.security.pki.credentials import Credentials
from muster.security.pki.notary import Notary, Peer
from muster.security.transcript import Transcript, described

__all__ = ["Room"]


@dataclass
class Room:
    """The others of one session, by the certificates that a server handed out.

    `rules` are those of the site's policy. `session`, `roster` and `left` are what was seen so far:
    its terms, the session's id, its members, and who was there at each step; what was `noted` of it
    outlives a kill.
    """

    notary: Notary
    rules: PeerRules
    certificates: Mapping[str, str] = field(default_factory=dict)
    terms: Mapping[str, int | str] = field(default_factory=dict)
    session: str = ""
    roster: tuple[Peer, ...] = ()
    left: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def enter(self, terms: SessionTerms, came: Credentials) -> None:
        """Take in what a server hands out, for a session under these terms.

        Raises `IdentityError` where its revocation list is older than this site's, or none of the
        authority's: with that server no sum is made.
        """
        self.notary.look()
        self.notary.heard(came.revoked)
        own = {self.notary.name: self.notary.certificate}
        self.terms, self.certificates = described(terms), {**came.certificates, **own}

    @property
    def party(self) -> Party:
        """This site, as a session knows it."""
        return Party(self.notary.name, self.notary.sign, self.signed, judge=self.judge)

    def signed(self, name: str, data: bytes, signature: bytes) -> bool:
        """Return whether a member signed these bytes, by a certificate that counts now.

        Raises `Aborted` where it counts no more: it was revoked, or has ended, since the roster was
        asked for. That ends the session because of who is there, which is nobody's failure; a
        signature that does not fit is.
        """
        try:
            return self.notary.verified(name, self._certificate(name), data, signature)
        except IdentityError as error:
            raise Aborted(SessionReason.PEERS, str(error)) from error

    def judge(self, names: tuple[str, ...]) -> str:
        """Say in a sentence why this site takes no part in a sum of these, or ""."""
        try:
            return self.rules.refusal(self.notary.me, self.peers(names))
        except IdentityError as error:
            return str(error)

    def peers(self, names: tuple[str, ...]) -> tuple[Peer, ...]:
        """Return the peers of these names.

        Raises `IdentityError` for one whose certificate does not count now.
        """
        return self.notary.room({name: self._certificate(name) for name in names})

    def _certificate(self, name: str) -> str:
        if name not in self.certificates:
            raise IdentityError(f"the server handed out no certificate of {name}; ask it why")
        return self.certificates[name]

    def saw(self, seen: Saw) -> None:
        """Remember whom this site was told of."""
        self.session = seen.session.hex()
        if not self.roster:
            self.roster = self.peers(seen.names)
        known = {one.name for one in self.roster}
        self.left[seen.step.value] = tuple(sorted(known.intersection(seen.names)))

    def told(self, step: str) -> Iterator[dict[str, Any]]:
        """Yield the members at a step, as the log holds them: so many an entry that a line fits."""
        here = set(self.left[step])
        peers = [
            {"name": peer.name, "organisation": peer.organisation}
            for peer in self.roster
            if peer.name in here
        ]
        parts = [peers[begin : begin + TOLD] for begin in range(0, len(peers), TOLD)] or [[]]
        for number, part in enumerate(parts, 1):
            more = {"part": f"{number} of {len(parts)}"} if len(parts) > 1 else {}
            yield {"peers": part} | more

    def noted(self) -> str:
        """Return the notes of what was seen so far, as text for the study's record."""
        seen = {name: getattr(self, name) for name in SEEN}
        return json.dumps(seen | {"roster": [asdict(one) for one in self.roster]})

    def recall(self, noted: str) -> None:
        """Take back what an earlier life of this site has noted, up to where it stood."""
        seen = json.loads(noted)
        for name in SEEN:
            setattr(self, name, seen[name])
        self.roster = tuple(Peer(**one) for one in seen["roster"])
        self.left = {step: tuple(names) for step, names in seen["left"].items()}

    def transcript(
        self, study: str, task: TrainAssignment, reason: str, span: tuple[float, float]
    ) -> Transcript:
        """Return the transcript that this site can show; `reason` why it was given up, "" if open.

        `span` is when it began and ended, in seconds of the wall clock.
        """
        began, ended = (datetime.fromtimestamp(second, UTC) for second in span)
        return Transcript(
            study=study,
            run=task.run,
            round=task.round,
            attempt=task.attempt,
            session=self.session,
            terms=self.terms,
            revoked=self.notary.revocations.current.number,
            roster=self.roster,
            left=tuple(self.left.items()),
            outcome="given up" if reason else "opened",
            reason="".join(c if c.isprintable() else "?" for c in reason[:LONGEST]),
            began=began,
            ended=ended,
        )


LONGEST = 1000  # characters of a reason
TOLD = 50  # peers in an entry of the log: with the longest names a third of a line
SEEN = ("terms", "session", "left")  # besides the roster
