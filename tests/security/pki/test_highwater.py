# SPDX-License-Identifier: Apache-2.0
"""Lists that a folder has seen it never un-sees: by hand, bundle, server, after kills, at once."""

import builtins
import json
import os
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

pytest.importorskip("cryptography")

from muster.errors import IdentityError
from muster.security.pki import highwater
from muster.security.pki.certificate import new_authority
from muster.security.pki.highwater import Revocations, seen, standing, store
from muster.security.pki.revocation import Revoked, sign_list

NOW = datetime(2026, 5, 4, tzinfo=UTC)
AUTHORITY = new_authority("Heart study", NOW)
LISTS = [
    sign_list(AUTHORITY, [Revoked(100 + k, "left", NOW + timedelta(k)) for k in range(n)], n)
    for n in range(6)
]
OTHER = sign_list(AUTHORITY, [Revoked(7, "left", NOW)], 3)  # of a number that is taken
FOREIGN = sign_list(new_authority("Heart study", NOW), [], 99)


@pytest.fixture
def home(tmp_path):
    """The folder of a member that has seen list 3."""
    (tmp_path / "authority.pem").write_bytes(AUTHORITY.certificate)
    store(tmp_path, LISTS[3], AUTHORITY.certificate)
    return tmp_path


def lay(home, listed):
    (home / "revoked.pem").write_bytes(listed if isinstance(listed, bytes) else listed.pem)


def test_a_newer_list_is_kept_from_anywhere(home):
    known = Revocations(home)
    assert known.current == LISTS[3] and not known.look()
    lay(home, LISTS[4])  # by hand
    assert known.look() and known.current == LISTS[4] and seen(home) == LISTS[4].mark
    assert known.take(LISTS[5].pem) and known.current == LISTS[5]  # from elsewhere
    assert (home / "revoked.pem").read_bytes() == LISTS[5].pem
    assert Revocations(home).current == LISTS[5]


def test_an_older_list_that_comes_from_elsewhere_is_left_alone(home):
    known = Revocations(home)
    for older in LISTS[:4]:
        assert not known.take(older.pem)
    assert known.current == LISTS[3] == Revocations(home).current


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (LISTS[2], r"number 2, and number 3 is known here.*copy the authority's newest"),
        (OTHER, "two lists have the number 3"),
        (FOREIGN, r"not signed by this authority.*number 3 was known here.*copy the authority's"),
        (LISTS[3].pem[:300], r"cannot be read.*number 3 was known here.*copy the authority's"),
        (b"", r"cannot be read.*number 3 was known here"),
        (None, r"No such file.*number 3 was known here"),
    ],
)
def test_what_lies_there_is_refused_at_every_look_and_the_newest_goes_on_holding(home, bad, told):
    known = Revocations(home)
    lay(home, bad or b"")
    if bad is None:
        (home / "revoked.pem").unlink()
    for _ in range(3):
        with pytest.raises(IdentityError, match=told):
            known.look()
        assert known.current == LISTS[3]
    with pytest.raises(IdentityError, match=told):  # after a restart
        Revocations(home)
    assert seen(home) == LISTS[3].mark
    lay(home, LISTS[4])  # the remedy
    assert known.look() and Revocations(home).current == LISTS[4]


@pytest.mark.parametrize("bad", [LISTS[2], OTHER, FOREIGN, b""])
def test_a_list_that_is_new_enough_mends_what_lies_there_and_an_older_one_does_not(home, bad):
    known = Revocations(home)
    lay(home, bad)
    with pytest.raises(IdentityError):
        known.take(LISTS[2].pem)
    with pytest.raises(IdentityError, match="two lists have the number 3"):
        known.take(OTHER.pem)
    assert not known.take(LISTS[3].pem)  # nothing new, but whole again
    assert Revocations(home).current == LISTS[3]


def test_a_server_with_an_older_list_is_refused_and_one_with_a_newer_one_is_learned_from(home):
    known = Revocations(home)
    with pytest.raises(IdentityError, match=r"server's.* number 2, and this site knows number 3"):
        known.heard(LISTS[2].pem)
    with pytest.raises(IdentityError, match="two lists have the number 3"):
        known.heard(OTHER.pem)
    for bad in (FOREIGN.pem, b"", b"\xff"):
        with pytest.raises(IdentityError):
            known.heard(bad)
    assert known.current == LISTS[3] and not known.heard(LISTS[3].pem)
    assert known.heard(LISTS[5].pem) and Revocations(home).current == LISTS[5]


def test_a_list_that_just_came_by_hand_counts_against_a_server_at_once(home):
    known = Revocations(home)
    lay(home, LISTS[5])
    with pytest.raises(IdentityError, match=r"server's.* number 4, and this site knows number 5"):
        known.heard(LISTS[4].pem)
    lay(home, LISTS[1])  # and one that was put back does not help it
    with pytest.raises(IdentityError, match=r"server's.* number 4, and this site knows number 5"):
        known.heard(LISTS[4].pem)


