# SPDX-License-Identifier: Apache-2.0
"""A server that lies about models and updates: in what it sends down, and in what it says to them.

To a real site: every part of a model, every header of its answer, every field of what answers an
announcement and its octets, and of the plan. Whatever it is, the site sends one update for one
assignment, leaves nothing behind, and goes on in words.
"""

import json
from collections import Counter
from dataclasses import replace

import httpx
import pytest

pytest.importorskip("sqlalchemy")
pytest.importorskip("zstandard")

from tests.adversary.mutants import (
    KINDS,
    NUMBERS,
    WHOLE,
    json_mutants,
    object_mutants,
    refusal,
    uncovered,
)
from tests.adversary.rogue import Rogue, Site, answer, refused
from tests.adversary.tensors import FIELDS, tensor_mutants
from tests.federation.site.scene import plan

from muster import Every
from muster.errors import MusterError, PlanError
from muster.federation.protocol import codec_tensors
from muster.federation.protocol.codec_json import rules
from muster.federation.protocol.message import (
    Ack,
    Decline,
    Measured,
    ResumeAt,
    TrainingFailure,
    Wait,
    to_json,
)
from muster.plan.registry import to_value
from muster.rounds import start
from muster.security.refusal import RefusalReason

OPEN = plan(weighting="equal", rounds=100_000, evaluate=Every(1))
ASKED = 40  # requests for one lie, after which a site is taken to go on without end
ODD = (b"", b"x", b"\xff" * 99, b"{}", b"null", b"[" * 5000, bytes(70_000))


class Lied(Rogue):
    """Answers each request that `meant` picks with what is next in `lies`, while there is some."""

    def __init__(self, given, meant):
        super().__init__(given, [])
        self.meant, self.lies, self.told, self.pieces = meant, [], 0, []

    def handle(self, request):
        """One request of the site."""
        self.told += 1
        if request.method == "PUT":
            self.pieces.append((request.url, self._body(request)))
        lied = bool(self.lies) and self.meant(request)
        right = None if lied and request.method == "PUT" else super().handle(request)
        return self.lies.pop(0) if lied else right


def check(site, rogue, lies):
    """Check all that must hold behind so many lies."""
    bodies = {}
    for update, _ in rogue.updates:
        bodies.setdefault((update.run, update.round, update.attempt), set()).add(update.digest)
    assert all(len(digests) == 1 for digests in bodies.values()), "one answer to an assignment"
    measured = {}
    for said in rogue.of(Measured):
        measured.setdefault(said.round, []).append(dict(said.metrics))
    assert all(one == every[0] for every in measured.values() for one in every)
    assert rogue.told < ASKED * (lies + 1), "it asks without end"
    left = {path.name for path in (site.home / "vault").iterdir() if path.suffix == ".part"}
    assert not left, left
    site.logged("task")  # the log is whole


FATAL = {RefusalReason.REVOKED, RefusalReason.WRONG_FINGERPRINT, RefusalReason.WRONG_VERSION}
PLACES = {
    "announced": lambda request: request.url.path == "/v1/updates",
    "sent": lambda request: request.method == "PUT",
    "measured": lambda request: request.url.path == "/v1/answers",
}


@pytest.mark.parametrize("where", PLACES)
def test_every_field_of_what_answers_an_update_may_lie(where, tmp_path):
    """An answer that is none is asked for again; a refusal or an offer is believed, no other."""
    site, rogue = Site(tmp_path, OPEN), Lied(OPEN, PLACES[where])
    said = (ResumeAt(0), ResumeAt(7), Ack(True), Ack(False, RefusalReason.LATE, "x"), Wait(0.0))
    lies = [lie for message in said for lie in json_mutants(message)]
    for kind in (ResumeAt, Ack, Wait):
        assert not uncovered(lies, kind.__name__, [*rules(kind), WHOLE])
    octets = [lie.data for lie in lies] + [to_json(message) for message in said]
    octets += [to_json(ResumeAt(n)) for n in (1, 8, 999, 1 << 20, 1 << 50)]
    refusals = [data for data in octets if refusal(data)]
    other = [data for data in octets if not refusal(data)]
    chunks = [other[i : i + 25] for i in range(0, len(other), 25)] + [[one] for one in refusals]
    rogue.script = []
    for round, chunk in enumerate(chunks, 1):

        def lied(poll, chunk=chunk, round=round):
            rogue.lies = [httpx.Response(200, content=data) for data in chunk]
            return rogue.evaluate(round) if where == "measured" else rogue.task(round)

        def settled(poll, round=round):
            rogue.lies = []
            return rogue.settled(round, accepted=False)

        rogue.script += [lied, settled, settled]
    assert all(refusal(data) not in FATAL for data in octets)
    site.attend(rogue)
    check(site, rogue, len(octets))
    sent = {update.round for update, _ in rogue.updates} | {m.round for m in rogue.of(Measured)}
    assert len(sent) > len(chunks) / 3 and sent <= set(range(1, len(chunks) + 1))


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("reason", RefusalReason)
def test_whatever_reason_an_update_is_refused_for_a_site_goes_on_or_ends_in_words(
    where, reason, tmp_path
):
    site, rogue = Site(tmp_path, OPEN), Lied(OPEN, PLACES[where])
    rogue.lies = [refused(reason)] * 7

    def thinks_better(poll):
        rogue.lies = []
        return rogue.settled(1)

    first = rogue.evaluate(1) if where == "measured" else rogue.task(1)
    rogue.script = [first, thinks_better, rogue.settled(1), rogue.task(2)]
    try:
        site.attend(rogue)
    except MusterError as error:
        assert getattr(error, "reason", None) in FATAL, error
    else:
        assert reason not in FATAL
        assert 2 in {update.round for update, _ in rogue.updates}
    check(site, rogue, 1)


