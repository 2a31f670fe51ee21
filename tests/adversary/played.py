# SPDX-License-Identifier: Apache-2.0
"""One secure sum of real sites, kept as it was before each word that the server told one of them.

A server that lies takes any of those places up again, as often as it likes: the site is started
from what it had stored then, and is told something else (`Life`). So each lie has a site of its
own, and nobody plays the sum again.
"""

import asyncio
import math
import shutil
from dataclasses import replace
from hashlib import sha256

import httpx
from tests.adversary.rogue import answer, refused
from tests.adversary.sums import SECURE, Session, Sums
from tests.federation.coordinator.masked import certificate, plan_of
from tests.federation.site.hub import said

from muster.errors import MusterError
from muster.federation.protocol.message import Ack, RunEnded
from muster.federation.site.trainer import Habits
from muster.secagg.agreement import Binding
from muster.secagg.messages import Compared, Complaint, MaskedVector, Members, Quit, Revealed, read
from muster.secagg.pieces import PIECE
from muster.security import pki
from muster.security.pki.credentials import Credentials
from muster.security.refusal import RefusalReason
from muster.security.transcript.store import read_transcript

NAMES = ("ann", "bob", "cid", "dot")
SITE, COLLUDER = "ann", "dot"
PLAN = plan_of(layers=(4, 3), rounds=5)
ASKED = 100  # requests of one life, after which it is taken to hang


class Played(Sums):
    """A sum of four sites, opened; a colluder complains about ann's share, so she is asked more.

    `told` is what ann was told, `before` her folder before each, `spoken` what she had said then.
    """

    def __init__(self, home, plan=PLAN):
        super().__init__(home, plan=plan, names=NAMES)
        self.late, self.told, self.spoken, self.before = (), [], [], []
        self.session = Session(NAMES, most=math.inf)
        self.lead(self.session)
        self.total, self.said = self.session.found.total, tuple(self.session.heard[SITE])
        self.handed = Credentials(
            {name: certificate(home, name) for name in NAMES}, self.notary.listed()
        )

    def kept(self, kind):
        """Return the words of ann of one kind."""
        return next(message for message in self.said if isinstance(message, kind))

    def _told(self, name, request):
        found = super()._told(name, request)
        fresh = "muster-told" in found.headers and found.content not in self.told
        if name == SITE and fresh:
            self.before.append(self.home / "before" / str(len(self.told)))
            shutil.copytree(self.home / SITE, self.before[-1])
            self.told.append(found.content)
            self.spoken.append(tuple(self.session.heard[SITE]))
        return found

    def _say(self, name, request):
        message = read(request.content)
        if name == COLLUDER and isinstance(message, Compared):
            content = self._complaint(message).to_bytes()
            request = httpx.Request("POST", request.url, content=content)
        return super()._say(name, request)

    def _complaint(self, message):
        """A false complaint of dot about ann, under a good signature."""
        dealer, holder = NAMES.index(SITE), NAMES.index(COLLUDER)
        piece = read(self.session.told[COLLUDER][1]).pieces[PIECE * dealer : PIECE * (dealer + 1)]
        binding = Binding(message.session, read(self.told[0]).context)
        statement = binding.complaint(dealer, holder, sha256(piece).digest())
        signature = pki.Notary(self.home / COLLUDER).sign(statement)
        return Compared(message.session, (Complaint(dealer, holder, signature),))


class Life(Sums):
    """One life of ann, from what she had stored before the message of a place.

    She is told `script`, octets or whole answers, one after the other; then her session is over.
    `handed` are answers about who the members are, before the right one; `acks(request)` answers
    what she says; `sleep` is how she waits. `heard` is what she says, `ended` how it ended for
    her: None, or an error of muster's. `asks` are the answers to her polls, by default her task;
    where `place` is None she has stored nothing yet.
    """

    def __init__(self, played, place, home, script, *, handed=(), acks=None, sleep=None, asks=None):
        vars(self).update(vars(played))
        self.home, self.names, self.at, self.studies = home, (SITE,), {}, {}
        self.habits, self.played, self.place = Habits(wait=0.0), played, place
        self.script, self.handing, self.sleep = list(script), list(handed), sleep
        self.acks, self.heard, self.requests, self.polled, self.ended = acks, [], 0, 0, None
        self.asks = [self.sites[SITE].task(1, peers=len(NAMES))] if asks is None else asks
        shutil.copytree(played.before[place or 0], home / SITE)
        if place is None:
            for name in ("vault", "studies"):
                shutil.rmtree(home / SITE / name)

    def play(self):
        """To its end."""
        self.polled = self.requests = self.telling = 0
        try:
            asyncio.run(self._attend())
        except MusterError as error:
            self.ended = error
        return self

    def handle(self, name, request):
        """One request of hers."""
        self.requests += 1
        assert self.requests < ASKED, "she goes on without end"
        path = request.url.path
        if path == "/v1/poll":
            self.polled += 1
            if self.polled > len(self.asks):
                return said(RunEnded("r1", 1, "all rounds are done"))
            asked = self.asks[self.polled - 1]
            return asked if isinstance(asked, httpx.Response) else said(asked)
        if path == "/v1/members":
            right = self.played.handed.to_json()
            return _whole(self.handing.pop(0) if self.handing else right)
        if not SECURE.fullmatch(path):
            return self.sites[SITE].handle(request)
        if request.method == "POST":
            self.heard.append(read(request.content))
            return self.acks(request) if self.acks else said(Ack(True))
        self.telling += 1
        if self.telling > len(self.script):
            return refused(RefusalReason.STALE)
        return _whole(self.script[self.telling - 1], {"muster-told": str(self.telling)})

    async def _site(self, stack, hand, name):
        made = await super()._site(stack, hand, name)
        if self.sleep is not None:
            made.line.patience = replace(made.line.patience, sleep=self.sleep)
        return made

    def transcript(self):
        """Return the transcript that she can show of the session."""
        path = self.home / SITE / "studies" / "default" / "secure" / "00000001.json"
        return read_transcript(path.read_bytes())[2]

    def check(self, over=True):
        """Nothing that she says opens more than the sum that she consented to.

        Where her session is `over`, its secrets are destroyed.
        """
        played = self.played
        spoken = () if self.place is None else played.spoken[self.place]
        universe = {message.to_bytes() for message in (*spoken, *self.heard)}
        by_kind = [data[4] for data in universe if data[4] != Quit.kind]
        assert len(by_kind) == len(set(by_kind)), "each kind of word once, for ever"
        for message in self.heard:
            if isinstance(message, Revealed):
                assert message == played.kept(Revealed), "shares for another set of survivors"
            if isinstance(message, MaskedVector) and self.told_members is None:
                assert message == played.kept(MaskedVector)
        secrets = list((self.home / SITE / "vault").glob("secure-*"))
        assert not (over and secrets), "her secrets are destroyed"

    @property
    def told_members(self):
        """Another set of members than the honest server's, if she was told one."""
        told = [data for data in self.script if isinstance(data, bytes)]
        return next(
            (d for d in told if d[4:5] == bytes([Members.kind]) and d not in self.played.told), None
        )


def _whole(content, headers=None):
    """Octets as an answer, unless they are one."""
    return content if isinstance(content, httpx.Response) else answer(content, headers)
