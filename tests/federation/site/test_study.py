# SPDX-License-Identifier: Apache-2.0
"""The record of a study: what is begun is begun for ever, and on the disk."""

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from dataclasses import replace

import pytest

from muster.errors import RunError
from muster.federation.protocol.message import Evaluate, TrainAssignment
from muster.federation.site import study
from muster.federation.site.study import (
    JoinedSession,
    Known,
    Rekeyed,
    Spending,
    StudyRecord,
    spending,
)
from muster.security.pki.notary import Peer
from muster.store.blobs import NoRoom

TASK = TrainAssignment("r1", 3, "a" * 64, 30.0)
ASKED = Evaluate("r1", 3, "a" * 64, 30.0, True)
DAY = "2026-01-01"


@pytest.fixture
def record(tmp_path):
    found = StudyRecord(tmp_path / "study", "default")
    yield found
    found.close()


def again(record):
    """The record in its next life."""
    record.close()
    return StudyRecord(record.folder, record.name)


def test_an_assignment_is_begun_once_whatever_is_asked(record):
    record.begin(TASK, day=DAY, secret="b" * 64)
    for other in (
        TASK,
        TrainAssignment("r1", 3, "c" * 64, 30.0),
        TrainAssignment("r1", 3, "a" * 64, 1.0, 2, 5),
    ):
        with pytest.raises(RunError, match=r"train of round 3, attempt 1, of r1 was begun before"):
            record.begin(other, day=DAY)
    for other in (
        TrainAssignment("r2", 3, "a" * 64, 30.0),
        TrainAssignment("r1", 3, "a" * 64, 30.0, attempt=2),
        ASKED,
    ):
        record.begin(other, day=DAY)
    later = again(record)
    found = later.begun(TASK)
    assert found.asked == TrainAssignment("r1", 3, "a" * 64, 0.0) and found.secret == "b" * 64
    assert (found.accepted, found.answer, found.session) == (None, None, None)
    assert later.begun(TrainAssignment("r1", 4, "a" * 64, 30.0)) is None
    later.close()


def test_a_fate_an_answer_and_a_session_are_said_once(record):
    record.begin(TASK, day=DAY)
    record.begin(ASKED, day=DAY)
    for accepted in (True, False):
        record.settle("r1", 3, 1, accepted=accepted)
    record.settle("r1", 9, 1, accepted=True)
    for loss in (1.0, 2.0):
        record.answered(ASKED, {"rows": 3.0, "loss": loss})
    for until in (10.0, 99.0):
        record.open(TASK, until)
    for steps in (2, 1):
        record.count(TASK, steps)
    later = again(record)
    assert later.begun(TASK).accepted is True
    assert later.begun(ASKED).answer == {"rows": 3.0, "loss": 1.0}
    assert later.begun(TASK).session == JoinedSession(10.0, 2, over=False)
    later.end(TASK)
    later.open(TASK, 99.0)
    assert later.begun(TASK).session == JoinedSession(10.0, 2, over=True)
    later.close()


def test_a_session_that_was_never_opened_can_be_over(record):
    record.begin(TASK, day=DAY)
    record.end(TASK)
    assert record.begun(TASK).session.over
    with pytest.raises(RunError, match="was never begun here"):
        record.open(TrainAssignment("r1", 4, "a" * 64, 30.0), 1.0)


def test_what_is_known_of_a_run_and_a_day(record):
    assert record.known("r1", DAY) == Known()
    for round, attempt, day in ((1, 1, DAY), (4, 1, "2025-12-31"), (2, 2, DAY)):
        record.begin(TrainAssignment("r1", round, "a" * 64, 30.0, attempt=attempt), day=day)
    record.begin(Evaluate("r1", 5, "a" * 64, 30.0, True, 2), day=DAY)
    record.begin(TrainAssignment("r2", 9, "a" * 64, 30.0), day=DAY)
    record.settle("r1", 4, 1, accepted=False)
    assert record.known("r1", DAY) == Known(2, 2, 5, 4, 3, 1, (3, 1))
    record.begin(TrainAssignment("r1", 4, "a" * 64, 30.0, attempt=2), day="2025-12-30")
    record.begin(TrainAssignment("r1", 4, "a" * 64, 30.0, attempt=3), day="2025-12-30")
    assert record.known("r1", DAY, 4) == Known(3, 4, 0, 4, 5, 1, (3, 1), (2, 0), (3, 0))
    assert record.known("r1", DAY, 5) == Known(3, 4, 0, 4, 5, 1, (3, 1), (2, 0), (0, 1))
    assert record.known("r3", DAY) == Known(today=(3, 1))