@pytest.mark.parametrize("asks", ["task", "evaluate"])
def test_every_part_of_a_model_may_lie(asks, tmp_path):
    """Under a digest that is right: what is no model of the plan fails in words, and is let go."""
    site, rogue = Site(tmp_path, OPEN), Lied(OPEN, lambda request: False)
    lies = list(tensor_mutants(rogue.models[rogue.model], "model"))
    assert not uncovered(lies, "model", [*FIELDS, WHOLE])
    for round, lie in enumerate(lies, 1):
        rogue.models[digest := codec_tensors.digest([lie.data])] = lie.data
        asked = getattr(rogue, asks)
        rogue.script += [asked(round, model=digest), rogue.settled(round)]
    last = len(lies) + 1
    rogue.script.append(rogue.task(last))
    # What is longer than a model is asked for again, and so it is until the server thinks better.
    honest, asked_for = rogue.handle, Counter()

    def handle(request):
        path = request.url.path
        if path.startswith("/v1/models/"):
            asked_for[path] += 1
            if asked_for[path] > 3 or not rogue.models.get(path.rpartition("/")[2]):
                return refused(RefusalReason.UNKNOWN)
        return honest(request)

    rogue.handle = handle
    site.attend(rogue)
    check(site, rogue, len(lies))
    assert last in {update.round for update, _ in rogue.updates}
    answered = {answer.round for answer in rogue.of(TrainingFailure)} | {
        answer.round for answer in rogue.of(Decline)
    }
    good = {update.round for update, _ in rogue.updates} | {m.round for m in rogue.of(Measured)}
    assert len(answered - good) > len(lies) / 2


HEADERS = {
    "content-range": ("bytes 0-9/100", "bytes 5-/9", "bytes -1-2/3", "x", *NUMBERS),
    "content-encoding": ("zstd", "gzip", "br", "x", "", "zstd, zstd"),
    "content-length": ("0", "1", "9" * 30, "-1", "x"),
    "etag": ("", '"x"', '"' + "0" * 64 + '"'),
    "retry-after": NUMBERS,
}
STATUS = (200, 201, 204, 206, 301, 304, 400, 404, 408, 409, 416, 429, 500, 503, 507, 599)


def test_every_header_and_status_of_a_models_answer_may_lie(tmp_path):
    """Each with the model, half of it, and what is none; then the right one is fetched."""
    site = Site(tmp_path, OPEN)
    rogue = Lied(OPEN, lambda request: request.url.path.startswith("/v1/models/"))
    model = rogue.models[rogue.model]
    lies = [
        (status, {name: odd}, content)
        for name, odds in HEADERS.items()
        for odd in odds
        if "\n" not in odd
        for status in (200, 206)
        for content in (model, model[: len(model) // 2])
    ] + [(status, {}, content) for status in STATUS for content in (model, *ODD)]
    chunks = [lies[i : i + 20] for i in range(0, len(lies), 20)]
    for round, chunk in enumerate(chunks, 1):

        def lied(poll, round=round, chunk=chunk):
            rogue.lies = [answer(content, headers, status) for status, headers, content in chunk]
            fresh = rogue.publish(start(replace(OPEN, seed=round)).sent())
            return rogue.task(round, model=fresh)

        rogue.script += [lied, rogue.settled(round)]
    site.attend(rogue)
    check(site, rogue, len(lies))
    trained = {update.round for update, _ in rogue.updates}
    failed = {answer.round for answer in rogue.of(TrainingFailure)}
    assert trained | failed <= set(range(1, len(chunks) + 1)) and len(trained) > 3


def test_every_field_of_the_servers_plan_may_lie(tmp_path):
    """Asked for where fingerprints differ: whatever it is, the end is one printable sentence."""
    value = json.loads(json.dumps(to_value(OPEN)))
    known = {name: "Text" if isinstance(part, str) else "Number" for name, part in value.items()}
    each = {lie.place: lie.data for lie in object_mutants("plan", value, known)}
    assert len(each) == len(KINDS[:5]) * len(value) + len(KINDS)
    lies = list(each.values())  # of each field and kind the last
    escape = "\x1b]0;owned\x07\x1b[2J[red]"
    lies += [
        json.dumps(value | {escape: 1}).encode(),
        json.dumps(value | {"rounds": {"class": escape, escape: [escape]}}).encode(),
        json.dumps(value | {f"f{n}": "x" * 1000 for n in range(3000)}).encode(),
        json.dumps(value | {"algorithm": [[[[{"class": 7}]]]]}).encode(),
        *ODD,
    ]
    site = Site(tmp_path, OPEN)
    for lie in lies:
        rogue = Lied(OPEN, lambda request: request.url.path in ("/v1/hello", "/v1/plan"))
        wrong = httpx.Response(
            409, content=to_json(Ack(False, RefusalReason.WRONG_FINGERPRINT, "another plan"))
        )
        rogue.lies = [wrong, httpx.Response(200, content=lie)]
        with pytest.raises(PlanError) as found:
            site.attend(rogue)
        text = str(found.value)
        assert text.replace("\n", "").isprintable(), lie[:200]
        assert len(text) < 10_000, lie[:200]
        assert not rogue.lies
