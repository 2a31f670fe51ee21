# SPDX-License-Identifier: Apache-2.0
"""Words of sites in a secure sum: once, of a kind, of a size; what they are told, when new."""

import asyncio
import json
from dataclasses import replace
from hashlib import sha256
from urllib.parse import urlencode

import pytest

pytest.importorskip("sqlalchemy")

from concurrent.futures import ThreadPoolExecutor

from muster.federation.coordinator.commands import BeginWork, SayHello
from muster.federation.coordinator.events import WentBack, row_of
from muster.federation.coordinator.facts import FederationFacts
from muster.federation.coordinator.receiver import Receiver
from muster.federation.coordinator.round_state import RoundState
from muster.federation.coordinator.secagg_endpoint import SecAggEndpoint
from muster.federation.coordinator.secagg_progress import SecAggProgress
from muster.federation.coordinator.service import FederationService
from muster.federation.protocol.claims import Claims
from muster.federation.protocol.message import VERSIONS, Hello, ResumeAt, Wait
from muster.federation.protocol.transport import (
    MembersQuery,
    RawAnswer,
    SessionBody,
    SessionQuery,
)
from muster.secagg.messages import HEAD, Consent, KeyRoster, MaskedVector, Quit, SessionEnded
from muster.security.pki.credentials import Credentials, read_credentials
from muster.security.refusal import RefusalReason, Refused
from muster.store.ledger import FederationStore
from muster.store.records import OpenWork
from muster.transport.http.request import Request
from muster.transport.routes import route_of

QUIT = Quit("STOPPED").to_bytes()
CONSENT = Consent(bytes(32), b"signature").to_bytes()
LARGE = MaskedVector(bytes(32), bytes(100_000)).to_bytes()


class Scene:
    """A desk over a ledger in which round 1 is open, and its secure sum."""

    def __init__(self, folder):
        self.ledger, self.seen = FederationStore(folder), []
        facts = FederationFacts(
            "run",
            "f" * 64,
            {},
            lambda rows, times: 1.0,
            {},
            0,
            listed=lambda: "who is revoked",
            claims=Claims(masked=True),
        )
        self.round_state = RoundState(self.ledger, facts)
        for name in ("ann", "bob"):
            hello = Hello(VERSIONS, name, "f" * 64, 1)
            self.round_state.do(SayHello(name, hello, f"PEM of {name}"))
        work = OpenWork(1, "train", ("ann",), (1,), (("ann", 1),), "0" * 64, 0.0)
        self.round_state.do(BeginWork(work))
        near = {"ann": ("ann",)}
        self.round_state.join(SecAggProgress(1, {"ann": "ann"}, 200_000, self.seen.append, near))
        self.pool = ThreadPoolExecutor(1)
        self.begin()

    def begin(self):
        """One life of the server."""
        service = FederationService(self.round_state, self.ledger)
        self.sessions = SecAggEndpoint(service, Receiver(self.ledger.blobs, self.pool))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.pool.shutdown()
        self.ledger.close()

    def say(self, data, name="ann", round=1, *, pieces=1, headers=(), broken=None, **query):
        """The verdict, where to go on, or why not; the line is `broken` after so many pieces."""
        parts = list(_cut(data, pieces)) or [b""]
        feed = _requests(parts, broken)

        async def receive():
            return next(feed)

        size = (b"content-length", b"%d" % len(data))
        scope = {"method": "POST", "path": "/v1/secure/1", "headers": [size, *headers]}
        exchange, told = Request(scope, receive, None), exchange_metrics(headers)
        try:
            where = {"round": str(round)}
            body, offset = route_of(SessionBody).question(where, urlencode(query))
            body = replace(body, metrics=told)
            found = asyncio.run(self.sessions.say(name, body, offset, exchange))
            return found.offset if isinstance(found, ResumeAt) else found.accepted
        except Refused as refused:
            return refused.reason

    def words(self):
        return [(w.name, w.kind, w.data or w.blob) for w in self.round_state.heard(1, 0)]


def exchange_metrics(headers):
    return dict(headers).get(b"muster-metrics", b"").decode()


def _requests(parts, broken):
    for i, part in enumerate(parts):
        if i == broken:
            raise ConnectionError("the line broke")
        yield {"type": "http.request", "body": part, "more_body": i + 1 < len(parts)}


