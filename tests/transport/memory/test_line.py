# SPDX-License-Identifier: Apache-2.0
"""A line in memory: what is lost, doubled, late or cut is drawn by its faults; time is given."""

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from tests.transport.http.stand import DATA, FAST, HELLO, POLL, RUN, SAID, Desk, keep_model

from muster.federation.coordinator.endpoint import ServerEndpoint
from muster.federation.protocol.message import Ack, Poll, Progress, ResumeAt
from muster.federation.protocol.transport import (
    Answer,
    LineFault,
    ModelQuery,
    PlanQuery,
    RawAnswer,
    UpdateBody,
)
from muster.security.refusal import RefusalReason, Refused
from muster.store.blobs import Files
from muster.testing.transport import KeepingSink
from muster.transport.memory.faults import FaultRates, Faults
from muster.transport.memory.line import MemoryServer, MemoryTransport

MODEL = bytes(range(251)) * 1000
BODY = UpdateBody(SAID.round, SAID.digest, SAID.size)


class Time:
    """Seconds that pass when somebody sleeps."""

    def __init__(self):
        self.now, self.slept = 0.0, []

    async def sleep(self, seconds):
        self.slept.append(seconds)
        await asyncio.sleep(0)
        self.now += seconds


def played(tmp_path, deed, desk=None, only=None, **rates):
    """Return what `deed(line, desk)` makes of a server behind such faults; the time that passed."""
    desk, server, time = desk or Desk(), MemoryServer(), Time()
    faults = Faults(0, FaultRates(**rates), only)

    async def main():
        with ThreadPoolExecutor(2) as pool:
            blobs = Files(tmp_path / "blobs", FAST)
            digest = keep_model(desk, blobs, MODEL)
            server.endpoint = ServerEndpoint(desk, blobs, pool)
            line = MemoryTransport(server, "lyon", faults=faults, sleep=time.sleep)
            line.digest = digest
            try:
                return await deed(line, desk)
            finally:
                await server.stop()

    return asyncio.run(main()), time


def steps(desk):
    return desk.moved["lyon", 3]


def progress(line):
    return line.call(Progress(RUN, 3, 1))


def test_a_question_that_is_dropped_was_not_heard(tmp_path):
    async def deed(line, desk):
        with pytest.raises(LineFault, match="Progress was lost"):
            await progress(line)
        return steps(desk)

    heard, time = played(tmp_path, deed, drop=1.0)
    assert heard == 0 and time.slept == [10.0]


def test_an_answer_that_is_lost_was_heard_all_the_same(tmp_path):
    async def deed(line, desk):
        with pytest.raises(LineFault, match="the answer to Progress was lost"):
            await progress(line)
        return steps(desk)

    heard, time = played(tmp_path, deed, lose=1.0)
    assert heard == 1 and time.slept == [10.0]


def test_a_question_that_is_doubled_is_heard_twice_and_once_later(tmp_path):
    async def deed(line, desk):
        assert (await progress(line)).said == Ack(True)
        while line.server.tasks:
            await asyncio.sleep(0)
        return steps(desk)

    heard, time = played(tmp_path, deed, double=1.0, longest=8.0)
    assert heard == 2 and 0 < time.now < 8


def test_a_delay_takes_its_time(tmp_path):
    async def deed(line, desk):
        return await progress(line)

    heard, time = played(tmp_path, deed, delay=1.0, longest=8.0)
    assert heard.said == Ack(True) and 0 < time.now < 8


def test_of_an_upload_that_is_cut_the_beginning_is_held(tmp_path):
    async def deed(line, desk):
        await line.call(SAID)
        with pytest.raises(LineFault, match="the line broke"):
            await line.upload(BODY, 0, memoryview(DATA))
        line.faults.calm = True
        held = (await line.call(SAID)).said.offset
        assert 0 < held < len(DATA) and line.traffic.sent > held
        answer = await line.upload(BODY, held, memoryview(DATA)[held:])
        return answer.said, desk.seats

    assert played(tmp_path, deed, cut=1.0)[0] == (Ack(True), {"lyon": SAID.digest})


