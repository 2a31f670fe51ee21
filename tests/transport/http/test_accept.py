# SPDX-License-Identifier: Apache-2.0
"""The entrance: so many at once, strangers displace strangers, and a shortage is waited out."""

import asyncio
import errno
import resource
import socket

import pytest
from tests.transport.http.stand import Federation, run

from muster.federation.protocol.limits import CONNECTIONS, DESCRIPTORS, HANDSHAKES
from muster.transport.http import accept
from muster.transport.http.accept import Entrance, affordable, more_descriptors
from muster.transport.http.protocol import Live


class Held(asyncio.Protocol):
    """A connection that stays, as it is entered where connections are counted."""

    serial = 0

    def __init__(self, live, seen):
        self.live, self.seen = live, seen

    def connection_made(self, transport):
        self.transport = transport
        self.live.enter(self)
        self.seen.put_nowait(self)

    def connection_lost(self, error):
        self.live.leave(self)


class Scene:
    """An entrance on loopback, and those who came in."""

    def __init__(self, most, tls=None, **more):
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.sock.setblocking(False)
        self.live, self.seen = Live(), asyncio.Queue()
        made = lambda: Held(self.live, self.seen)  # noqa: E731
        self.entrance = Entrance(self.sock, made, self.live, most, tls, **more)

    async def __aenter__(self):
        self.running = asyncio.ensure_future(self.entrance.run())
        return self

    async def __aexit__(self, *_):
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)
        self.entrance.close()
        for held in [c for each in self.live.connections.values() for c in each]:
            held.transport.abort()
        await self.live.empty.wait()

    async def connect(self):
        return await asyncio.open_connection(*self.sock.getsockname())


async def gone(reader):
    """That the other end has ended the connection."""
    try:
        return await reader.read() == b""
    except ConnectionError:
        return True


def test_as_many_as_may_be_and_the_next_when_one_leaves():
    async def main():
        async with Scene(most=2) as scene:
            lines = [await scene.connect() for _ in range(3)]
            first, second = await scene.seen.get(), await scene.seen.get()
            assert scene.live.count == 2 and scene.seen.empty()
            lines[0][1].close()
            third = await scene.seen.get()  # it waited in the system's queue
            assert scene.live.count == 2 and third not in (first, second)
            for _, writer in lines:
                writer.close()

    run(main())


def test_strangers_displace_strangers(tmp_path):
    """The oldest of the address that holds most goes; who speaks TLS is not waited out."""
    there = Federation(tmp_path)
    site = there.join("lyon")

    async def main():
        from muster.transport.http.protocol import Trust

        async with Scene(most=6, tls=Trust(there.hub).context(), patience=60.0) as scene:
            assert scene.entrance.places == 3
            lines = [await scene.connect() for _ in range(4)]
            assert await gone(lines[0][0])
            assert len(scene.entrance.handshaking) <= 3 and scene.live.count == 0
            reader, writer = await asyncio.open_connection(
                *scene.sock.getsockname(), ssl=there.tls(site), server_hostname="localhost"
            )
            assert (await scene.seen.get()).live.count == 1
            assert await gone(lines[1][0])
            for _, one in [*lines, (reader, writer)]:
                one.close()

    run(main())


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS])
def test_a_shortage_is_waited_out_and_said_once(number, caplog):
    async def main():
        pauses, left = [], [OSError(number, "none left")] * 3

        async def taken(sock):
            if left:
                raise left.pop()
            return await asyncio.get_running_loop().sock_accept(sock)

        async def pause():
            pauses.append(1)

        async with Scene(most=2, accept=taken, pause=pause) as scene:
            _, writer = await scene.connect()
            await scene.seen.get()
            assert len(pauses) == 3
            writer.close()

    run(main())
    assert caplog.text.count("no connection can be taken now") == 1


def test_who_has_left_again_is_no_fault_and_a_broken_socket_is_one():
    async def main():
        left = [OSError(errno.ECONNABORTED, "gone"), OSError(errno.EBADF, "closed")]

        async def taken(sock):
            raise left.pop(0)

        scene = Scene(most=2, accept=taken)
        with pytest.raises(OSError, match="closed"):
            await scene.entrance.run()
        scene.entrance.close()

    run(main())


def test_descriptors_are_kept_for_others(monkeypatch):
    assert affordable(10_000) == 10_000 - DESCRIPTORS
    assert affordable(1 << 30) == CONNECTIONS and affordable(1) == 1
    assert HANDSHAKES + DESCRIPTORS < 1024  # of what a process has unless it is told otherwise
    asked = []
    monkeypatch.setattr(accept.resource, "setrlimit", lambda what, pair: asked.append(pair))
    for soft, hard, found, wanted in (
        (256, 1 << 20, 1 << 16, [(1 << 16, 1 << 20)]),
        (256, 4096, 4096, [(4096, 4096)]),
        (256, resource.RLIM_INFINITY, 1 << 16, [(1 << 16, resource.RLIM_INFINITY)]),
        (1 << 17, 1 << 17, 1 << 17, []),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, 1 << 16, []),
    ):
        monkeypatch.setattr(accept.resource, "getrlimit", lambda _, pair=(soft, hard): pair)
        asked.clear()
        assert (more_descriptors(), asked) == (found, wanted)
