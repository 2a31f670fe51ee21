# SPDX-License-Identifier: Apache-2.0
"""A blob is written as a safetensors file, bit for bit what was given."""

import numpy as np
import pytest
from safetensors.numpy import load_file
from tests.chaos.scene import bits

from muster.store.blob import checksum, erased, plain, write_file

ARRAYS = {
    "x": np.linspace(0, 1, 7, dtype="float32"),
    "wide": np.arange(6.0).reshape(2, 3).T,
    "one": np.array(3),
    "none": np.zeros((0, 2), "float16"),
    "flags": np.array([True, False]),
    "bytes": np.arange(3, dtype="uint8"),
    "nan": np.array([np.nan, -0.0, np.inf]),
    "ü": np.array([-1], "int8"),
}


def test_the_library_reads_what_is_written(tmp_path):
    arrays = plain(ARRAYS)
    write_file(arrays, tmp_path / "a.safetensors")
    found = load_file(tmp_path / "a.safetensors")
    assert bits(found) == bits(arrays)
    assert checksum(found) == checksum(arrays)


@pytest.mark.parametrize("name", ["x", "one", "flags", "nan"])
def test_one_bit_changes_the_checksum(name):
    arrays = plain(ARRAYS)
    changed = arrays | {name: arrays[name].copy()}
    changed[name].reshape(-1).view("uint8")[0] ^= 1
    assert checksum(changed) != checksum(arrays)
    assert checksum({**arrays, f"{name}2": arrays[name]}) != checksum(arrays)


def test_nothing_is_written_beside_it(tmp_path):
    write_file(plain(ARRAYS), tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_an_erased_file_is_written_over_first(tmp_path):
    file, other = tmp_path / "a", tmp_path / "b"
    data = bytes(range(256)) * 9000
    file.write_bytes(data)
    other.hardlink_to(file)
    erased(file)
    erased(file)
    assert not file.exists()
    assert other.read_bytes() == bytes(len(data))