def test_runs_are_joined_in_order_and_a_word_is_remembered(record):
    record.join("r1", "a", word=False)
    record.join("r2", "a", word=True)
    record.join("r3", "a", word=False)
    record.join("r2", "a", word=False)
    assert record.runs() == ("r1", "r2", "r3") and record.unasked() == 1
    with pytest.raises(RunError, match=r"calls this site 1 in the run r2, .* taken part as 'a'"):
        record.join("r2", 1, word=False)
    later = again(record)
    assert later.runs() == ("r1", "r2", "r3")
    later.close()


def test_a_mark_tells_an_older_copy_and_another_record(record, tmp_path):
    name, identity, position = record.mark
    assert (name, position) == ("default", 0)
    record.join("r1", "a", word=False)
    assert record.mark == ("default", identity, 1)
    later = again(record)
    assert later.mark == ("default", identity, 1)
    later.close()
    other = StudyRecord(tmp_path / "other", "default")
    assert other.mark[1] != identity
    other.close()


def test_a_tally_goes_on_in_the_next_life(record):
    assert [record.tally("r1", "hours"), record.tally("r1", "hours")] == [1, 2]
    later = again(record)
    assert later.tally("r1", "hours") == 3 and later.tally("r2", "hours") == 1
    later.close()


def test_a_kill_loses_nothing_that_a_method_has_written(tmp_path):
    """At an instant at which nothing was closed."""
    script = (
        "import os, signal, sys\n"
        "from muster.federation.protocol.message import TrainAssignment\n"
        "from muster.federation.site.study import StudyRecord\n"
        "record = StudyRecord(sys.argv[1], 'default')\n"
        "record.join('r1', 'a', word=True)\n"
        "record.begin(TrainAssignment('r1', 3, 'a' * 64, 30.0), day='2026-01-01')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "study")], check=False)
    assert done.returncode == -9
    record = StudyRecord(tmp_path / "study", "default")
    assert record.begun(TASK) is not None and record.runs() == ("r1",)
    record.close()


def test_every_write_waits_for_the_disk(record):
    (mode,) = record._db.execute("PRAGMA synchronous").fetchone()
    assert mode == 2, "FULL"


def test_one_process_at_a_time_and_its_owner_alone(record):
    with pytest.raises(RunError, match="another process keeps the record of the study"):
        StudyRecord(record.folder, "default")
    assert stat.S_IMODE(record.folder.stat().st_mode) == 0o700
    for path in record.folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path.name


def test_threads_take_turns(record):
    """A hand counts steps while the loop talks."""
    record.begin(TASK, day=DAY)
    record.open(TASK, 1.0)

    def count():
        for number in range(50):
            record.tally("r1", "x")
            record.count(TASK, number)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert record.tally("r1", "x") == 201 and record.begun(TASK).session.steps == 49
    assert record.mark[2] == 2 + 4 * 100 + 1


def test_what_is_closed_says_so_and_does_nothing(record):
    record.close()
    record.close()
    with pytest.raises(RunError, match="could not be written"):
        record.join("r1", "a", word=False)


@pytest.mark.parametrize("damage", [b"", b"not a database at all", None])
def test_a_damaged_record_is_said(damage, tmp_path):
    """An empty file is what a power failure leaves of one that was never written."""
    folder = tmp_path / "study"
    StudyRecord(folder, "default").close()
    if damage is None:
        data = bytearray((folder / "study.db").read_bytes())
        data[40:4000] = os.urandom(3960)
        damage = bytes(data)
    (folder / "study.db").write_bytes(damage)
    if not damage:
        found = StudyRecord(folder, "default")
        assert found.runs() == ()
        found.close()
        return
    with pytest.raises(RunError, match=r"cannot be read .* restore the newest copy of it"):
        StudyRecord(folder, "default")


def test_a_newer_record_is_said_with_both_versions(record):
    record.close()
    with sqlite3.connect(record.folder / "study.db") as db:
        db.execute("PRAGMA user_version=3")
    db.close()
    with pytest.raises(RunError, match="is of version 3, but this muster knows 2"):
        StudyRecord(record.folder, "default")


def test_a_record_of_before_peers_were_kept_keeps_all_that_it_has(record):
    record.join("r1", "a", word=False)
    record.close()
    with sqlite3.connect(record.folder / "study.db") as db:
        db.executescript("DROP TABLE peers; PRAGMA user_version=1;")
    db.close()
    for _ in range(2):
        found = StudyRecord(record.folder, "default")
        assert found.runs() == ("r1",) and found.mark == record.mark
        found.close()
    found = StudyRecord(record.folder, "default")
    found.meet([LYON])
    assert found.rekeyed([LYON]) == []
    found.close()


LYON = Peer("lyon", "Inserm", "1f", "a" * 64)


def test_a_peer_is_met_by_its_key_and_every_other_one_is_seen(record):
    other, third = (replace(LYON, key=key * 64, serial=key) for key in "bc")
    assert record.rekeyed([LYON]) == []
    record.meet([LYON])
    assert record.rekeyed([replace(LYON, serial="2a", organisation="CNRS")]) == [], "its key counts"
    assert record.rekeyed([other]) == [Rekeyed(other, LYON.key, LYON.key)]
    assert record.rekeyed([other]) == [Rekeyed(other, LYON.key, LYON.key)], "until it is met"
    record.meet([other, Peer("oslo", "oslo", "3", "d" * 64)])
    assert record.rekeyed([other]) == []
    assert record.rekeyed([third]) == [Rekeyed(third, other.key, LYON.key)]
    assert record.rekeyed([LYON]) == [Rekeyed(LYON, other.key, LYON.key)], "the first one, too"


def test_a_full_disk_is_said_and_nothing_is_written(record):
    record._db.execute("PRAGMA max_page_count=1")
    with pytest.raises(NoRoom, match="make room, then try again"):
        for number in range(2000):
            record.begin(TrainAssignment("r1", 1 + number, "a" * 64, 30.0), day="x" * 500)
    record._db.execute("PRAGMA max_page_count=100000")
    before = record.mark[2]
    record.begin(TrainAssignment("r9", 1, "a" * 64, 30.0), day=DAY)
    assert record.mark[2] == before + 1


def test_a_folder_that_cannot_be_written_is_said(tmp_path, monkeypatch):
    def broken(*_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(study.os, "open", broken)
    with pytest.raises(RunError):
        StudyRecord(tmp_path / "study", "default")


def test_a_copy_of_the_folder_is_whole(record, tmp_path):
    """A backup copies it while no process has it open."""
    record.begin(TASK, day=DAY)
    record.close()
    shutil.copytree(record.folder, tmp_path / "copy")
    copy = StudyRecord(tmp_path / "copy", "default")
    assert copy.begun(TASK) is not None
    copy.close()


def test_how_long_the_ledger_is_only_grows_and_is_read_from_beside(record):
    assert (record.entries, spending(record.folder)) == (0, Spending())
    for count, known in ((2, 2), (1, 2), (5, 5)):
        record.entered(count)
        assert (record.entries, spending(record.folder).entries) == (known, known)


def test_trainings_without_a_budget_are_known_each_once(record):
    for _ in range(2):
        for place in ((1, 1), (2, 1), (2, 2)):
            record.uncounted(TrainAssignment("r", place[0], "a" * 64, 15.0, attempt=place[1]))
    record.tally("r", "declined rounds")
    expected = {("r", 1, 1), ("r", 2, 1), ("r", 2, 2)}
    found = spending(record.folder).uncounted
    assert set(found) == expected and len(found) == 3


def test_a_round_counts_as_masked_from_the_step_on_that_may_have_masked_it(record):
    asked = TrainAssignment("r", 3, "a" * 64, 15.0)
    record.begin(asked, day="")
    record.open(asked, 1.0)
    for steps, masked in ((3, False), (4, True)):
        record.count(asked, steps)
        assert record.known("r", "", 3).masked == masked
    record.end(asked)
    assert record.known("r", "", 3).masked and not record.known("r", "", 4).masked
    assert not record.known("s", "", 3).masked


def test_there_is_nothing_spent_without_a_record(tmp_path):
    assert spending(tmp_path) == Spending()