def test_a_process_that_runs_is_not_deceived_by_both_files_put_back_at_once(home):
    copies = {name: (home / name).read_bytes() for name in ("revoked.pem", "revoked.seen")}
    known = Revocations(home)
    known.take(LISTS[5].pem)
    for name, data in copies.items():
        (home / name).write_bytes(data)
    with pytest.raises(IdentityError, match="number 3, and number 5 is known here"):
        known.look()
    with pytest.raises(IdentityError, match="number 3, and number 5 is known here"):
        known.take(LISTS[4].pem)  # newer than what lies there, and older than what is known
    assert known.current == LISTS[5] and seen(home) == LISTS[3].mark
    assert not known.take(LISTS[5].pem) and Revocations(home).current == LISTS[5]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "7",
        '{"format": 1}',
        '{"format": 2, "number": 3, "sha256": "x"}',
        '{"format": 1, "number": true, "sha256": "x"}',
        '{"format": 1, "number": 3, "sha256": 3}',
        "[" * 100_000,
    ],
)
def test_a_number_that_cannot_be_read_is_not_none(home, text):
    (home / "revoked.seen").write_text(text)
    with pytest.raises(IdentityError, match=r"revoked.seen is damaged.*newest one there, and then"):
        Revocations(home)
    (home / "revoked.seen").unlink()
    assert Revocations(home).current == LISTS[3]


def test_a_folder_of_before_notes_the_number_at_the_first_look(home):
    (home / "revoked.seen").unlink()
    Revocations(home)
    assert seen(home) == LISTS[3].mark
    assert json.loads((home / "revoked.seen").read_text())["number"] == 3


def test_a_folder_without_a_list_has_none(tmp_path):
    (tmp_path / "authority.pem").write_bytes(AUTHORITY.certificate)
    with pytest.raises(IdentityError, match=r"revoked.pem: No such file"):
        Revocations(tmp_path)


def test_a_kill_while_a_list_is_kept_leaves_the_old_one_or_the_new(home, monkeypatch):
    real = highwater.write
    for step in range(2):
        steps = iter(range(3))

        def write(*words, steps=steps, step=step):
            if next(steps) == step:
                raise KeyboardInterrupt
            real(*words)

        monkeypatch.setattr(highwater, "write", write)
        with pytest.raises(KeyboardInterrupt):
            store(home, LISTS[4 + step], AUTHORITY.certificate)
        monkeypatch.setattr(highwater, "write", real)
        found = Revocations(home).current
        assert found == (LISTS[3] if step == 0 else LISTS[5])
        assert seen(home) == found.mark


def test_no_file_is_read_where_nothing_has_changed(home, monkeypatch):
    known = Revocations(home)
    known.look()
    opened = []

    def note(path, *_words, **_more):
        opened.append(path)
        raise AssertionError(path)

    monkeypatch.setattr(Path, "open", note)
    monkeypatch.setattr(builtins, "open", note)
    for _ in range(100):
        known.look()
        assert known.current.serials
    assert opened == []


def test_a_list_of_the_same_size_and_time_is_seen_to_have_changed(home):
    known, place = Revocations(home), home / "revoked.pem"
    kept = place.stat()
    twin = sign_list(AUTHORITY, [Revoked(one.serial, "left", NOW) for one in LISTS[3].revoked], 3)
    for _ in range(500):
        if len(twin.pem) == len(LISTS[3].pem):
            break
        twin = sign_list(
            AUTHORITY, [Revoked(one.serial, "left", NOW) for one in LISTS[3].revoked], 3
        )
    with place.open("r+b") as file:  # the same inode
        file.write(twin.pem)
    os.utime(place, ns=(kept.st_atime_ns, kept.st_mtime_ns))
    assert (place.stat().st_size, place.stat().st_mtime_ns) == (kept.st_size, kept.st_mtime_ns)
    with pytest.raises(IdentityError, match="two lists"):
        known.look()


def test_many_threads_and_processes_end_with_the_highest_number(home):
    """Each with memory of its own, as processes have, over one folder."""
    faults, gate = [], threading.Barrier(6)

    def act(place):
        try:
            known = Revocations(home)
            gate.wait()
            for turn in range(10):
                known.take(LISTS[(place + turn) % 6].pem)
                known.look()
                assert known.current.number >= 3
        except BaseException as error:
            faults.append(error)

    crowd = [threading.Thread(target=act, args=(place,)) for place in range(6)]
    for one in crowd:
        one.start()
    for one in crowd:
        one.join()
    assert faults == []
    assert Revocations(home).current == LISTS[5] and seen(home) == LISTS[5].mark


def test_one_object_is_shared_by_threads(home):
    known, faults = Revocations(home), []

    def act(place):
        try:
            for turn in range(20):
                known.take(LISTS[(place + turn) % 6].pem)
                found = known.current
                assert len(found.serials) == found.number >= 3
        except BaseException as error:
            faults.append(error)

    crowd = [threading.Thread(target=act, args=(place,)) for place in range(4)]
    for one in crowd:
        one.start()
    for one in crowd:
        one.join()
    assert faults == [] and known.current == LISTS[5]


def test_a_folder_that_cannot_be_written_says_so(home, monkeypatch):
    def refuse(path, *_words):
        raise IdentityError(f"{path}: Read-only file system")

    monkeypatch.setattr(highwater, "write", refuse)
    lay(home, LISTS[4])
    with pytest.raises(IdentityError, match=r"revoked.seen: Read-only file system"):
        Revocations(home)
    assert standing(home, AUTHORITY.certificate) == LISTS[4]
