# SPDX-License-Identifier: Apache-2.0
"""Blobs grow, are finished once, go on where they broke off, and are found out when damaged."""

import errno
import fcntl
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256

import pytest

from muster.errors import RunError
from muster.ports import Disk
from muster.store.blobs import Files, NoRoom, model_name, update_name, update_round

DATA = bytes(range(256)) * 10_000
NAME = model_name(sha256(DATA).hexdigest())


@pytest.fixture(params=["files", "rows"])
def blobs(request, tmp_path):
    if request.param == "files":
        return Files(tmp_path / "blobs")
    return request.getfixturevalue("shared")().blobs


def fill(blobs, name=NAME, data=DATA):
    end = 0
    for begin in range(0, len(data), 700_000):
        end = blobs.append(name, end, memoryview(data)[begin : begin + 700_000])
    blobs.finish(name)


def test_a_blob_from_its_first_byte_to_its_end(blobs):
    assert (blobs.size(NAME), blobs.held(NAME), blobs.names("")) == (None, 0, [])
    assert blobs.append(NAME, 0, DATA[:10]) == 10
    assert (blobs.size(NAME), blobs.held(NAME), blobs.names("model-")) == (None, 10, [NAME])
    assert b"".join(blobs.read(NAME)) == DATA[:10]
    assert blobs.append(NAME, 10, DATA[10:]) == len(DATA)
    blobs.finish(NAME)
    blobs.finish(NAME)
    assert (blobs.size(NAME), blobs.held(NAME), blobs.names("m")) == (len(DATA), 0, [NAME])
    assert bytes(blobs.whole(NAME)) == DATA
    assert blobs.names("update-") == []
    assert blobs.room() > 0
    blobs.drop(NAME)
    blobs.drop(NAME)
    assert (blobs.size(NAME), blobs.names("")) == (None, [])


def test_any_part_of_it_in_small_pieces(blobs):
    fill(blobs)
    pieces = list(blobs.read(NAME))
    assert b"".join(pieces) == DATA and max(map(len, pieces)) <= 1 << 20
    for begin, end in ((0, 0), (5, 9), (699_999, 700_001), (1_000_000, None), (9, 1 << 40)):
        assert b"".join(blobs.read(NAME, begin, end)) == DATA[begin:end]
    assert list(blobs.read(NAME, len(DATA))) == []


def test_an_empty_blob(blobs):
    blobs.append("empty", 0, b"")
    assert blobs.held("empty") == 0
    blobs.finish("empty")
    assert blobs.size("empty") == 0
    assert bytes(blobs.whole("empty")) == b""


def test_a_wrong_offset_is_refused_and_the_right_one_said(blobs):
    blobs.append(NAME, 0, b"abc")
    for offset in (0, 2, 4):
        with pytest.raises(RunError, match=f"bytes from {offset} on .* holds 3; go on from 3"):
            blobs.append(NAME, offset, b"x")
    blobs.finish(NAME)
    for offset in (0, 3):
        with pytest.raises(RunError, match="holds 3"):
            blobs.append(NAME, offset, b"x")
    with pytest.raises(RunError, match=r"bytes from 3 on .* holds 0; go on from 0"):
        blobs.append("other", 3, b"x")


def test_two_that_send_the_same_blob(blobs):
    gate = threading.Barrier(4)

    def send(_):
        gate.wait()
        try:
            return blobs.append(NAME, 0, DATA[:1000])
        except RunError:
            return None

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(send, range(4)), key=str) == [1000, None, None, None]
    assert b"".join(blobs.read(NAME)) == DATA[:1000]


def test_one_writes_at_a_time(tmp_path):
    def write(file, data, at):
        with open(tmp_path / f"{NAME}.part") as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.pwrite(file, data, at)

    assert Files(tmp_path, Disk(write=write)).append(NAME, 0, b"abc") == 3


def test_what_is_not_there(blobs):
    for ask in (blobs.finish, blobs.whole):
        with pytest.raises(RunError, match="model-"):
            ask(NAME)
    assert blobs.names("%") == []


