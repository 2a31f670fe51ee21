# SPDX-License-Identifier: Apache-2.0
"""A lying server of secure sums, and real sites that attend at it in one process.

It says the messages of the wire alone. What an honest server would do with what it hears is
`muster.secagg.server`; the lies are in the tests.
"""

import asyncio
import contextlib
import re
import ssl
from collections import defaultdict
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial

import httpx
from tests.adversary.rogue import Rogue, refused
from tests.federation.coordinator.masked import certificate, identities, plan_of, population
from tests.federation.site.hub import Wire, said
from tests.federation.site.lines import line_over

from muster.federation.protocol.message import Ack, RunEnded, Settled, Wait
from muster.federation.site.agent import SiteAgent
from muster.federation.site.secure_line import SAID
from muster.federation.site.server_client import Backoff
from muster.federation.site.store import SiteStore
from muster.federation.site.study import StudyRecord
from muster.federation.site.trainer import Habits
from muster.federation.site.training import Training
from muster.federation.site.training_thread import TrainingThread
from muster.plan.registry import fingerprint
from muster.plan.secure import session_terms
from muster.secagg import Aborted, Await, Closed, Heard, Tell, server
from muster.secagg.messages import Revealed, read
from muster.security import audit, pki
from muster.security.pki.credentials import Credentials
from muster.security.refusal import RefusalReason

SECURE = re.compile(r"/v1/secure/(\d+)")
QUICK = Backoff(first=0.001, longest=0.01, least=0.0)
HANGS = 200.0  # seconds, after which the sites are taken to hang


@dataclass
class Session:
    """One sum that the server asks for: who takes part, and the task that each is told.

    It is given up after `most` polls; math.inf waits for the sum.
    """

    names: tuple
    round: int = 1
    most: float = 60
    asked: dict = field(default_factory=dict)  # more fields of the task
    told: dict = field(default_factory=dict)
    heard: defaultdict = field(default_factory=lambda: defaultdict(list))
    found: object = None
    side: object = None
    waits: object = None  # of the honest server: for what, and for whom

    @property
    def over(self):
        """Return whether its sum is open, or every site of it has left."""
        return self.found is not None


