# SPDX-License-Identifier: Apache-2.0
"""Arrays in a map of a file: read a part at a time, with the same numbers and without the pages."""

import mmap
from pathlib import Path

import numpy as np
import pytest

from muster import mapped

SIZE = 8 << 20  # numbers: 32 MB


@pytest.fixture(params=[mmap.ACCESS_READ, mmap.ACCESS_COPY], ids=["shared", "private"])
def array(request, tmp_path):
    """A vector that lies in a map, not at the beginning of a page, and what it holds."""
    numbers = np.random.default_rng(0).standard_normal(SIZE, np.float32)
    path = tmp_path / "file"
    path.write_bytes(bytes(72) + numbers.tobytes())
    with open(path, "rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=request.param)
    return np.frombuffer(memoryview(data).toreadonly().cast("B"), np.float32, SIZE, 72), numbers


def pages():
    """The bytes of files that this process has in memory now."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssFile"))


def test_pages_that_are_forgotten_are_gone_and_come_again(array):
    found, numbers = array
    before = pages()
    assert np.array_equal(found, numbers)
    assert pages() - before > 0.9 * found.nbytes
    mapped.forget(found)
    assert pages() - before < 0.1 * found.nbytes
    assert np.array_equal(found, numbers)


def test_a_copy_and_a_sum_leave_hardly_a_page_and_have_the_same_bits(array):
    found, numbers = array
    before = pages()
    copy = mapped.own(found)
    total = mapped.add(copy.copy(), found)
    assert pages() - before < 0.3 * found.nbytes
    assert copy.tobytes() == numbers.tobytes()
    assert total.tobytes() == (numbers + numbers).tobytes()
    assert copy.flags.writeable and copy.ctypes.data % 64 == 0


def test_an_array_in_no_file_is_left_alone():
    for found in (np.arange(3.0), np.zeros(0), np.float32(2).reshape(()), np.ones((2, 2))[:, 1]):
        before = found.tobytes()
        mapped.forget(found)
        assert found.tobytes() == mapped.own(found).tobytes() == before