def test_of_a_download_that_is_cut_the_beginning_is_in_the_sink(tmp_path):
    async def deed(line, desk):
        sink, query = KeepingSink(), ModelQuery(line.digest, 3)
        with pytest.raises(LineFault, match="in the middle of a model"):
            await line.download(query, 0, sink)
        line.faults.calm, first = True, sink.data
        assert 0 < len(first) < len(MODEL) and MODEL.startswith(first)
        await line.download(query, len(first), sink)
        return sink.data

    assert played(tmp_path, deed, cut=1.0)[0] == MODEL


def test_without_faults_no_time_passes(tmp_path):
    async def deed(line, desk):
        assert isinstance((await line.call(PlanQuery())).said, RawAnswer)
        assert (await line.call(SAID)).said == ResumeAt(0)
        assert (await line.upload(BODY, 0, memoryview(DATA))).said == Ack(True)
        await line.download(ModelQuery(line.digest, 3), 0, KeepingSink())

    assert played(tmp_path, deed)[1].slept == []


def test_a_refusal_is_counted_once_and_says_when_to_ask_again(tmp_path):
    class Full(Desk):
        async def poll(self, name, poll):
            raise Refused(RefusalReason.NO_ROOM, "full")

    async def deed(line, desk):
        wrong = await line.call(replace(HELLO, fingerprint="0" * 64))
        full = await line.call(POLL)
        return wrong, full, desk.counts

    (wrong, full, counts), _ = played(tmp_path, deed, Full())
    assert (wrong.said.reason, wrong.seconds) == (RefusalReason.WRONG_FINGERPRINT, 0.0)
    assert (full.said.reason, full.seconds) == (RefusalReason.NO_ROOM, 5.0)
    assert counts == {RefusalReason.WRONG_FINGERPRINT: 1, RefusalReason.NO_ROOM: 1}


def test_a_fault_of_the_server_is_one_of_the_line_and_in_its_log(tmp_path, caplog):
    class Breaks(Desk):
        async def poll(self, name, poll):
            raise ZeroDivisionError("inside")

    async def deed(line, desk):
        with pytest.raises(LineFault, match="the server failed") as caught:
            await line.call(POLL)
        assert "inside" not in caught.value.why

    played(tmp_path, deed, Breaks())
    assert "inside" in caplog.text


def test_a_server_that_goes_away_takes_what_is_kept_with_it(tmp_path):
    async def deed(line, desk):
        kept = asyncio.ensure_future(line.call(Poll(RUN, 0, 60.0)))
        await desk.kept.wait()
        await line.server.stop()
        with pytest.raises(LineFault, match="went away"):
            await kept
        with pytest.raises(LineFault, match="nobody is there"):
            await line.call(POLL)

    played(tmp_path, deed)


def test_whoever_hangs_up_leaves_no_question_behind(tmp_path):
    async def deed(line, desk):
        kept = asyncio.ensure_future(line.call(Poll(RUN, 0, 60.0)))
        await desk.kept.wait()
        kept.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await kept
        await asyncio.wait_for(desk.left.wait(), 60)
        while line.server.tasks:
            await asyncio.sleep(0)
        assert not line.server.endpoint._kept

    played(tmp_path, deed)


def test_what_a_site_began_goes_on_at_the_server_when_the_site_has_gone(tmp_path):
    """Its death is no death of the server: what was heard is done."""

    class Slow(Desk):
        async def welcome(self, name, hello, certificate=""):
            begun.set()
            await goes_on.wait()
            done.append(name)
            return await super().welcome(name, hello, certificate)

    begun, goes_on, done = asyncio.Event(), asyncio.Event(), []

    async def deed(line, desk):
        asked = asyncio.ensure_future(line.call(HELLO))
        await begun.wait()
        asked.cancel()
        await asyncio.wait([asked])
        assert not done
        goes_on.set()
        while line.server.tasks:
            await asyncio.sleep(0)
        return done

    assert played(tmp_path, deed, Slow())[0] == ["lyon"]


def test_objects_do_not_cross_the_line(tmp_path):
    """Neither side sees what the other does to a message; what it cannot say is refused."""
    heard = []

    class Keeps(Desk):
        async def poll(self, name, poll):
            heard.append(poll)
            return self.next

    async def deed(line, desk):
        answer = await line.call(POLL)
        assert heard == [POLL] and heard[0] is not POLL
        assert answer == Answer(desk.next) and answer.said is not desk.next
        desk.next = HELLO  # no answer to a poll
        with pytest.raises(LineFault, match="no message"):
            await line.call(POLL)

    played(tmp_path, deed, Keeps())
