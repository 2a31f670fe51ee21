# SPDX-License-Identifier: Apache-2.0
"""Metrics for an operator: every number has a name, and a fault is not told."""

from dataclasses import replace

import httpx
from tests.transport.http.stand import POLL, Desk, client_of, edge_over, run

from muster.federation.protocol.message import to_json
from muster.transport.http.operator import Meters, Operator


def metrics(text):
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


def test_the_metrics_are_those_of_the_desk_and_of_the_requests(tmp_path):
    async def main():
        with edge_over(tmp_path) as (edge, service, _):
            service.seats["lyon"] = "f" * 64
            async with client_of(edge) as client:
                for _ in range(3):
                    await client.post("/v1/poll", content=to_json(POLL))
                await client.post("/v1/poll", content=b"")
                assert (await client.get("/metrics")).status_code == 404, "not for sites"
                found = metrics(edge.meters.text(operator=True).decode())
                assert metrics(edge.meters.text(operator=False).decode()).keys() == found.keys()
        assert found["muster_rounds_committed_total"] == 2 and found["muster_round_open"] == 3
        assert found['muster_seats{standing="arrived"}'] == 1
        assert found['muster_seats{standing="late"}'] == 0
        assert found['muster_refusals_total{reason="malformed"}'] == 1
        assert found['muster_requests_total{route="/v1/poll",status="200"}'] == 3
        assert found['muster_requests_total{route="/v1/poll",status="400"}'] == 1
        assert found['muster_octets_total{direction="in"}'] == 3 * len(to_json(POLL))
        assert found['muster_octets_total{direction="out"}'] > 0
        assert found["muster_checkin_seconds_count"] == 4 and found["muster_polls"] == 0
        assert "process_resident_memory_bytes" in found or not found.get(
            "process_cpu_seconds_total"
        )

    run(main())


def test_where_nobody_may_know_who_was_drawn_whoever_watches_sees_rounds_alone(tmp_path):
    """Requests, octets and times tell as much of it as seats."""
    service = Desk()
    service.facts = replace(service.facts, hides=True)
    meters = Meters(service)
    found = metrics(meters.text(operator=False).decode())
    assert found == {"muster_rounds_committed_total": 2, "muster_round_open": 3}
    assert 'muster_seats{standing="late"}' in metrics(meters.text(operator=True).decode())

    async def main():
        transport = httpx.ASGITransport(Operator(service, meters))  # without a control socket
        async with httpx.AsyncClient(transport=transport, base_url="http://loopback") as client:
            assert metrics((await client.get("/metrics")).text) == found

    run(main())


def test_bytes_are_counted_for_each_member_and_for_nobody_else(tmp_path):
    """Once, as they pass; the operator sees them beside the member."""

    class Known(Desk):
        def status(self):
            return {"members": [{"name": "lyon"}, {"name": "oslo"}]}

    service, asked = Known(), to_json(POLL)
    service.round_state.members["lyon"] = service.round_state.members["oslo"] = None

    async def main():
        with edge_over(tmp_path, service) as (edge, _, _):
            async with client_of(edge) as lyon, client_of(edge, "eve") as eve:
                answers = [await lyon.post("/v1/poll", content=asked) for _ in range(3)]
                await eve.post("/v1/poll", content=asked)
            assert edge.meters.traffic.keys() == {"lyon"}
            told = Operator(service, edge.meters)._status()["members"]
            sent = sum(len(answer.content) for answer in answers)
            assert told[0] == {"name": "lyon", "received": 3 * len(asked), "sent": sent}
            assert told[1] == {"name": "oslo", "received": 0, "sent": 0}

    run(main())


def test_an_operator_is_told_of_a_fault_without_its_inside(caplog):
    class Broken(Desk):
        def status(self):
            raise ZeroDivisionError("secret")

    class Control(httpx.ASGITransport):
        async def handle_async_request(self, request):
            async def app(scope, receive, send):
                await self.operator(scope | {"state": {"control": True}}, receive, send)

            self.app = app
            return await super().handle_async_request(request)

    async def main():
        service = Broken()
        transport = Control(None)
        transport.operator = Operator(service, Meters(Desk()))
        async with httpx.AsyncClient(transport=transport, base_url="http://control") as client:
            got = await client.get("/status")
            assert got.status_code == 500 and "secret" not in got.text
            assert (await client.get("/nothing")).status_code == 404
            assert (await client.post("/want/drain")).status_code == 500

    run(main())
    assert "secret" in caplog.text