def test_one_bit_is_found(blobs):
    bad = bytearray(DATA)
    bad[1234] ^= 1
    for name in (NAME, update_name(2, "a", sha256(DATA).hexdigest())):
        fill(blobs, name, bytes(bad))
        with pytest.raises(RunError, match=f"the blob {name} in .* is damaged"):
            blobs.whole(name)


def test_names_say_what_they_are():
    name = update_name(7, "a/../b", "0" * 64)
    assert (update_round(name), update_round(NAME), update_round("update-x")) == (7, None, None)
    assert "/" not in name
    assert update_name(7, 1, "0" * 64) != update_name(7, "1", "0" * 64)
    assert update_round(update_name(1234567, 1, "0" * 64)) == 1234567


def test_a_name_is_no_path(tmp_path):
    blobs = Files(tmp_path)
    for name in ("", "../x", "a/b", ".hidden", "a\n", "a.part", "x" * 300):
        with pytest.raises(RunError, match="names no blob"):
            blobs.append(name, 0, b"x")
    assert not list(tmp_path.iterdir())


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_takes_nothing_and_forgets_nothing(tmp_path):
    room = [10]

    def write(file, data, at):
        if not room[0]:
            full()
        done = os.pwrite(file, data[: room[0]], at)
        room[0] -= done
        return done

    blobs = Files(tmp_path, Disk(write=write))
    assert blobs.append(NAME, 0, DATA[:6]) == 6
    with pytest.raises(NoRoom, match=r"\(No space left on device\); make room"):
        blobs.append(NAME, 6, DATA[6:20])
    assert blobs.held(NAME) == 6
    room[0] = 1 << 30
    assert blobs.append(NAME, 6, DATA[6:]) == len(DATA)
    blobs.finish(NAME)
    assert bytes(blobs.whole(NAME)) == DATA


def test_a_disk_that_writes_nothing(tmp_path):
    with pytest.raises(NoRoom):
        Files(tmp_path, Disk(write=lambda *_: 0)).append(NAME, 0, b"x")


def test_a_blob_whose_sync_failed_is_sent_again(tmp_path):
    Files(tmp_path).append(NAME, 0, DATA)
    with pytest.raises(NoRoom):
        Files(tmp_path, Disk(sync=full)).finish(NAME)
    assert (Files(tmp_path).size(NAME), Files(tmp_path).held(NAME)) == (None, 0)


def test_a_blob_that_cannot_get_its_name_gets_it_later(tmp_path):
    Files(tmp_path).append(NAME, 0, DATA)
    with pytest.raises(NoRoom):
        Files(tmp_path, Disk(replace=full)).finish(NAME)
    assert Files(tmp_path).size(NAME) is None
    Files(tmp_path).finish(NAME)
    assert bytes(Files(tmp_path).whole(NAME)) == DATA


def test_a_blob_is_on_the_disk_before_it_has_its_name(tmp_path):
    done = []
    disk = Disk(
        sync=lambda file: done.append(os.fstat(file).st_ino),
        replace=lambda old, new: (done.append(new.name), os.replace(old, new)),
    )
    blobs = Files(tmp_path / "new", disk)
    blobs.append(NAME, 0, DATA)
    blobs.finish(NAME)
    blobs.finish(NAME)  # the first may have died before the last step
    parent, folder, blob = (
        path.stat().st_ino for path in (tmp_path, tmp_path / "new", tmp_path / "new" / NAME)
    )
    assert done == [parent, blob, NAME, folder, folder]


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot be made"):
        Files(tmp_path / "file" / "folder")


def test_another_error_of_the_disk(tmp_path):
    blobs = Files(tmp_path)
    (tmp_path / NAME).mkdir()
    with pytest.raises(RunError, match=r"could not be removed .* repair the disk"):
        blobs.drop(NAME)


def test_an_erased_blob_is_gone_and_its_bytes_with_it(blobs, tmp_path):
    fill(blobs)
    blobs.append("half", 0, b"half of it")
    seen = tmp_path / "seen"
    if isinstance(blobs, Files):
        os.link(blobs.folder / NAME, seen)
    for _ in range(2):
        blobs.erase(NAME)
        blobs.erase("half")
    assert blobs.names("") == []
    assert not seen.exists() or seen.read_bytes() == bytes(len(DATA))