def _cut(data, pieces):
    step = -(-len(data) // pieces) or 1
    return (data[i : i + step] for i in range(0, len(data), step))


@pytest.fixture
def scene(tmp_path):
    with Scene(tmp_path) as found:
        yield found


def test_a_message_counts_once_however_often_it_is_said(scene):
    assert scene.say(CONSENT) is True and scene.say(CONSENT) is True
    assert scene.words() == [("ann", "11", CONSENT)] and scene.round_state.session.last == 1
    labels = ["secure: before a message is recorded", "secure: a message is recorded"]
    assert scene.seen == labels * 2


def test_a_second_message_of_a_kind_is_refused(scene):
    assert scene.say(CONSENT) is True
    assert scene.say(Consent(bytes(32), b"another").to_bytes()) is RefusalReason.DUPLICATE
    assert scene.say(QUIT) is True  # of another kind
    assert [word[:2] for word in scene.words()] == [("ann", "11"), ("ann", "14")]


@pytest.mark.parametrize(
    ("data", "name", "round", "reason"),
    [
        (CONSENT, "bob", 1, RefusalReason.FOREIGN),
        (CONSENT, "eve", 1, RefusalReason.UNENROLLED),
        (CONSENT, "ann", 2, RefusalReason.CLOSED),
        (b"{}", "ann", 1, RefusalReason.MALFORMED),
        (b"", "ann", 1, RefusalReason.MALFORMED),
        (b"msa\x01", "ann", 1, RefusalReason.MALFORMED),
        (SessionEnded("DONE").to_bytes(), "ann", 1, RefusalReason.MALFORMED),  # what a server says
        (KeyRoster(bytes(32), ()).to_bytes(), "ann", 1, RefusalReason.MALFORMED),
        (CONSENT + bytes(200_000), "ann", 1, RefusalReason.TOO_LARGE),
        (LARGE, "ann", 1, RefusalReason.MALFORMED),  # without its digest
    ],
)
def test_what_is_refused_leaves_nothing(scene, data, name, round, reason):
    assert scene.say(data, name, round) is reason
    assert scene.words() == [] and scene.ledger.blobs.names("masked-") == []


def large(data, digest=None, offset=0):
    return {
        "digest": digest or sha256(data).hexdigest(),
        "size": str(len(data)),
        "offset": str(offset),
    }


def test_a_large_message_goes_to_the_disk_and_its_digest_counts(scene):
    assert scene.say(LARGE, **large(LARGE, "0" * 64), pieces=7) is RefusalReason.WRONG_DIGEST
    assert scene.ledger.blobs.names("masked-") == []
    assert scene.say(LARGE, **large(LARGE), pieces=7) is True
    ((name, kind, blob),) = scene.words()
    assert (name, kind) == ("ann", "9") and bytes(scene.ledger.blobs.whole(blob)) == LARGE
    assert scene.say(LARGE, **large(LARGE)) == len(LARGE)  # it is held: go on from its end
    assert scene.say(b"", **large(LARGE, offset=len(LARGE))) is True and len(scene.words()) == 1
    other = MaskedVector(bytes(32), bytes(99_999) + b"1").to_bytes()
    assert scene.say(other, **large(other)) is RefusalReason.DUPLICATE
    assert len(scene.ledger.blobs.names("masked-")) == 1


def test_a_large_message_goes_on_where_it_broke_off(scene):
    first, rest = LARGE[:40_000], LARGE[40_000:]
    assert scene.say(first, **large(LARGE)) == 40_000
    assert scene.say(first, **large(LARGE)) == 40_000  # not read again
    assert scene.say(rest, **large(LARGE, offset=70_000)) == 40_000
    assert scene.words() == []
    with pytest.raises(ConnectionError):
        scene.say(rest, **large(LARGE, offset=40_000), pieces=3, broken=2)
    held = scene.say(b"", **large(LARGE))
    assert held == 40_000 + 2 * -(-len(rest) // 3)
    assert scene.say(LARGE[held:], **large(LARGE, offset=held)) is True
    ((_, _, blob),) = scene.words()
    assert bytes(scene.ledger.blobs.whole(blob)) == LARGE


@pytest.mark.parametrize("size", [1, len(LARGE) - 1, len(LARGE) + 1])
def test_a_lie_about_its_size_removes_no_message_that_counts(scene, size):
    assert scene.say(LARGE, **large(LARGE)) is True
    ((_, _, blob),) = scene.words()
    lie = large(LARGE) | {"size": str(size)}
    assert scene.say(LARGE, **lie) in (RefusalReason.MALFORMED, RefusalReason.TOO_LARGE)
    assert scene.say(b"", **lie) is RefusalReason.MALFORMED
    assert bytes(scene.ledger.blobs.whole(blob)) == LARGE
    assert scene.say(b"", **large(LARGE, offset=len(LARGE))) is True


class Feed:
    """A request whose bytes a test hands over, as its transport has them."""

    coding = "identity"

    def __init__(self, length):
        self.size, self.read, self.pieces = length, 0, asyncio.Queue()

    def length(self):
        return self.size

    async def piece(self):
        data = await self.pieces.get()
        self.read += len(data or b"")
        return data


def test_a_newer_connection_takes_over_a_large_message_from_one_that_hangs(scene):
    """As for updates: the older is most often a line that broke without saying so."""
    body = SessionBody(1, 1, sha256(LARGE).hexdigest(), len(LARGE))
    hangs, goes_on = Feed(len(LARGE)), Feed(len(LARGE) - 60_000)

    async def main():
        older = asyncio.ensure_future(scene.sessions.say("ann", body, 0, hangs))
        hangs.pieces.put_nowait(LARGE[:60_000])
        while hangs.read < 60_000:
            await asyncio.sleep(0)
        for data in (LARGE[60_000:], None):
            goes_on.pieces.put_nowait(data)
        newer = scene.sessions.say("ann", body, 60_000, goes_on)
        assert (await asyncio.wait_for(newer, 120)).accepted
        with pytest.raises(Refused) as caught:
            await older
        assert caught.value.reason is RefusalReason.CLOSED

    asyncio.run(main())
    ((_, _, blob),) = scene.words()
    assert bytes(scene.ledger.blobs.whole(blob)) == LARGE


def test_ever_new_messages_of_which_none_ends_hold_the_room_of_one(scene):
    for number in range(20):
        assert scene.say(LARGE[:30_000], **large(LARGE, f"{number:064x}")) == 30_000
    (left,) = scene.ledger.blobs.names("masked-")
    assert left.endswith(f"{19:064x}") and scene.words() == []
    scene.begin()  # another life
    assert scene.say(LARGE, **large(LARGE)) is True
    assert len(scene.ledger.blobs.names("masked-")) == len(scene.words()) == 1


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"size": "0"}, RefusalReason.MALFORMED),
        ({"size": "-1"}, RefusalReason.MALFORMED),
        ({"size": "200001"}, RefusalReason.TOO_LARGE),
        ({"offset": "150000"}, RefusalReason.TOO_LARGE),
        ({"offset": "x"}, RefusalReason.MALFORMED),
        ({"digest": "../" + "0" * 61}, RefusalReason.MALFORMED),
    ],
)
def test_a_piece_that_lies_of_its_place_is_refused(scene, changed, reason):
    assert scene.say(LARGE, **large(LARGE) | changed) is reason
    assert scene.words() == [] and scene.ledger.blobs.names("masked-") == []


