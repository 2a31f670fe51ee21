# SPDX-License-Identifier: Apache-2.0
"""A member that lies beside its messages: in any address, query and header, to a real server.

While a round is open. Whatever it asks has an answer, of a refusal the reason; what is refused
changes nothing, and the round ends as if it had not been asked.
"""

import asyncio
from dataclasses import replace
from hashlib import sha256

import pytest

pytest.importorskip("sqlalchemy")
pytest.importorskip("cryptography")

from tests.adversary.members import GONE, LIAR, NAMES, Hub, honest
from tests.adversary.mutants import KINDS
from tests.adversary.requests import FIELDS, Request, request_mutants
from tests.adversary.trained import Door, Trainers, put_of, update_of
from tests.federation.coordinator.masked import plan_of

from muster.federation.protocol.message import TrainAssignment
from muster.secagg.messages import Advert, MaskedVector
from muster.security.refusal import RefusalReason
from muster.transport.http.app import HTTPApp
from muster.transport.http.limits import Limits

PLAN = plan_of(layers=(4, 3), rounds=100_000)
BARE = (
    "POST /v1/hello",
    "GET /v1/plan",
    "POST /v1/poll",
    "POST /v1/updates",
    "POST /v1/answers",
    "GET /openapi.json",
    "GET /healthz",
)


def samples(run, round, model, body):
    """A valid request of each kind."""
    digest, said = sha256(body).hexdigest(), {"attempt": "1"}
    upload = put_of(update_of(run, round, body))
    whole = {"digest": digest, "size": str(len(body)), "offset": "0"}
    found = [Request(*name.split(" ", 1)) for name in BARE]
    found += [
        Request(
            "GET",
            "/v1/models/{digest}",
            {"digest": model},
            {"round": str(round)},
            {
                "Range": "bytes=0-",
                "If-Range": f'"{model}"',
                "If-None-Match": '"x"',
                "Accept-Encoding": "zstd",
            },
        ),
        replace(upload, headers={"Content-Encoding": "identity"}),
        Request("GET", "/v1/members", {}, {"round": str(round)}),
        Request(
            "POST",
            "/v1/secure/{round}",
            {"round": str(round)},
            whole | said,
            {"Muster-Metrics": "{}"},
        ),
        Request(
            "GET", "/v1/secure/{round}", {"round": str(round)}, {"after": "0", "wait": "0"} | said
        ),
    ]
    return {request.name: request for request in found}


SAMPLES = samples("run", 1, "0" * 64, bytes(8))


def test_every_field_of_every_request_has_mutants_of_every_kind():
    """A request or a field of it that the document has, and the kit has not, is found here."""
    assert {name: request.fields() for name, request in SAMPLES.items()} == {
        name: set(fields) for name, fields in FIELDS.items()
    }
    for request in SAMPLES.values():
        found = {lie.place for lie in request_mutants(request)}
        wanted = {(request.name, name, kind) for _, name in request.fields() for kind in KINDS[:4]}
        assert wanted <= found, wanted - found
        assert (request.name, "method", "type") in found


@pytest.fixture(scope="module")
def trainers(tmp_path_factory):
    made = Trainers(tmp_path_factory.mktemp("trainers"), replace(PLAN, pipeline=()))
    yield made
    made.close()


@pytest.mark.parametrize("name", [name for name in SAMPLES if "secure" not in name])
def test_every_field_of_a_request_may_lie_while_a_round_is_trained(name, trainers):
    """And of every one in the name of who has not said hello."""
    hub = trainers

    def lie(task):
        assert isinstance(task, TrainAssignment)
        request = samples("run", task.round, task.model, hub.body(LIAR))[name]
        door, strange = Door(hub), hub.round_state.state.members.pop(LIAR)
        answer = hub.ask(LIAR, *request.sent()[:2], b"", request.sent()[2])
        hub.round_state.state.members[LIAR] = strange
        assert not door.refused("a stranger", answer) or answer.reason in (
            RefusalReason.UNENROLLED,
            RefusalReason.MALFORMED,
            RefusalReason.UNKNOWN,
        )
        for one in request_mutants(request):
            before = hub.notes[:]
            answer = hub.ask(LIAR, one.method, one.target, b"", one.headers)
            assert answer.status in (200, 206, 304, 416) or door.refused(one, answer), str(one)
            assert hub.notes == before
        assert hub.round_state.seats[LIAR].standing == "invited"
        hub.deliver(LIAR, task)

    assert hub.training(lie).seats[LIAR].standing == "arrived"


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    made = Hub(tmp_path_factory.mktemp("masked"), PLAN)
    yield made
    made.close()


@pytest.mark.parametrize("name", [name for name in SAMPLES if "secure" in name or "mem" in name])
@pytest.mark.parametrize("kind", [Advert, MaskedVector])
def test_every_field_of_a_request_of_a_secure_sum_may_lie(name, kind, masked):
    """Before a message of the liar, which is said as it should be then."""
    hub, asked = masked, []

    def lie(message, member):
        if isinstance(message, kind):
            data = message.to_bytes()
            request = samples("run", hub.round, "0" * 64, data)[name]
            body = data if request.method == "POST" else b""
            for one in request_mutants(request):
                waits = one.field in ("wait", "after")
                answer = hub.ask(LIAR, one.method, one.target, body, one.headers, stays=not waits)
                assert answer.status in (200, GONE) or answer.reason is not None, str(one)
                assert answer.status != GONE or waits, str(one)
                asked.append(one)
        return honest(message)

    made = hub.sum(lie)
    try:
        made.check()
    finally:
        hub.commit(made.found.survivors if made.found else ())
    assert set(made.found.survivors) == set(NAMES) and len(asked) > 50


def test_who_asks_over_plain_http_may_lie_about_its_name(trainers):
    """On loopback, where it is believed: another's name is its own matter, and no name is none."""
    hub = trainers
    plain = HTTPApp(hub.service, hub.ledger.blobs, frozenset, limits=Limits(1e9, 1e9), plain=True)
    lies = list(request_mutants(Request("GET", "/v1/plan", headers={"Muster-Site": LIAR})))
    assert {(lie.field, lie.kind) for lie in lies} >= {("Muster-Site", kind) for kind in KINDS[:4]}
    before = hub.stored()
    for lie in lies:
        told = []

        async def receive():
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(part, told=told):
            told.append(part)

        scope = {
            "type": "http",
            "method": lie.method,
            "path": lie.target,
            "scheme": "http",
            "query_string": b"",
            "headers": list(lie.headers),
            "state": {},
        }
        asyncio.run(plain(scope, receive, send))
        assert told[0]["status"] in (200, 400, 401, 403, 404, 405), str(lie)
    plain.pool.shutdown()
    assert hub.stored() == before
