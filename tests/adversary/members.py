# SPDX-License-Identifier: Apache-2.0
"""Members that lie to a real server, in secure sums and evaluations, by the words of the wire.

The server is real from its edge to its ledger, in one thread: when its engine waits, the members
have their turn (`Turns`), and when nobody has a word to say the clock goes on to what it waits
for. Honest members are the protocol's own client; the liar's messages are changed on their way.
"""

import asyncio
import math
from collections import defaultdict, deque
from dataclasses import dataclass, field, replace
from hashlib import sha256
from types import SimpleNamespace

import numpy as np
from tests.federation.coordinator.masked import certificate, identities

from muster.federation.coordinator.clients import NetworkClients
from muster.federation.coordinator.notifier import EngineNews
from muster.federation.coordinator.round_state import RoundState
from muster.federation.coordinator.service import FederationService
from muster.federation.protocol.claims import measures_of
from muster.federation.protocol.message import (
    VERSIONS,
    Ack,
    Evaluate,
    Hello,
    Measured,
    Poll,
    RunEnded,
    Settled,
    TrainAssignment,
    Wait,
    Welcome,
    from_json,
    to_json,
)
from muster.plan.registry import fingerprint
from muster.plan.secure import session_terms
from muster.ports import Disk
from muster.rounds import start
from muster.runs.federation.conduct import ServerSettings, facts_of, prepare
from muster.secagg import (
    Aborted,
    Await,
    Forget,
    Heard,
    Party,
    Persist,
    Saw,
    Say,
    Tell,
    client,
    server,
)
from muster.secagg.agreement import Binding
from muster.secagg.commitments import KINDS, SHARE
from muster.secagg.messages import Compared, Complaint, Delivery, KeyRoster, OpenedShares, Shares
from muster.secagg.pieces import PIECE
from muster.security import pki
from muster.security.identity import holder
from muster.security.pki.credentials import read_credentials
from muster.store.ledger import FederationStore
from muster.transport.http.app import HTTPApp
from muster.transport.http.limits import Limits
from muster.types import Cohort

NAMES = ("ann", "bob", "cid", "dot")
LIAR = "dot"
LEASE = 15.0
TURNS = 400  # of the members in one round, after which it is taken to hang
HEARD = {200, 206, 304, 400, 401, 403, 404, 405, 409, 413, 416, 422, 429, 507}


class Turns(EngineNews):
    """EngineNews whose waiting is a turn of the members; `now` is the clock that they share.

    It goes on by `stride` seconds at most, so that somebody who speaks in time is heard in time.
    """

    def __init__(self, turn):
        super().__init__()
        self.turn, self.now, self.taken, self.stride = turn, 0.0, 0, math.inf

    def wait(self, seen, seconds):
        """Let the members speak; where nobody does, the time that was to be waited goes by."""
        self.taken += 1
        assert self.taken < TURNS, "the round hangs"
        if not self.turn():
            self.now += min(seconds, self.stride) + 0.001


HANGS = 120.0  # seconds, after which a request is taken to hang
GONE = 499  # no answer: whoever asked has hung up


@dataclass
class Answer:
    """The answer of the edge."""

    status: int
    headers: dict
    body: bytes

    @property
    def reason(self):
        """Why it refused, or None."""
        return from_json(self.body, Ack).reason


@dataclass
class Member:
    """One member in one secure sum: the protocol's client behind the wire, and what it said."""

    name: str
    notary: object
    vector: np.ndarray
    seed: int
    kept: dict = field(default_factory=dict)
    said: list = field(default_factory=list)  # messages, as it meant them
    number: int = 0
    side: object = None
    terms: object = None
    ended: object = None

    def begin(self, terms, certificates):
        """Begin, or go on with what was kept."""
        self.terms = terms

        def verify(name, data, signature):
            return self.notary.vouch(name, certificates.get(name, ""), data, signature)

        party = Party(self.name, self.notary.sign, verify)
        draw = np.random.default_rng([self.seed, len(self.said), *self.name.encode()]).bytes
        self.side = client(terms, party, lambda: self.vector.copy(), draw, self.kept)
        return self.hear(None)

    def complaint(self, dealer):
        """It complains about a dealer's piece, by a good signature, whatever that piece holds."""
        heard = Delivery.from_bytes(_kept(self.kept["compare"])[0])
        roster = KeyRoster.from_bytes(_kept(self.kept["share"])[0])
        holder = roster.places[self.name]
        others = [place for place in range(len(roster.entries)) if place != holder]
        at = PIECE * others.index(dealer)
        digest = sha256(heard.pieces[at : at + PIECE]).digest()
        binding = Binding(heard.session, self.terms.context)
        signature = self.notary.sign(binding.complaint(dealer, holder, digest))
        return Compared(heard.session, (Complaint(dealer, holder, signature),))

    def opened(self, *holders):
        """It opens the shares that it dealt these, as they are."""
        _, said, own = _kept(self.kept["share"])
        shares = b"".join(own[KINDS * SHARE * j :][: KINDS * SHARE] for j in holders)
        return OpenedShares(Shares.from_bytes(said).session, shares)

    def hear(self, data):
        """Take a message in; what it says to that."""
        says = []
        try:
            action = self.side.send(data)
            while not isinstance(action, Await):
                if isinstance(action, Persist):
                    self.kept[action.name] = action.data
                elif isinstance(action, Say):
                    says.append(action.message)
                else:
                    assert isinstance(action, Forget | Saw)
                action = next(self.side)
        except StopIteration:
            self.ended = "done"
        except Aborted as stop:
            self.ended = stop
        self.said += says
        return says