def test_what_is_no_message_is_removed_when_it_is_whole(scene):
    assert scene.say(bytes(100_000), **large(bytes(100_000))) is RefusalReason.MALFORMED
    assert scene.ledger.blobs.names("masked-") == []


def test_metrics_travel_with_a_message(scene):
    told = {"rows": 5.0, "loss": 0.5, "steps": 2.0, "drift": 0.0}
    assert scene.say(CONSENT, headers=[(b"muster-metrics", json.dumps(told).encode())]) is True
    assert scene.round_state.heard(1, 0)[0].metrics == told
    assert (
        scene.say(QUIT, headers=[(b"muster-metrics", b'{"loss": NaN}')]) is RefusalReason.NOT_FINITE
    )
    assert (
        scene.say(QUIT, headers=[(b"muster-metrics", b'{"loss": 0.5}')]) is RefusalReason.MALFORMED
    )


@pytest.mark.parametrize(
    "lie",
    [
        {"rows": 0.0},
        {"rows": -5.0},
        {"rows": 2.0**50},
        {"rows": 0.5},
        {"loss": 1.7e308},
        {"steps": -1.0},
        {"steps": 0.5},
        {"drift": -1.0},
        {"wit": 1.0},
    ],
)
def test_facts_beside_a_masked_message_are_held_to_the_same(scene, lie):
    told = {"rows": 5.0, "loss": 0.5, "steps": 2.0, "drift": 0.0} | lie
    header = [(b"muster-metrics", json.dumps(told).encode())]
    assert scene.say(CONSENT, headers=header) is RefusalReason.MALFORMED
    assert scene.words() == []


