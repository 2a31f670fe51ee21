# SPDX-License-Identifier: Apache-2.0
"""The audit log as it is checked: every change is found, and the first bad line is named."""

import json
import tracemalloc
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.errors import AuditError
from muster.ports import Disk
from muster.security import chain
from muster.security.audit import AuditLog, entries, verify

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


def rewritten(path, changed):
    path.write_bytes(b"".join(changed))


def forged(line, **changes):
    """A line with other fields and a hash that fits them."""
    entry = json.loads(line) | changes
    return chain.written(tuple(entry[field] for field in chain.FIELDS))


def test_a_log_is_lines_of_json_that_a_shell_can_check(path):
    found = [json.loads(line) for line in lines(path)]
    assert [entry["sequence"] for entry in found] == list(range(6))
    assert found[0]["action"] == "genesis" and found[0]["details"] == LOG
    assert found[3] == {
        "sequence": 3,
        "time": "2026-09-21T14:13:20.250+00:00",
        "actor": "server",
        "action": "commit",
        "details": {"round": 2, "clients": ["a", "b"]},
        "previous": sha256(lines(path)[2]).hexdigest(),
        "hash": found[3]["hash"],
    }
    head = sha256(lines(path)[-1]).hexdigest()
    assert verify(path) == (6, head, "server", "run-7")
    assert list(entries(path)) == found


def edited(text):
    return [*text[:2], text[2].replace(b'"round":1', b'"round":9'), *text[3:]]


TAMPERED = {
    "edited": (edited, 3, "edited"),
    "edited, hash renewed": (lambda t: [*t[:2], forged(t[2], actor="eve"), *t[3:]], 4, "follow"),
    "space added": (lambda t: [*t[:2], t[2].replace(b",", b", ", 1), *t[3:]], 3, "edited"),
    "field added": (lambda t: [*t[:2], b'{"x":1,' + t[2][1:], *t[3:]], 3, "edited"),
    "not JSON": (lambda t: [*t[:2], b"hello\n", *t[3:]], 3, "edited"),
    "deep JSON": (lambda t: [*t[:2], b"[" * 60_000 + b"\n", *t[3:]], 3, "edited"),
    "a number": (lambda t: [*t[:2], b"1\n", *t[3:]], 3, "edited"),
    "too long": (lambda t: [*t[:2], b" " * 70_000 + b"\n", *t[3:]], 3, "edited"),
    "true for 1": (lambda t: [t[0], forged(t[1], sequence=True), *t[2:]], 2, "edited"),
    "removed": (lambda t: [*t[:2], *t[3:]], 3, "removed"),
    "first removed": (lambda t: t[1:], 1, "genesis"),
    "inserted": (lambda t: [*t[:2], forged(t[2], actor="eve"), *t[2:]], 4, "inserted"),
    "repeated": (lambda t: [*t[:3], *t[2:]], 4, "inserted or repeated"),
    "reordered": (lambda t: [*t[:2], t[3], t[2], *t[4:]], 3, "another order"),
    "torn": (lambda t: [*t[:-1], t[-1][:-1]], 6, "unfinished"),
    "emptied": (lambda t: [], 1, "empty"),
    "genesis edited": (lambda t: [t[0].replace(b"run-7", b"run-8"), *t[1:]], 1, "edited"),
    "genesis forged": (
        lambda t: [forged(t[0], details={"purpose": "server", "id": "run-8"}), *t[1:]],
        1,
        "not the genesis",
    ),
    "genesis of another action": (
        lambda t: [forged(t[0], action="commit"), *t[1:]],
        1,
        "not the genesis",
    ),
    "genesis of nothing": (lambda t: [forged(t[0], details=[]), *t[1:]], 1, "not the genesis"),
}


@pytest.mark.parametrize(("change", "line", "why"), TAMPERED.values(), ids=TAMPERED)
def test_the_first_bad_line_is_named(path, change, line, why):
    rewritten(path, change(lines(path)))
    with pytest.raises(AuditError, match=why) as caught:
        verify(path)
    assert caught.value.line == line
    assert why == "empty" or f"line {line}" in str(caught.value)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 7))
def test_no_flipped_bit_is_missed(tmp_path_factory, place, bit):
    path = tmp_path_factory.mktemp("log") / "audit.jsonl"
    with opened(path, sync=int) as log:
        log.append("a", "b", c="d" * 20)
    data = bytearray(path.read_bytes())
    place %= len(data)
    data[place] ^= 1 << bit
    path.write_bytes(data)
    with pytest.raises(AuditError) as caught:
        verify(path)
    assert caught.value.line in (1, 2)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_log_that_is_not_what_was_written_does_not_verify(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("log") / "audit.jsonl"
    with opened(path, sync=int) as log:
        for number in range(6):
            log.append("a", "b", n=number)
    text = lines(path)
    picked = data.draw(st.lists(st.sampled_from(range(7)), min_size=1, max_size=9))
    rewritten(path, [text[k] for k in picked])
    if picked == list(range(len(picked))):  # only the end was cut: an anchor finds that
        assert verify(path).entries == len(picked)
        if len(picked) < 7:
            with pytest.raises(AuditError, match="end was cut"):
                verify(path, log.anchor)
    else:
        with pytest.raises(AuditError):
            verify(path)


def test_an_anchor_finds_a_cut_end_and_a_new_log(path):
    with opened(path) as log:
        noted = log.anchor
        log.append("server", "stop")
    assert verify(path, noted).entries == 7
    assert verify(path, (None, noted.head.upper())).entries == 7
    rewritten(path, lines(path)[:5])
    for expect in (noted, (None, noted.head)):
        with pytest.raises(AuditError, match=r"ends at entry 4 .* end was cut") as caught:
            verify(path, expect)
        assert caught.value.line == 6
    path.unlink()
    with opened(path) as log:
        for _ in range(5):
            log.append("eve", "commit")
    with pytest.raises(AuditError, match=r"line 6 is not the one .* written anew"):
        verify(path, noted)


def test_a_log_of_something_else_is_refused(path):
    assert verify(path, log=("server", "run-7")).purpose == "server"
    with pytest.raises(AuditError, match="of server 'run-7', not of site 'run-7'"):
        verify(path, log=("site", "run-7"))
    with pytest.raises(AuditError, match="not of server 'run-8'"):
        AuditLog(path, tick, purpose="server", id="run-8")


def test_a_long_log_is_read_in_constant_memory(tmp_path):
    with opened(tmp_path / "audit.jsonl", sync=int) as log:
        for number in range(3000):
            log.append("server", "commit", round=number, clients=["client"] * 20)
    tracemalloc.start()
    found = verify(log.path, log.anchor)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.entries == 3001
    assert peak < 200_000 < log.path.stat().st_size