def honest(message, member=None):
    """Return a member's words, as they are sent: bytes, and more of the address and the headers."""
    return [(message.to_bytes(), {}, {})]


def sums_of(plan):
    """Return an honest member's measures on two rows: the sums that the plan asks for."""
    return {"rows": 2.0} | dict.fromkeys(measures_of(plan), 1.0)


class Hub:
    """A server of masked rounds and evaluations, one after the other, over one ledger."""

    def __init__(self, home, plan, *, names=NAMES, limits=None, run="run"):
        self.home, self.plan, self.names = identities(home, names), plan, names
        self.run, self.asked = run, []  # every request: name, method, target, body, headers
        self.notaries = {name: pki.Notary(home / name) for name in names}
        self.hub = pki.Notary(home / "hub")
        self.certificates = {name: certificate(home, name) for name in names}
        self.terms, self.limits = ServerSettings(enough=len(names), lease=LEASE), limits
        self.ledger, self.round, self.notes = None, 1, []
        self.state = start(plan)
        self.turns, self._act = Turns(self._turn), bool
        self.begin()

    def begin(self):
        """Start the server, or start it again over the same ledger."""
        if self.ledger is not None:
            self.edge.pool.shutdown()
            self.ledger.close()
        self.ledger = FederationStore(self.home / "run", disk=Disk(sync=int))
        prepare(self.plan, self.ledger)
        facts = facts_of(self.plan, self.run, self.terms)
        facts = replace(facts, vouch=self.hub.attest, listed=self.hub.listed, note=self._note)
        self.round_state = RoundState(self.ledger, facts, clock=lambda: self.turns.now)
        self.round_state.news = self.turns
        self.service = FederationService(self.round_state, self.ledger, self._note)
        limits = self.limits or Limits(1e9, 1e9)
        self.edge = HTTPApp(self.service, self.ledger.blobs, frozenset, limits=limits)
        stop = SimpleNamespace(is_set=lambda: False)
        self.network = NetworkClients(
            self.plan,
            self.ledger,
            self.round_state,
            enough=1,
            least=1,
            stop=stop,
            at=str,
            entropy=None,
        )
        for name in self.names:
            hello = Hello(VERSIONS, name, facts.fingerprint, 1 if self.plan.secure else 9)
            self.expect(Welcome, self.ask(name, "POST", "/v1/hello", to_json(hello)))

    def close(self):
        """Let go of the ledger."""
        self.edge.pool.shutdown()
        self.ledger.close()

    def _note(self, actor, action, **details):
        self.notes.append((actor, action, details))

    # One request.

    def ask(self, name, method, path, body=b"", headers=(), pem=None, stays=True):
        """One request of a member through the edge; a fault of the server's is an error here.

        It stays until it is answered, or hangs up as soon as it is heard.
        """
        pem = pem or self.certificates[name]
        self.asked.append((name, method, path, body, tuple(headers)))
        path, _, query = path.partition("?")
        told, feed = [], iter([{"type": "http.request", "body": body, "more_body": False}])
        size = [(b"content-length", b"%d" % len(body))]
        if any(name == b"content-length" for name, _ in headers):
            size = []
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "scheme": "https",
            "query_string": query.encode("latin-1", "replace"),
            "headers": [*size, *headers],
            "state": {"identity": holder(pem.encode()), "certificate": pem},
        }

        async def receive():
            for message in feed:
                return message
            if stays:
                await asyncio.Event().wait()
            return {"type": "http.disconnect"}

        async def send(message):
            told.append(message)

        async def main():
            await asyncio.wait_for(self.edge(scope, receive, send), HANGS)

        asyncio.run(main())
        if not told:  # it was kept waiting, as it asked, and hung up
            return Answer(GONE, {}, b"")
        status, head = told[0]["status"], dict(told[0]["headers"])
        found = Answer(status, head, b"".join(part.get("body", b"") for part in told[1:]))
        assert status in HEARD, f"{method} {path} {body[:60]!r}: {status} {found.body!r}"
        return found

    def expect(self, kind, answer):
        """The message of this kind that was answered."""
        return from_json(answer.body, kind)

    def poll(self, name, pending=0, attempt=1):
        """Ask for a member what to do."""
        kinds = (TrainAssignment, Evaluate, Settled, Wait, RunEnded, Ack)
        told = self.ask(name, "POST", "/v1/poll", to_json(Poll(self.run, pending, 0.0, attempt)))
        return from_json(told.body, *kinds)

    def _turn(self):
        return self._act()

    # One secure sum.

    def sum(self, lie=honest, *, away=(), between=None, members=None):
        """Play a masked round in which the liar's messages are those that `lie` gives.

        `between(sum)` is called before each turn; `members` are those of a round that was broken
        off, who go on from what they kept. Returns what became of it.
        """
        draws = np.random.default_rng([self.round, 5])
        frame, size = self.plan.frame, self.plan.frame.spans[0].size
        vectors = {
            name: frame.flatten({"delta": draws.integers(-9, 10, size)}, 5) for name in self.names
        }
        self.last = made = Sum(self, lie, away, between, vectors)
        if members is not None:
            made.members = members
            for member in members.values():
                member.side, member.number, member.ended = None, 0, None
        self._act = made.turn
        self.turns.taken = 0
        cohort = Cohort(tuple(self.names), None)
        made.play(cohort)
        return made

    def evaluation(self, lie, between=None):
        """Have a model measured; what came, by client. `lie(asked)` gives octets for the liar.

        The liar says them one after the other; the others answer at once. `between()` is called
        before each turn.
        """
        due = dict.fromkeys(self.names)
        self.answers = []

        def turn():
            if between is not None:
                between()
            asked = {name: self.poll(name) for name in due}
            for name, said in asked.items():
                del due[name]
                told = Measured(self.run, said.round, said.model, sums_of(self.plan))
                for data in lie(said) if name == LIAR else [to_json(told)]:
                    self.answers.append(self.ask(name, "POST", "/v1/answers", data))
            return bool(asked)

        self._act, self.turns.taken = turn, 0
        everybody = [(name, None) for name in self.names]
        return dict(self.network.measure(self.state.sent(), everybody, self.round))

    def commit(self, accepted=()):
        """The round is over, without a change to the model."""
        record = {"round": self.round, "accepted": list(accepted), "abandoned": not accepted}
        self.ledger.commit(self.round, {"x": np.zeros(1)}, record, accepted)
        self.network.settle(self.round, accepted)
        self.round += 1
        pardon(self.round_state)  # a member that lied is another one in the next round