def test_a_plan_that_hides_metrics_takes_none(scene):
    state = scene.round_state.state
    state.facts = replace(state.facts, claims=Claims(masked=True, told=False))
    told = {"rows": 5.0, "loss": 0.5, "steps": 2.0, "drift": 0.0}
    header = [(b"muster-metrics", json.dumps(told).encode())]
    assert scene.say(CONSENT, headers=header) is RefusalReason.MALFORMED
    assert scene.say(CONSENT) is True


@pytest.mark.parametrize(
    "data", [HEAD + bytes([14]) + b"\xff" * 9, HEAD + bytes([11]), CONSENT + b"x", QUIT[:-1]]
)
def test_what_is_no_message_is_refused_at_the_door(scene, data):
    """The engine would have met it first: a farewell that is none ended it."""
    assert scene.say(data) is RefusalReason.MALFORMED and scene.words() == []


def test_a_session_of_rounds_that_were_lost_is_over(scene):
    """The server was put back to a copy: its site is told at once, and waits no longer in it."""
    assert scene.say(CONSENT, attempt="1") is True
    back = row_of(WentBack(0, (0,)))
    scene.ledger.write(lambda turn: turn.append([back], leads=False)).result()
    scene.round_state.follow()
    assert scene.say(QUIT, attempt="1") is RefusalReason.STALE
    with pytest.raises(Refused) as caught:
        asyncio.run(scene.sessions.told("ann", SessionQuery(1, 1, 0, 60.0)))
    assert caught.value.reason is RefusalReason.STALE
    assert scene.say(QUIT, attempt="2") is RefusalReason.CLOSED, "it is not open yet"


def test_one_is_told_what_is_newer_than_one_knows(scene):
    def told(after, name="ann", round=1):
        return asyncio.run(scene.sessions.told(name, SessionQuery(round, 1, after, 0.0)))

    assert told(0) == Wait(0.0)
    scene.round_state.session.told["ann"] = (3, b"words")
    assert told(0) == told(2) == RawAnswer(b"words", 3) and told(3) == Wait(0.0)
    for name, round, reason in (
        ("bob", 1, RefusalReason.FOREIGN),
        ("eve", 1, RefusalReason.UNENROLLED),
    ):
        with pytest.raises(Refused) as refused:
            told(0, name, round)
        assert refused.value.reason is reason
    scene.round_state.state.committed = 1
    with pytest.raises(Refused, match="round 1 is over"):
        told(0)


def test_a_question_waits_for_news(scene):
    async def wait():
        asked = asyncio.ensure_future(scene.sessions.told("ann", SessionQuery(1, 1, 0, 30.0)))
        while not scene.round_state.notifier.waiting:
            await asyncio.sleep(0)
        scene.round_state.session.told["ann"] = (1, b"news")
        scene.round_state.notifier.ring(["ann"])
        return await asyncio.wait_for(asked, 120)

    assert asyncio.run(wait()) == RawAnswer(b"news", 1)


def test_the_members_of_a_round(scene):
    with pytest.raises(Refused):  # nobody knows yet by which they go
        scene.sessions.members("ann", MembersQuery(1))
    scene.round_state.session.certificates = {"ann": "PEM of ann"}
    found = read_credentials(scene.sessions.members("ann", MembersQuery(1)).data)
    assert found == Credentials({"ann": "PEM of ann"}, "who is revoked")
    with pytest.raises(Refused):
        scene.sessions.members("bob", MembersQuery(1))
