# SPDX-License-Identifier: Apache-2.0
"""A real server whose disk is full for a while: it waits, says so to whoever asks, and goes on."""

import errno
import os

import pytest
from tests.adversary.liar import BODY, Server, history, in_parallel

from muster.errors import NoRoom
from muster.runs import drive
from muster.runs.federation import serve
from muster.security import audit
from muster.store.sql import seats


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


def play(folder, lease=30.0):
    with Server(folder, lease=lease) as server, server.members() as members:
        in_parallel(*(one.trains for one in members))
        in_parallel(*(one.measures for one in members))
        in_parallel(*(one.poll for one in members))
        assert server.ended() == "done"
    return history(folder)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EMFILE, errno.ENOMEM])
def test_a_history_that_cannot_be_written_is_written_later(tmp_path, monkeypatch, number):
    times, honest = Times(1, number), drive.append
    monkeypatch.setattr(drive, "append", lambda file, line: honest(Full(file, times), line))
    records = play(tmp_path / "run", lease=4.0)
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
            folder / "audit.jsonl", purpose="server", id="run", disk=audit.Disk(write=write)
        )

    monkeypatch.setattr(serve, "_log", log)
    monkeypatch.setattr(serve, "ROOM", 0.01)
    play(tmp_path / "run")
    found = [entry["action"] for entry in audit.entries(tmp_path / "run" / "audit.jsonl")]
    assert times.met == 2 and found.count("committed") == 2, "what it started from, and a round"


def test_a_member_hears_that_there_is_no_room_and_says_it_again(tmp_path, monkeypatch):
    times, honest = Times(1), seats.decide

    def decide(turn, round, kind, asked):
        if kind == "train" and asked[0].client == "eve":
            try:
                times.fail()
            except OSError as error:
                raise NoRoom("the database is full; make room") from error
        return honest(turn, round, kind, asked)

    monkeypatch.setattr("muster.store.ledger.seating.decide", decide)
    folder = tmp_path / "run"
    with Server(folder) as server, server.members() as (ann, bob, eve):
        task = eve.poll()
        eve.update(task)
        assert eve.upload(task)["reason"] == "no room"
        assert eve.update(task) == {"kind": "offer", "offset": len(BODY)}  # and now it is held
        in_parallel(ann.trains, bob.trains)
        in_parallel(ann.measures, bob.measures, eve.measures)
        in_parallel(ann.poll, bob.poll, eve.poll)
        assert server.ended() == "done" and times.met == 1
    assert history(folder)[0]["accepted"] == ["ann", "bob", "eve"]