class Sums:
    """Leads sites into one session after the other.

    `late` says which messages are taken in and then refused as late; `deaf` of which kind of
    message by which sites it says that they never came; `hands(name, credentials)` may change what
    is handed out of the members. All that the sites say: `sites[name].answers` and, by session,
    `heard`.
    """

    def __init__(self, home, *, plan=None, names=("ann", "bob", "cid", "dot", "eve")):
        self.home, self.names = identities(home, names), names
        self.plan, self.people = plan or plan_of(rounds=5), population(names)
        self.notary = pki.Notary(home / "hub")
        self.sites = {name: Rogue(self.plan, [], run="r1") for name in names}
        self.late, self.sessions = Revealed, []
        self.mute = False  # nothing is told in a session
        self.ends = True  # the run, behind the sessions; else all sites are killed there
        self.deaf = Revealed, frozenset()
        self.executor = lambda name, found: found
        self.terms = lambda terms: terms  # those that the server's own side goes by
        self.nobody = httpx.ConnectError("planned")
        self.settles = {}  # before the session of that place: the fate (round, accepted) told
        self.studies = {}  # the records that are open, by site
        self.at = {}  # what is called at the labels of a site
        self.patience = QUICK
        self.days = {}  # by which the clock of a site is fast, when it judges certificates

    def lead(self, *sessions, habits=None, **more):
        """Play the sessions, each until it is over or given up; then all end."""
        self.sessions, self.habits = list(sessions), habits or Habits(wait=0.0, **more)
        self.polls, self.place, self.owed, self.idle = 0, 0, set(), set()
        for session in sessions:
            if session.side is None:  # else it goes on
                session.side = self._side(session)
                self._play(session, None)
        asyncio.run(self._attend())
        return self

    def _side(self, session):
        count, sent = session.asked.get("peers", len(session.names)), self.sites[self.names[0]]
        terms = session_terms(
            self.plan,
            count,
            study="default",
            run="r1",
            round=session.round,
            plan=bytes.fromhex(fingerprint(self.plan)),
            model=bytes.fromhex(sent.model),
        )
        return server(self.terms(terms), session.names, self._vouch)

    def _vouch(self, name, data, signature):
        return self.notary.vouch(name, certificate(self.home, name), data, signature)

    def _play(self, session, event):
        """Feed an event, and put what is told where the sites find it."""
        if session.over:
            return
        try:
            action = session.side.send(event)
            while not isinstance(action, Await):
                if isinstance(action, Tell):
                    number = session.told.get(action.name, (0, b""))[0] + 1
                    session.told[action.name] = number, action.message.to_bytes()
                action = next(session.side)
            session.waits = action
        except StopIteration as end:
            session.found = end.value
        except Aborted as stop:
            session.found = stop

    @property
    def now(self):
        """The session that is played."""
        return self.sessions[self.place] if self.place < len(self.sessions) else None

    def handle(self, name, request):
        """One request of one site."""
        path, session = request.url.path, self.now
        if path == "/v1/poll":
            self.polls += 1
            if session and (session.over or self.polls > session.most):
                self.place, self.polls = self.place + 1, 0
                session = self.now
                self.owed = set(self.names) if self.place in self.settles else set()
            if name in self.owed:
                self.owed.discard(name)
                round, accepted = self.settles[self.place]
                return said(Settled("r1", round, accepted))
            if session is None and self.ends:
                return said(RunEnded("r1", 1, "all rounds are done"))
            if session is None:
                self.idle.add(name)
                if self.idle == set(self.names):
                    self.left.set()
                return said(Wait(0.001))
            if name not in session.names:
                return said(Wait(0.0))
            peers = {"peers": len(session.names)}
            return said(self.sites[name].task(session.round, **peers | session.asked))
        if path == "/v1/members":
            if session is None:
                return refused(RefusalReason.CLOSED)
            found = {other: certificate(self.home, other) for other in session.names}
            told = Credentials(found, self.notary.listed())
            return httpx.Response(200, content=self.executor(name, told).to_json())
        if not SECURE.fullmatch(path):
            return self.sites[name].handle(request)
        last = session or self.sessions[-1]  # whose end all hear
        if session is None and not (request.method == "GET" and last.over):
            return refused(RefusalReason.CLOSED)
        return self._say(name, request) if request.method == "POST" else self._told(name, request)

    def _say(self, name, request):
        session, message = self.now, read(request.content)
        session.heard[name].append(message)
        kind, silent = self.deaf
        if not (isinstance(message, kind) and name in silent):
            self._play(session, Heard(name, request.content))
        while (
            not session.over
            and session.waits.step is SAID[kind.kind]
            and (session.waits.due <= silent)
        ):
            self._play(session, Closed(session.waits.step))
        if isinstance(message, self.late):
            return refused(RefusalReason.LATE)
        return said(Ack(True))

    def _told(self, name, request):
        session = self.now or self.sessions[-1]  # of which all hear the end
        number, message = session.told.get(name, (0, b""))
        if self.mute or number <= int(request.url.params["after"]):
            return said(Wait(0.0))
        return httpx.Response(200, content=message, headers={"muster-told": str(number)})

    async def _attend(self):
        async with contextlib.AsyncExitStack() as stack:
            hand = await stack.enter_async_context(TrainingThread())
            sites = [await self._site(stack, hand, name) for name in self.names]
            self.left = asyncio.Event()
            lives = [asyncio.ensure_future(site.attend()) for site in sites]
            ended, left = asyncio.gather(*lives), asyncio.ensure_future(self.left.wait())
            try:
                async with asyncio.timeout(HANGS):
                    await asyncio.wait([ended, left], return_when=asyncio.FIRST_COMPLETED)
                    if ended.done():
                        ended.result()
            finally:
                for life in (*lives, left):
                    life.cancel()
                await asyncio.gather(ended, left, return_exceptions=True)
                await asyncio.gather(*lives, return_exceptions=True)

    async def _site(self, stack, hand, name):
        site_store = SiteStore(self.home / name / "vault", at=self.at.get(name))
        stack.callback(site_store.close)
        study = StudyRecord(self.home / name / "studies" / "default", "default")
        stack.callback(study.close)
        self.studies[name] = study
        below, tls = Wire(lambda request: self.handle(name, request)), ssl.create_default_context()
        line = line_over(below, name, "https://hub", tls, patience=self.patience)
        await stack.enter_async_context(line)
        log = audit.AuditLog(self.home / name / "audit.jsonl", purpose="site", id=name)
        stack.callback(log.close)
        training = Training(self.plan, self.people[name])
        habits = replace(self.habits, audit=log)
        notary = pki.Notary(self.home / name, partial(self._today, name))
        return SiteAgent(name, training, line, site_store, hand, habits, study=study, notary=notary)

    def _today(self, name):
        return datetime.now(UTC) + timedelta(days=self.days.get(name, 0))

    def begun(self, name, session):
        """Return a site's record of the assignment of a session, while the site is at work."""
        return self.studies[name].begun(self.sites[name].task(session.round))
