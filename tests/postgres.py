# SPDX-License-Identifier: Apache-2.0
"""A real PostgreSQL for the tests: one throw-away cluster a session, one database a test."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest

try:
    import psycopg
except ModuleNotFoundError:
    psycopg = None

SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "listen_addresses": "127.0.0.1",
    "log_min_messages": "fatal",
    "max_connections": "200",
    "shared_buffers": "32MB",
}
NEWEST = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))


@dataclass(frozen=True)
class Cluster:
    """A running PostgreSQL; its superuser `postgres` needs no password."""

    folder: Path
    port: int
    tools: Path

    def url(self, database="postgres"):
        """The address of a database."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def do(self, command):
        """Run a command as the superuser."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(command)

    def start(self):
        """Start it and wait until it answers."""
        settings = {"port": self.port, "unix_socket_directories": self.folder} | SETTINGS
        options = " ".join(f"-c {name}={value}" for name, value in settings.items())
        log = self.folder / "log"
        _run(
            self.tools / "pg_ctl",
            "-D",
            self.folder / "data",
            "-w",
            "-l",
            log,
            "-o",
            options,
            "start",
        )

    def stop(self, mode="immediate"):
        """Stop it: "immediate" is what a crash looks like."""
        _run(self.tools / "pg_ctl", "-D", self.folder / "data", "-w", "-m", mode, "stop")


@pytest.fixture(scope="session")
def postgres():
    """A `Cluster`, alive until the end of the session; skips where there is no PostgreSQL."""
    if psycopg is None:
        pytest.skip("psycopg is not installed (pip install 'muster-fl[postgres]')")
    found = shutil.which("initdb")
    tools = Path(found).resolve().parent if found else NEWEST[-1] if NEWEST else None
    if tools is None or not (tools / "pg_ctl").exists():
        pytest.skip("no PostgreSQL is installed (no initdb in PATH or /usr/lib/postgresql)")
    if os.geteuid() == 0 and not _unprivileged():
        pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
    folder = Path(tempfile.mkdtemp(prefix="muster-pg-"))
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres")
    cluster = Cluster(folder, _free_port(), tools)
    try:
        _run(
            tools / "initdb",
            "-D",
            folder / "data",
            "-U",
            "postgres",
            "-A",
            "trust",
            "-N",
            "-E",
            "UTF8",
        )
        cluster.start()
        yield cluster
    finally:
        with suppress(subprocess.CalledProcessError):  # a test may have stopped it
            cluster.stop()
        shutil.rmtree(folder)


@pytest.fixture
def database(postgres):
    """The address of an empty database, gone after the test."""
    name = f"test_{next(NUMBERS)}"
    postgres.do(f"CREATE DATABASE {name}")
    yield postgres.url(name)
    postgres.do(f"DROP DATABASE {name} WITH (FORCE)")


NUMBERS = count(1)


def _run(*command):
    """Run a tool, as the unprivileged user where the tests run as root."""
    user = {"user": "postgres", "group": "postgres", "extra_groups": []}
    subprocess.run(
        list(map(str, command)),
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        **(user if os.geteuid() == 0 else {}),
    )


def _unprivileged():
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return None


def _free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]
