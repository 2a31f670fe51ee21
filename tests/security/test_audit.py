# SPDX-License-Identifier: Apache-2.0
"""The audit log as it is written: no fault of the disk loses an entry, and no row gets in."""

import errno
import json
import os
from hashlib import sha256

import numpy as np
import pytest
from typer.testing import CliRunner

from muster.cli.app import app
from muster.errors import AuditError
from muster.ports import Disk
from muster.security.audit import AuditLog, entries, redacted, verify

LOG = {"purpose": "server", "id": "run-7"}


def tick():
    return 1_790_000_000.25


def opened(path, **disk):
    return AuditLog(path, tick, **LOG, disk=Disk(**disk))


@pytest.fixture
def path(tmp_path):
    """A log of a genesis and five entries."""
    with opened(tmp_path / "audit.jsonl") as log:
        for number in range(5):
            log.append("server", "commit", round=number, clients=["a", "b"])
    return log.path


def lines(path):
    return path.read_bytes().splitlines(keepends=True)


def test_reopening_goes_on(path):
    with opened(path) as log:
        assert log.anchor == (5, verify(path).head)
        assert log.append("operator", "pause") == log.anchor
    assert verify(path).entries == 7


@pytest.mark.parametrize("text", [b"", b"rounds = 3\n", b"rounds = 3", b"x" * 300_000])
def test_a_file_that_is_no_log_is_left_alone(tmp_path, text):
    path = tmp_path / "plan.toml"
    path.write_bytes(text)
    if text:
        with pytest.raises(AuditError):
            opened(path)
        assert path.read_bytes() == text
    else:
        opened(path).close()
        assert verify(path).entries == 1


def test_what_cannot_be_opened_is_said_in_a_sentence(path, tmp_path):
    with opened(path), pytest.raises(AuditError, match="in use by another process"):
        opened(path)
    with pytest.raises(AuditError, match="cannot be opened"):
        opened(tmp_path / "none" / "audit.jsonl")
    with pytest.raises(AuditError, match="cannot be read"):
        verify(tmp_path / "none")
    log = opened(path)
    log.close()
    log.close()
    with pytest.raises(AuditError, match="is closed"):
        log.append("a", "b")


def test_a_torn_end_is_kept_beside_and_told_at_every_length(path):
    whole = path.read_bytes()
    kept = b"".join(lines(path)[:-1])
    for length in range(len(kept) + 1, len(whole)):
        path.write_bytes(whole[:length])
        opened(path).close()
        *_, told = entries(path)
        torn = whole[len(kept) : length]
        digest = sha256(torn).hexdigest()
        assert (told["action"], told["sequence"]) == ("torn", 5)
        assert told["details"] == {"bytes": len(torn), "sha256": digest, "file": "audit.jsonl.torn"}
        beside = path.with_name("audit.jsonl.torn")
        assert beside.read_bytes() == torn + b"\n"
        beside.unlink()


def test_a_torn_genesis_and_zeros_after_a_power_cut(path):
    first = lines(path)[0]
    for torn in (first[:40], first[:5], b"\0" * 100, first[:-9] + b"\0" * 8 + b"\n"):
        path.write_bytes(torn)
        opened(path).close()
        assert [entry["action"] for entry in entries(path)] == ["genesis", "torn"]
    path.write_bytes(first + b"\0" * 50 + b"\n" + b"\0\0")
    opened(path).close()
    assert [entry["action"] for entry in entries(path)] == ["genesis", "torn"]
    assert path.with_name("audit.jsonl.torn").read_bytes().endswith(b"\0" * 50 + b"\n\0\0\n")


def test_a_torn_end_is_safe_beside_before_the_log_is_written_over(path):
    path.write_bytes(path.read_bytes()[:-5])
    log = os.open(path, os.O_RDONLY)
    done = []

    def which(file):
        return "log" if os.path.sameopenfile(file, log) else "torn"

    def write(file, data, at):
        done.append(("write", which(file)))
        return os.pwrite(file, data, at)

    def sync(file):
        done.append(("sync", which(file)))

    opened(path, write=write, sync=sync).close()
    assert done == [("write", "torn"), ("sync", "torn"), ("write", "log"), ("sync", "log")]
    os.close(log)


class Crash(BaseException):
    """The process dies here."""


