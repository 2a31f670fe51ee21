# SPDX-License-Identifier: Apache-2.0
"""The operator's door: every route × method, word and body that lies; an order is one, or nothing.

Over the control socket, at the loopback port that has no verbs, and at the door of the sites. What
is refused is in no log and changes no order; an order that was stored oddly holds no server up.
"""

import asyncio
import json
from dataclasses import replace

import pytest

pytest.importorskip("sqlalchemy")
pytest.importorskip("cryptography")

from tests.adversary.liar import altered
from tests.adversary.members import LIAR, Answer
from tests.adversary.mutants import KINDS
from tests.adversary.requests import EXTREMES, Request, request_mutants
from tests.adversary.trained import Trainers
from tests.federation.coordinator.masked import plan_of
from tests.store.scene import wanted

from muster.federation.coordinator.apply import ORDERS as WORDS
from muster.security.refusal import RefusalReason
from muster.transport.http.operator import Operator

PLAN = replace(plan_of(layers=(4, 3), rounds=100_000), pipeline=())
ROUTES = (
    Request("GET", "/healthz"),
    Request("GET", "/metrics"),
    Request("GET", "/status"),
    Request("POST", "/want/{word}", {"word": "pause"}),
    Request("POST", "/rollback"),
)
WATCHED = {"/healthz", "/metrics"}  # without the control socket
BODIES = (b"", b"x", b"{}", b'{"word":"stop"}', b"[" * 1000, bytes(100_000))
BACK = {"round": 0, "by": "eve", "reason": "a faulty scanner"}


@pytest.fixture
def hub(tmp_path):
    made = Trainers(tmp_path, PLAN)
    yield made
    made.close()


def ask(hub, method, target, *, body=b"", headers=(), control=True):
    """Answer one request of an operator."""
    path, _, query = target.partition("?")
    feed, told = iter([{"type": "http.request", "body": body, "more_body": False}]), []
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": query.encode("latin-1"),
        "headers": [(b"content-length", b"%d" % len(body)), *headers],
        "state": {"control": True} if control else {},
    }

    async def receive():
        return next(feed, {"type": "http.disconnect"})

    async def send(message):
        told.append(message)

    asyncio.run(Operator(hub.service, hub.edge.meters)(scope, receive, send))
    whole = b"".join(part.get("body", b"") for part in told[1:])
    return Answer(told[0]["status"], dict(told[0]["headers"]), whole)


def orders(hub):
    """Return the order, of this life and the next, and what the log has of it."""
    return hub.round_state.wanted, wanted(hub.ledger), [n for n in hub.notes if n[0] == "operator"]


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
@pytest.mark.parametrize("control", [True, False], ids=["socket", "port"])
def test_every_part_of_an_order_may_lie(route, control, hub):
    """An order that is none of `WORDS` is refused with a reason: nothing is wanted or logged."""
    lies = list(request_mutants(route))
    found = {lie.place for lie in lies}
    wanted = {(route.name, name, kind) for _, name in route.fields() for kind in KINDS[:4]}
    assert wanted <= found and (route.name, "method", "type") in found
    before = orders(hub)
    for lie in lies:
        answer = ask(hub, lie.method, lie.target, control=control)
        taken = (answer.status, lie.method, lie.target) == (200, "POST", f"/want/{before[0]}")
        assert taken or answer.reason in (RefusalReason.UNKNOWN, RefusalReason.MALFORMED), str(lie)
        assert orders(hub) == before, str(lie)
    for body in BODIES:  # what no route reads
        path = route.path.replace("pause", "x")
        answer = ask(hub, route.method, path, body=body, control=control)
        assert (answer.status == 200) == (path in WATCHED or (control and path == "/status"))
    assert orders(hub) == before


@pytest.mark.parametrize("name", BACK)
@pytest.mark.parametrize(
    "odd",
    [None, -1, 1.0, True, 10**30, [], {}, "x" * 5000, "\u2028", "\x00", ...],
    ids=repr,
)
def test_every_field_of_an_order_to_go_back_may_lie(name, odd, hub):
    """One more, one fewer or another kind: it is no order, and nothing is gone back to."""
    before = orders(hub)
    said = {key: value for key, value in BACK.items() if key != name or odd is not ...}
    said |= {} if odd is ... else {name: odd}
    for order in (said, BACK | {"more": odd if odd is not ... else 1}):
        body = json.dumps(order).encode()
        for control in (True, False):
            answer = ask(hub, "POST", "/rollback", body=body, control=control)
            assert answer.status != 200 and answer.reason is not None, order
    assert orders(hub) == before
    assert hub.round_state.back is None


@pytest.mark.parametrize("word", WORDS)
def test_an_order_that_is_repeated_or_comes_after_a_restart_is_the_same_order(word, hub):
    for _ in range(3):
        told = json.loads(ask(hub, "POST", f"/want/{word}").body)
        assert told["wanted"] == word == wanted(hub.ledger)
    assert [(who, what) for who, what, _ in orders(hub)[2]] == [("operator", word)] * 3
    hub.begin()
    assert hub.round_state.wanted == word
    told = json.loads(ask(hub, "POST", f"/want/{word}").body)
    assert told["wanted"] == word


def test_no_order_comes_in_at_another_door(hub):
    """A member that says an operator's words, and whoever watches the meters."""
    before = orders(hub)
    for route in ROUTES:
        for word in (*WORDS, "x"):
            path = route.path.replace("pause", word)
            answer = hub.ask(LIAR, route.method, path)
            assert answer.status == (200 if path == "/healthz" else 404), path
            told = ask(hub, route.method, path, control=False)
            assert told.status == (200 if path in WATCHED else 404), path
    assert orders(hub) == before


def test_an_odd_order_that_is_stored_holds_no_round_up(hub):
    """As a later release, a disk or a person might have stored it: it is none."""
    assert ask(hub, "POST", "/want/pause").status == 200
    for odd in ("hold", "", "RUN", "x" * 5000, 7):
        hub.close()
        say = "UPDATE journal SET body = json_set(body, '$.word', ?) WHERE topic = 'ordered'"
        assert altered(hub.home / "run", say, odd) == 1
        hub.ledger = None
        hub.begin()
        assert hub.round_state.wanted == "run", odd
        assert set(hub.network.known().clients) == set(hub.names)
        assert json.loads(ask(hub, "GET", "/status").body)["wanted"] == "run"
        hub.training()


def test_whatever_a_member_has_said_an_operator_sees_the_rest(hub):
    """The status and the meters with odd seats and many refusals."""

    def lie(task):
        for odd in EXTREMES:
            hub.ask(LIAR, "GET", f"/v1/models/{odd[:200]}")
        failure = {
            "kind": "failure",
            "run": "run",
            "round": task.round,
            "attempt": 1,
            "stage": "\u2028" * 3,
            "text": "\U0001f600" * 8000,
        }
        hub.ask(LIAR, "POST", "/v1/answers", json.dumps(failure).encode())
        seen = json.loads(ask(hub, "GET", "/status").body)
        assert {seat["client"] for seat in seen["seats"]} == set(hub.names)
        assert b"muster_refusals" in ask(hub, "GET", "/metrics").body

    hub.training(lie)
