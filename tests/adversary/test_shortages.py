# SPDX-License-Identifier: Apache-2.0
"""A real server whose disk is full for a while: it waits, says so to whoever asks, and goes on."""

import errno
import json
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import threading

import pytest
from tests.adversary.liar import BODY, Server, history, in_parallel

from muster.errors import NoRoom
from muster.ports import Disk
from muster.runs import drive
from muster.runs.federation import conduct, serve
from muster.security import audit
from muster.store import database
from muster.store.sql.journal import JournalTurn
from muster.transport.http import listen


class Times:
    """So many failures, then none."""

    def __init__(self, count, number=errno.ENOSPC):
        self.left, self.error, self.met = count, OSError(number, os.strerror(number)), 0

    def fail(self):
        if self.left:
            self.left, self.met = self.left - 1, self.met + 1
            raise self.error


class Full:
    """A file that takes a part of a line, and then nothing."""

    name = "history.jsonl"

    def __init__(self, file, times):
        self.file, self.times = file, times

    def write(self, data):
        self.times.fail()
        return self.file.write(data[:7])


def play(folder):
    with Server(folder) as server, server.members() as members:
        in_parallel(*(one.trains for one in members))
        in_parallel(*(one.measures for one in members))
        in_parallel(*(one.poll for one in members))
        assert server.ended() == "done"
    return history(folder)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EMFILE, errno.ENOMEM])
def test_a_history_that_cannot_be_written_is_written_later(tmp_path, monkeypatch, number):
    times, honest = Times(1, number), drive.append
    monkeypatch.setattr(drive, "append", lambda file, line: honest(Full(file, times), line))
    monkeypatch.setattr(conduct, "ROOM", 0.01)
    records = play(tmp_path / "run")
    assert times.met == 1 and [one["accepted"] for one in records] == [["ann", "bob", "eve"]]
    assert len((tmp_path / "run" / "history.jsonl").read_text().splitlines()) == 2


def test_an_audit_log_without_room_keeps_the_engine_waiting_and_loses_no_entry(
    tmp_path, monkeypatch
):
    times = Times(2)

    def write(file, data, at):
        if b'"action":"committed"' in bytes(data):
            times.fail()
        return os.pwrite(file, data, at)

    def log(folder):
        return audit.AuditLog(
            folder / "audit.jsonl", purpose="server", id="run", disk=Disk(write=write)
        )

    monkeypatch.setattr(serve, "_log", log)
    monkeypatch.setattr(serve, "ROOM", 0.01)
    play(tmp_path / "run")
    found = [entry["action"] for entry in audit.entries(tmp_path / "run" / "audit.jsonl")]
    assert times.met == 2 and found.count("committed") == 2, "what it started from, and a round"


def test_a_member_hears_that_there_is_no_room_and_says_it_again(tmp_path, monkeypatch):
    full, honest = threading.Event(), JournalTurn.append
    full.set()  # also when the writer tries it again, alone

    def append(turn, rows, *, leads):
        if full.is_set() and any(row.key == 'train "eve"' for row in rows):
            raise NoRoom("the database is full; make room")
        honest(turn, rows, leads=leads)

    monkeypatch.setattr(JournalTurn, "append", append)
    folder = tmp_path / "run"
    with Server(folder) as server, server.members() as (ann, bob, eve):
        task = eve.poll()
        eve.update(task)
        assert eve.upload(task)["reason"] == "no room"
        full.clear()
        assert eve.update(task) == {"kind": "offer", "offset": len(BODY)}  # and now it is held
        in_parallel(ann.trains, bob.trains)
        in_parallel(ann.measures, bob.measures, eve.measures)
        in_parallel(ann.poll, bob.poll, eve.poll)
        assert server.ended() == "done"
    assert history(folder)[0]["accepted"] == ["ann", "bob", "eve"]


PLAN = """
import muster
from muster import algorithms, optimizers, tasks

plan = muster.Plan(
    task=tasks.numpy.MLP([4, 5, 3]), algorithm=algorithms.FedAvg(), rounds=1,
    local=muster.Local(epochs=1, batch=6, optimizer=optimizers.SGD(0.1)),
)
"""
MAIN = "import sys; from muster.cli.app import main; main(sys.argv[1:])"


class Started:
    """A real `muster serve` whose files may have so many bytes: what a full disk is to it."""

    def __init__(self, folder, most):
        (folder / "plan.py").write_text(PLAN)
        words = ("serve", "plan.py", "--path", "run", "--plain", "--address", "127.0.0.1:0")
        self.process = subprocess.Popen(
            [sys.executable, "-B", "-c", MAIN, *words, "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, -1)),
        )

    def heard(self):
        """The next event."""
        line = self.process.stdout.readline()
        assert line, self.process.stderr.read()
        return json.loads(line)

    def make_room(self):
        resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (-1, -1))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()


@pytest.mark.parametrize("most", [0, 20_000, 100_000])
def test_a_server_started_on_a_full_disk_says_so_at_once_and_starts_when_there_is_room(
    tmp_path, most
):
    with Started(tmp_path, most) as server:
        said = server.heard()
        assert said["event"] == "full" and "room" in said["text"], said
        assert "restore" not in said["text"] and "damaged" not in said["text"]
        server.make_room()
        while (said := server.heard())["event"] == "full":
            continue
        assert said["event"] == "listening"


def test_a_server_that_waits_for_room_to_start_can_be_stopped(tmp_path):
    with Started(tmp_path, 0) as server:
        assert server.heard()["event"] == "full"
        server.process.send_signal(signal.SIGINT)
        while (said := server.heard())["event"] == "full":
            continue
        assert (said["event"], said["why"], said["rounds"]) == ("ended", "closing", 0)
        assert server.process.wait(60) == 130


def sql(code):
    error = sqlite3.OperationalError("planned")
    error.sqlite_errorcode = code
    return error


def first(times, honest):
    """A function that fails as often as is planned."""

    def call(*given, **more):
        times.fail()
        return honest(*given, **more)

    return call


@pytest.mark.parametrize("place", ["index", "database", "folder", "log", "socket", "facts"])
def test_whatever_a_start_has_no_room_for_is_waited_for(tmp_path, monkeypatch, place):
    times = Times(2)
    monkeypatch.setattr(serve, "ROOM", 0.01)
    if place in ("index", "database"):
        code = {"index": sqlite3.SQLITE_IOERR_SHMSIZE, "database": sqlite3.SQLITE_FULL}[place]
        times.error = sql(code)
        monkeypatch.setattr(database, "_schema", first(times, database._schema))
    elif place == "folder":
        times.error = OSError(errno.ENOSPC, "planned")
        monkeypatch.setattr("pathlib.Path.mkdir", first(times, serve.Path.mkdir))
    elif place == "log":
        monkeypatch.setattr(audit, "_sync_folder", first(times, audit._sync_folder))
    elif place == "socket":
        monkeypatch.setattr(listen.os, "chmod", first(times, os.chmod))
    else:
        times.error = NoRoom("planned")
        monkeypatch.setattr(serve.FederationStore, "rows", first(times, serve.FederationStore.rows))
    play(tmp_path / "run")
    assert times.met == 2