def pardon(round_state):
    """Forget what members did: nothing of it is in the journal any more."""
    round_state.state.excluded.clear()
    round_state._torn = True  # the writer begins with a copy of this
    round_state.volatile.failures.clear()
    round_state.volatile.resting.clear()
    with round_state.ledger._transactions.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM journal WHERE topic = 'excluded'")


class Sum:
    """One masked round: what was said, answered, and what became of it."""

    def __init__(self, hub, lie, away, between, vectors):
        self.hub, self.lie, self.away, self.between = hub, lie, set(away), between
        self.members = {n: Member(n, hub.notaries[n], vectors[n], hub.round) for n in hub.names}
        self.answers = defaultdict(list)  # by member: what its messages were answered
        self.sent = []  # octets that went, by member
        self.begun, self.masking = False, None
        self.replies = ()

    def play(self, cohort):
        """To its end."""
        hub = self.hub
        hub.network.send(cohort, hub.state.sent(), hub.round)
        self.masking = hub.network._masking
        self.replies = tuple(hub.network.replies())
        self.group = self.masking.sessions.each[0] if self.masking.sessions.each else None
        self.found = self.group.found if self.group else None
        self.seats = dict(hub.round_state.seats)
        self.excluded = set(hub.round_state.excluded)

    def turn(self):
        """Everybody's next words; whether anybody spoke."""
        if self.between is not None:
            self.between(self)
        spoke = False
        for member in self.members.values():
            if member.name in self.away or member.ended:
                continue
            spoke |= self._begin(member) if member.side is None else self._go(member)
        return spoke

    def _begin(self, member):
        hub, name = self.hub, member.name
        task = hub.poll(name)
        if not isinstance(task, TrainAssignment):
            member.ended = task
            return False
        told = hub.ask(name, "GET", f"/v1/members?round={hub.round}")
        certificates = read_credentials(told.body).certificates
        plan = hub.plan
        terms = session_terms(
            plan,
            task.peers,
            study="default",
            run=task.run,
            round=task.round,
            attempt=task.attempt,
            model=bytes.fromhex(task.model),
            plan=bytes.fromhex(hub.round_state.facts.fingerprint),
        )
        self.say(member, member.begin(terms, certificates))
        return True

    def _go(self, member):
        path = f"/v1/secure/{self.hub.round}?attempt=1&after={member.number}&wait=0"
        told = self.hub.ask(member.name, "GET", path)
        if b"muster-told" not in told.headers:
            if told.status != 200:
                member.ended = told.reason
            return False
        member.number = int(told.headers[b"muster-told"])
        self.say(member, member.hear(told.body))
        return True

    def say(self, member, messages):
        """Have a member's messages sent."""
        for message in messages:
            lies = self.lie(message, member) if member.name == LIAR else honest(message)
            for octets, query, headers in lies:
                self.post(member.name, octets, query, headers)

    def post(self, name, octets, query=None, headers=None):
        """One message on its way, in pieces where it is long; the answer."""
        asked = {"attempt": "1"} | (query or {})
        where = f"/v1/secure/{asked.pop('round', self.hub.round)}"
        path = f"{where}?" + "&".join(f"{key}={value}" for key, value in asked.items())
        more = [(k.encode(), v.encode("latin-1")) for k, v in (headers or {}).items()]
        answer = self.hub.ask(name, "POST", path, octets, more)
        self.answers[name].append(answer)
        self.sent.append((name, octets))
        return answer

    # What must hold, whatever was said.

    def check(self, changed=None):
        """Nobody honest is harmed, and what is open is right to the bit.

        `changed` is what the liar's masked words differ by from those that it meant: the sum may
        then be one that is given up, in words that blame nobody.
        """
        honest = [name for name in self.hub.names if name != LIAR and name not in self.away]
        assert self.excluded <= {LIAR}, self.excluded
        for name in honest:
            seat = self.seats[name]
            poisoned = changed is not None and (seat.standing, seat.reason) == ("late", "sum")
            assert seat.standing == "arrived" or poisoned, (name, seat)
            assert self.members[name].ended in ("done", None), self.members[name].ended
            said = {message.to_bytes() for message in self.members[name].said}
            assert len(said) == len({data[4] for data in said}), "each kind once, for ever"
            assert all(answer.status == 200 for answer in self.answers[name])
        assert self.found is not None, self.group and self.group.stop
        assert set(honest) <= set(self.found.survivors)
        total = sum(self.members[n].vector.astype(np.int64) for n in self.found.survivors)
        if changed is not None and LIAR in self.found.survivors:
            total = total + changed
        ring = self.group.terms.ring
        assert (self.found.total.astype(np.int64) == total % (1 << ring.bits)).all()


