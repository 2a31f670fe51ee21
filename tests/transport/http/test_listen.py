# SPDX-License-Identifier: Apache-2.0
"""Sockets: where a server listens, who may use the control socket, and how it ends."""

import asyncio
import contextlib
import socket
import stat

import httpx
import pytest
from tests.transport.http.stand import (
    POLL,
    RUN,
    body,
    edge_over,
    listening,
    place,
    plain,
    run,
    update,
)

from muster.errors import RunError
from muster.federation.protocol.message import Poll, Wait, from_json, to_json
from muster.transport.http.listen import ListenAddress, serve
from muster.transport.http.operator import Operator


def over(tmp_path, talk, where=None):
    async def main():
        with edge_over(tmp_path) as (edge, _, _):
            async with listening(edge, where) as port:
                return await talk(port, edge)

    return run(main())


def control(path):
    return httpx.AsyncClient(
        transport=httpx.AsyncHTTPTransport(uds=str(path)), base_url="http://control"
    )


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "example.org", "::"])
def test_plain_http_is_for_loopback_only(tmp_path, host):
    async def main():
        with edge_over(tmp_path) as (edge, service, _):
            where = ListenAddress(host=host, port=0)
            await serve(edge, Operator(service, edge.meters), where, asyncio.Event())

    with pytest.raises(RunError, match=r"plain HTTP on .* give the server an identity"):
        run(main())


def test_a_port_that_is_taken_and_a_path_that_is_too_long_are_said(tmp_path):
    async def main(where):
        with edge_over(tmp_path) as (edge, _, _):
            async with listening(edge, where):
                pytest.fail("it listens")

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(RunError, match=f"cannot listen on 127.0.0.1 port {port}"):
            run(main(ListenAddress(port=port)))
    with pytest.raises(RunError, match="control socket"):
        run(main(ListenAddress(port=0, control=tmp_path / ("x" * 120))))


def test_the_control_socket_is_its_owners_and_the_only_one_with_verbs(tmp_path):
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(path))  # left behind by a server that was killed

    async def talk(port, edge):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        async with control(path) as client:
            assert (await client.get("/status")).json()["round"] == 3
            assert (await client.post("/want/pause")).json()["wanted"] == "pause"
            assert (await client.post("/want/sleep")).status_code == 400
            order = {"round": 0, "by": "ann", "reason": "why"}
            refused = await client.post("/rollback", json=order)
            assert refused.status_code == 409 and "does not play the run" in refused.text
            for odd in ({"round": -1}, {"round": True}, {"by": 1}, {"reason": None}, {"more": 1}):
                assert (await client.post("/rollback", json=order | odd)).status_code == 400, odd
            assert (await client.post("/rollback", content=b"[" * 5000)).status_code in (400, 413)
            assert (await client.get("/healthz")).json() == {"healthy": True}
            assert "muster_round_open 3.0" in (await client.get("/metrics")).text
            assert (await client.post("/v1/poll", content=to_json(POLL))).status_code == 404
        async with plain(port) as client:
            assert (await client.get("/status")).status_code == 404
            assert (await client.post("/want/stop")).status_code == 404
            assert (await client.post("/rollback", json={"round": 0})).status_code == 404
        assert edge.service.word == "pause"

    over(tmp_path, talk, ListenAddress(port=0, control=path))
    assert not path.exists()


def test_the_port_of_the_meters_has_neither_verbs_nor_sites(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        meters = free.getsockname()[1]

    async def talk(port, edge):
        async with plain(meters) as client:
            assert (await client.get("/healthz")).status_code == 200
            assert (await client.get("/metrics")).status_code == 200
            assert (await client.get("/status")).status_code == 404
            assert (await client.post("/want/stop")).status_code == 404
            assert (await client.post("/rollback", json={"round": 0})).status_code == 404
            assert (await client.get("/v1/plan")).status_code == 404
        assert edge.service.word == "run"

    over(tmp_path, talk, ListenAddress(port=0, meters=meters))


def test_at_the_end_every_poll_is_told_to_wait_at_once(tmp_path):
    async def main():
        with edge_over(tmp_path) as (edge, service, _):
            async with Stoppable(edge) as (client, done):
                polls = [
                    asyncio.ensure_future(
                        client.post("/v1/poll", content=to_json(Poll(RUN, 0, 60.0)))
                    )
                    for _ in range(5)
                ]
                await service.kept.wait()
                begin = asyncio.get_running_loop().time()
                done.set()
                for poll in polls:
                    sent = await poll
                    assert isinstance(from_json(sent.content, Wait), Wait)
                assert asyncio.get_running_loop().time() - begin < 1.0

    run(main())


class Stoppable:
    """A client, and an event that stops the server it talks to."""

    def __init__(self, edge, **where):
        self.edge, self.where = (
            edge,
            ListenAddress(**{"port": 0, "tick": 0.02, "grace": 0.3} | where),
        )

    async def __aenter__(self):
        stop, port = asyncio.Event(), asyncio.get_running_loop().create_future()
        operator = Operator(self.edge.service, self.edge.meters)
        self.serving = asyncio.ensure_future(
            serve(self.edge, operator, self.where, stop, told=port.set_result)
        )
        self.stop, self.client = stop, plain(await port)
        return self.client, stop

    async def __aexit__(self, *error):
        self.stop.set()
        await self.client.aclose()
        await self.serving


def test_whoever_hangs_at_the_end_is_cut_within_the_grace(tmp_path, caplog):
    data = body()

    async def main():
        with edge_over(tmp_path) as (edge, service, blobs):
            async with Stoppable(edge) as (client, done):
                said = update(data)
                await client.post("/v1/updates", content=to_json(said))
                reader, writer = await asyncio.open_connection("127.0.0.1", client.base_url.port)
                ask = f"PUT {place(said)} HTTP/1.1\r\nmuster-site: lyon\r\n"
                writer.write(f"{ask}content-length: {len(data)}\r\n\r\n".encode() + data[:8])
                while not service.moved["lyon", 3]:
                    await asyncio.sleep(0)
                done.set()
                with contextlib.suppress(ConnectionError):
                    assert await reader.read() == b""
                writer.close()
            [name] = blobs.names("update")
            assert blobs.held(name) == 8  # what came is kept

    run(main())
    assert "did not end within 0.3 s" in caplog.text


def test_nothing_is_taken_after_the_end(tmp_path):
    async def talk(port, edge):
        async with plain(port) as client:
            assert (await client.get("/healthz")).status_code == 200
        return port

    port = over(tmp_path, talk)
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
        pass
