# SPDX-License-Identifier: Apache-2.0
"""A state as it is written: contiguous arrays, a safetensors file, and its checksum.

The file is written here and not by the library, whose own temporary files a death in the middle
would leave behind, and whose bytes would lie in memory a second time.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import numpy as np

from muster import tree_codec
from muster.mapped import own
from muster.tree_codec import CHUNK, octets

__all__ = ["checksum", "erased", "plain", "read_file", "write_file"]

SPACED = (", ", ": ")  # of the JSON header


def plain(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arrays as contiguous NumPy ones; nothing is copied that is so already.

    >>> plain({"a": 1.5})["a"].shape
    ()
    """
    return {name: np.asarray(array, order="C") for name, array in arrays.items()}


def write_file(arrays: Mapping[str, Any], path: Path) -> None:
    """Write arrays as a safetensors file, the widest dtypes first, so that all are aligned."""
    with open(path, "wb") as file:
        file.writelines(tree_codec.pieces(arrays, separators=SPACED))


def read_file(path: Path) -> dict[str, Any]:
    """Return the arrays of a file as `write_file` writes it, each copied once and aligned.

    Raises `DataError` for a file that is none, and `OSError`.
    """
    with open(path, "rb") as file:
        data = mmap(file.fileno(), 0, access=ACCESS_READ)
    return {name: own(array) for name, array in tree_codec.read(data).items()}


def checksum(arrays: Mapping[str, Any]) -> str:
    """Return the CRC-32 over names, dtypes, shapes and bytes, in hex: for damage, not malice."""
    found = 0
    for name in sorted(arrays):
        array = arrays[name]
        found = zlib.crc32(f"{name} {array.dtype.str} {array.shape}".encode(), found)
        found = zlib.crc32(octets(array), found)
    return f"{found:08x}"


def erased(path: Path) -> None:
    """Write zeros over a file, have them on the disk, and remove it; nothing where there is none.

    What the medium itself keeps (journals, flash) no program reaches.
    """
    try:
        file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        left, at = os.fstat(file).st_size, 0
        while left > 0:
            done = os.pwrite(file, bytes(min(left, CHUNK)), at)
            left, at = left - done, at + done
        os.fsync(file)
    finally:
        os.close(file)
    path.unlink(missing_ok=True)
