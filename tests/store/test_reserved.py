# SPDX-License-Identifier: Apache-2.0
"""Blobs that leave room: the last bytes of a disk are not theirs, and halves make way."""

import pytest

from muster.store.blobs import Files, NoRoom, update_name
from muster.store.reserved import Reserved, drop_halves


class Small(Files):
    """A disk with so much room."""

    free = 10

    def room(self):
        return self.free


def test_what_is_kept_is_taken_by_nobody(tmp_path):
    disk = Small(tmp_path)
    blobs = Reserved(disk, 7)
    assert blobs.room() == 3 and blobs.append("a", 0, b"abc") == 3
    with pytest.raises(NoRoom, match="the last 7 bytes of the disk are kept"):
        blobs.append("a", 3, b"abcd")
    assert blobs.held("a") == 3 and blobs.append("a", 3, b"") == 3
    disk.free = 6
    assert blobs.room() == 0 and disk.append("a", 3, b"d") == 4  # who commits may
    blobs.finish("a")
    assert (blobs.size("a"), bytes(blobs.whole("a")), b"".join(blobs.read("a", 1))) == (
        4,
        b"abcd",
        b"bcd",
    )
    assert blobs.names("") == ["a"]
    blobs.erase("a")
    blobs.drop("a")
    assert disk.names("") == []


def test_halves_of_one_client_and_round_make_way_for_the_newest(tmp_path):
    blobs, whole, newest, other, later = (
        Files(tmp_path),
        *(
            update_name(round, client, digit * 64, "masked")
            for round, client, digit in ((1, "a", "1"), (1, "a", "2"), (1, "b", "1"), (2, "a", "1"))
        ),
    )
    halves = [update_name(1, "a", digit * 64, "masked") for digit in "789"]
    for name in (whole, newest, other, later, *halves):
        blobs.append(name, 0, b"half")
    blobs.finish(whole)
    drop_halves(blobs, newest)
    assert set(blobs.names("")) == {whole, newest, other, later}
