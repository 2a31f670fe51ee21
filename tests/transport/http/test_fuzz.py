# SPDX-License-Identifier: Apache-2.0
"""Anything at all, as body, path, query and header: answered or refused, and never a fault."""

import asyncio
import json

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.transport.http.stand import HELLO, POLL, body, client_of, edge_over, run, update

from muster.federation.protocol.message import Ack, from_json, to_json

HASH = "0123456789abcdef" * 4


def scope(method="POST", path="/v1/poll"):
    return {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": b"",
        "scheme": "http",
        "headers": [(b"muster-site", b"lyon"), (b"content-length", b"1")],
        "state": {},
    }


PATHS = st.sampled_from(["/v1/hello", "/v1/poll", "/v1/updates", "/v1/answers"])
ODD = st.one_of(
    st.binary(max_size=300),
    st.text(max_size=100).map(str.encode),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
        lambda kids: st.lists(kids, max_size=3) | st.dictionaries(st.text(max_size=9), kids),
        max_leaves=9,
    ).map(lambda value: json.dumps(value).encode()),
    st.sampled_from([HELLO, POLL, update(body())]).flatmap(
        lambda said: st.integers(0, len(to_json(said))).map(lambda n: to_json(said)[:n])
    ),
)


def test_any_body_is_answered_or_refused_and_never_a_fault(tmp_path):
    with asyncio.Runner() as runner, edge_over(tmp_path) as (edge, service, _blobs):
        client = client_of(edge)

        @settings(max_examples=400, deadline=None)
        @given(PATHS, ODD)
        def fuzz(path, sent):
            before = len(service.members), dict(service.seats)
            got = runner.run(client.post(path, content=sent))
            assert got.status_code in (200, 400, 409, 413, 422)
            if got.status_code != 200:
                assert not from_json(got.content, Ack).accepted
                assert (len(service.members), dict(service.seats)) == before

        fuzz()
        runner.run(client.aclose())


@settings(max_examples=100, deadline=None)
@given(
    st.text(max_size=40),
    st.binary(max_size=40),
    st.dictionaries(st.binary(max_size=9), st.binary(max_size=40), max_size=4),
)
def test_any_path_query_and_header_is_refused(tmp_path_factory, path, query, headers):
    async def main():
        with edge_over(tmp_path_factory.mktemp("edge")) as (edge, service, _):
            for prefix in ("/", "/v1/models/", "/v1/updates/", f"/v1/updates/3/{HASH}"):
                told = []

                async def send(message, told=told):
                    told.append(message)

                async def receive():
                    return {"type": "http.request", "body": b"", "more_body": False}

                fields = [(b"muster-site", b"lyon"), *headers.items()]
                given = scope("PUT", prefix + path) | {"query_string": query, "headers": fields}
                await edge(given, receive, send)
                assert told[0]["status"] in (400, 401, 404, 405)
            assert service.counts.total() == 4

    run(main())