class Faulty:
    """A disk that does its work until the `last` call, and then fails or dies half-way."""

    def __init__(self, last, error):
        self.left, self.error = last, error

    def _spend(self):
        self.left -= 1
        if self.left < 0:
            raise self.error

    def write(self, file, data, at):
        try:
            self._spend()
        except BaseException:
            if self.left == -1:
                os.pwrite(file, data[: len(data) // 2], at)
            raise
        return os.pwrite(file, data[: max(1, len(data) - 7)], at)  # and short writes

    def sync(self, file):
        self._spend()

    def truncate(self, file, size):
        self._spend()
        os.ftruncate(file, size)


@pytest.mark.parametrize("torn", [b"", b'{"sequence":6,"ti' * 40])
@pytest.mark.parametrize("last", range(16))
def test_a_death_at_any_call_loses_no_acknowledged_entry(path, last, torn):
    before = len(lines(path))
    with path.open("ab") as file:
        file.write(torn)
    faulty, done = Faulty(last, Crash()), 0
    log = None
    try:
        log = opened(path, write=faulty.write, sync=faulty.sync, truncate=faulty.truncate)
        for _ in range(3):
            log.append("server", "commit", number=done)
            done += 1
    except Crash:
        pass
    if log is not None:
        log.close()
    opened(path).close()
    assert verify(path).entries >= before + done
    found = list(entries(path))
    kept = [entry["details"]["number"] for entry in found if "number" in entry["details"]]
    assert kept[:done] == list(range(done)) and len(kept) <= done + 1
    if torn:
        assert "torn" in [entry["action"] for entry in found]
        assert torn in path.with_name("audit.jsonl.torn").read_bytes()


def test_a_full_disk_takes_back_half_an_entry_and_goes_on(path):
    full = OSError(errno.ENOSPC, "No space left on device")
    before = path.read_bytes()

    def write(file, data, at):
        if full in faults:
            os.pwrite(file, data[:10], at)
            raise full
        return os.pwrite(file, data, at)

    faults = []
    with opened(path, write=write) as log:
        faults.append(full)
        with pytest.raises(AuditError, match="No space left"):
            log.append("server", "commit")
        assert path.read_bytes() == before
        faults.clear()
        log.append("server", "commit")
    assert verify(path).entries == 7


def test_after_a_failed_sync_nothing_is_added_until_it_is_opened_again(path):
    def sync(file):
        raise OSError(errno.EIO, "Input/output error")

    with opened(path, sync=sync) as log:
        with pytest.raises(AuditError, match="not on the disk"):
            log.append("server", "commit")
        with pytest.raises(AuditError, match="unknown fate; open it again"):
            log.append("server", "commit")
    opened(path).close()
    assert verify(path).entries == 7


def test_a_disk_that_writes_nothing_or_cannot_take_back(path):
    with opened(path, write=lambda *_: 0) as log, pytest.raises(AuditError, match="wrote 0"):
        log.append("a", "b")
    path.write_bytes(path.read_bytes() + b'{"seq')
    with pytest.raises(AuditError, match=r"torn end .* could not be kept"):
        opened(path, write=lambda *_: 0)
    assert path.read_bytes().endswith(b'{"seq')


NOT_KEPT = [
    b"row",
    bytearray(b"row"),
    memoryview(b"row"),
    np.zeros(3),
    np.float32(1),
    np.int64(1),
    "x" * 2001,
    "é" * 1001,
    [0.1, 0.2],
    [1, 0.5],
    float("nan"),
    float("inf"),
    1 << 63,
    {1: 2},
    {"x" * 257: 1},
    [[[[[1]]]]],
    list(range(10_001)),
    {1, 2},
    object(),
    1j,
]


@pytest.mark.parametrize("value", NOT_KEPT, ids=lambda value: type(value).__name__)
def test_what_could_hold_a_row_is_refused(path, value):
    with pytest.raises(AuditError, match=r"details\.a\.b.* is a "):
        redacted({"a": {"b": value}})
    with opened(path) as log, pytest.raises(AuditError, match=r"details\.found"):
        log.append("a", "b", found=value)
    assert verify(path).entries == 6


def test_what_may_be_kept_is_plain_json():
    kept = {"a": "é" * 1000, "b": [1, "x", None, True], "c": {"d": 0.5}, "e": np.float64(0.25)}
    found = redacted(kept | {"f": ("x",), "actor": "me"})
    assert found == kept | {"f": ["x"], "actor": "me"}
    assert type(found["e"]) is float


def test_an_entry_too_long_or_by_nobody_is_refused(path):
    with opened(path) as log:
        with pytest.raises(AuditError, match="has at most 65536"):
            log.append("a", "b", ids=list(range(9_999, 19_998)), more=list(range(9_999, 19_998)))
        for actor in ("", "a\nb", "x" * 257, 3):
            with pytest.raises(AuditError, match="printable text"):
                log.append(actor, "b")
        log.append("a", "b", actor="c", text="\ud800 \n 日本")
    assert verify(path).entries == 7


def shell(*words, code=0):
    result = CliRunner().invoke(app, ["audit", *map(str, words)])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result.stderr if code else result.stdout


def test_the_command_verifies(path):
    found = verify(path)
    assert f"6 entries of server run-7, none changed\n  head 5:{found.head}" in shell(
        "verify", path
    )
    assert json.loads(shell("verify", path, "--json")) == {"path": str(path)} | found._asdict()
    for head in (found.head, f"5:{found.head}"):
        assert "note the head" not in shell("verify", path, "--head", head)
    assert "is no head" in shell("verify", path, "--head", "zz", code=1)
    path.write_bytes(b"".join(lines(path)[:-1]))
    assert "end was cut" in shell("verify", path, "--head", found.head, code=1)
    path.write_bytes(path.read_bytes().replace(b'"round":2', b'"round":7'))
    assert "line 4 was edited" in shell("verify", path, code=1)
    assert "cannot be read" in shell("verify", "none", code=1)


def test_the_command_shows_what_stands_before_a_bad_line(path):
    with opened(path) as log:
        log.append("[red]eve[/]", "stop", why="\x1b[2J")
    shown = shell("show", path, "--last", 2).splitlines()
    assert len(shown) == 2 and shown[1].endswith('[red]eve[/]  stop  {"why": "\\u001b[2J"}')
    asked = [json.loads(line) for line in shell("show", path, "--json").splitlines()]
    assert asked == list(entries(path))
    path.write_bytes(path.read_bytes().replace(b'"round":2', b'"round":7'))
    result = CliRunner().invoke(app, ["audit", "show", str(path)])
    assert result.exit_code == 1 and "line 4 was edited" in result.stderr
    assert len(result.stdout.splitlines()) == 3