def _kept(record):
    """Return the bytes heard, said, and otherwise kept, of one step."""
    found = []
    while record:
        size = int.from_bytes(record[:4], "big")
        found.append(record[4 : 4 + size])
        record = record[4 + size :]
    return found


def elsewhere(hub, **changes):
    """One session of the same members about something else; what each said, and was told.

    `changes` are those of its terms: another study, run, round or attempt.
    """
    plan, count = hub.plan, len(hub.names)
    about = {
        "study": "default",
        "run": "run",
        "round": 1,
        "attempt": 1,
        "plan": bytes.fromhex(fingerprint(hub.plan)),
        "model": bytes(32),
    }
    terms = session_terms(plan, count, **about | changes)
    vector = plan.frame.flatten({"delta": np.zeros(plan.frame.spans[0].size, np.int64)}, 5)
    notaries = {name: pki.Notary(hub.home / name) for name in hub.names}
    certificates = {name: certificate(hub.home, name) for name in hub.names}
    members = {n: Member(n, notaries[n], vector, terms.round << 20) for n in hub.names}

    def vouched(name, data, signature):
        return notaries[name].vouch(name, certificates[name], data, signature)

    side, told, queue = server(terms, hub.names, vouched), defaultdict(list), deque()
    for member in members.values():
        queue += [(member.name, said) for said in member.begin(terms, certificates)]
    event = None
    while True:
        try:
            action = side.send(event)
            while not isinstance(action, Await):
                assert isinstance(action, Tell), action
                told[action.name].append(action.message)
                says = members[action.name].hear(action.message.to_bytes())
                queue += [(action.name, said) for said in says]
                action = next(side)
        except StopIteration as end:
            assert len(end.value.survivors) == count
            return {name: member.said for name, member in members.items()}, told
        name, said = queue.popleft()
        event = Heard(name, said.to_bytes())
