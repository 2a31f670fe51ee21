# SPDX-License-Identifier: Apache-2.0
"""Strangers who only connect: members and the operator are served all the same."""

import contextlib
import socket
import subprocess
import sys

import httpx
import pytest
from tests.transport.http.stand import DATA, HELLO, SAID, place

from muster.federation.protocol.message import to_json
from muster.security import identity

FEW = 160  # descriptors of the server
STRANGERS = 300


@pytest.fixture
def server(tmp_path):
    command = [sys.executable, "-m", "tests.adversary.few_descriptors", str(tmp_path), str(FEW)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        try:
            yield child, int(child.stdout.readline())
        finally:
            child.stdin.close()


def test_who_connects_and_says_nothing_keeps_nobody_out(tmp_path, server):
    child, port = server
    home = tmp_path / "pki" / "lyon"
    tls = identity.client_context(home, home / "authority.pem")
    with contextlib.ExitStack() as stack:
        for _ in range(STRANGERS):
            with contextlib.suppress(OSError):  # it may be cut at once
                stack.enter_context(socket.create_connection(("127.0.0.1", port), 10))
        with httpx.Client(verify=tls, base_url=f"https://localhost:{port}", timeout=120) as site:
            assert site.post("/v1/hello", content=to_json(HELLO)).status_code == 200
            assert site.post("/v1/updates", content=to_json(SAID)).json()["kind"] == "offer"
            assert site.put(place(SAID), content=DATA).json()["accepted"]  # it has a file
        control = httpx.HTTPTransport(uds=str(tmp_path / "c"))
        with httpx.Client(transport=control, base_url="http://control", timeout=120) as operator:
            assert operator.get("/status").json()["seats"]
            assert operator.post("/want/stop").json()["wanted"] == "stop"
        assert child.poll() is None
