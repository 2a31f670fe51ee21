# SPDX-License-Identifier: Apache-2.0
"""A state as it is written: contiguous arrays, a safetensors file, and its checksum.

The file is written here and not by the library, whose own temporary files a death in the middle
would leave behind, and whose bytes would lie in memory a second time.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["checksum", "plain", "write_file"]

CODES = {"f": "F", "i": "I", "u": "U"}


def plain(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays as contiguous NumPy ones; nothing is copied that is so already.

    >>> plain({"a": 1.5})["a"].shape
    ()
    """
    return {name: np.asarray(array, order="C") for name, array in arrays.items()}


def write_file(arrays: Mapping[str, Any], path: Path) -> None:
    """Arrays as a safetensors file, the widest dtypes first, so that all are aligned."""
    header: dict[str, Any] = {}
    names = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))
    end = 0
    for name in names:
        array = arrays[name]
        begin, end = end, end + array.nbytes
        shape = list(array.shape)
        header[name] = {"dtype": _code(array.dtype), "shape": shape, "data_offsets": [begin, end]}
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    with open(path, "wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for name in names:
            file.write(_bytes(arrays[name]))


def checksum(arrays: Mapping[str, Any]) -> str:
    """CRC-32 over names, dtypes, shapes and bytes, in hex: finds damage, not malice."""
    found = 0
    for name in sorted(arrays):
        array = arrays[name]
        found = zlib.crc32(f"{name} {array.dtype.str} {array.shape}".encode(), found)
        found = zlib.crc32(_bytes(array), found)
    return f"{found:08x}"


def _code(dtype: np.dtype[Any]) -> str:
    return "BOOL" if dtype.kind == "b" else f"{CODES[dtype.kind]}{8 * dtype.itemsize}"


def _bytes(array: Any) -> Any:
    return array.reshape(-1).view(np.uint8).data
