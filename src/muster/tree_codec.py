# SPDX-License-Identifier: Apache-2.0
"""Arrays by name as a safetensors file or body, in pieces that lie in the arrays themselves.

Eight bytes of length, a JSON header, then the raw buffers, widest dtypes first and by name within
a dtype, with no gap: every buffer is aligned to its dtype, and equal arrays are equal bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from muster.errors import DataError

__all__ = ["CHUNK", "CODES", "octets", "pieces", "read"]

CHUNK = 1 << 20  # bytes of the largest piece
CODES = {
    "<f8": "F64",
    "<f4": "F32",
    "<f2": "F16",
    "<c8": "C64",
    "<i8": "I64",
    "<i4": "I32",
    "<i2": "I16",
    "|i1": "I8",
    "<u8": "U64",
    "<u4": "U32",
    "<u2": "U16",
    "|u1": "U8",
    "|b1": "BOOL",
}
TYPES = {code: np.dtype(name) for name, code in CODES.items()}
COMPACT = (",", ":")


def pieces(
    arrays: Mapping[str, Any],
    metadata: Mapping[str, str] | None = None,
    separators: tuple[str, str] = COMPACT,
    begin: int = 8,
) -> Iterator[bytes | memoryview]:
    """Yield the arrays in pieces of at most 1 MiB; the first is the header, however long.

    `separators` are those of the header's JSON; the arrays begin at a multiple of `begin`, itself
    one of 8, so that where the file is mapped they lie as kernels like it. A contiguous array is
    not copied, any other when its turn comes. The arrays must not change until the last piece.
    Raises `DataError`, before the first, for a dtype that the format does not have.

    >>> [len(piece) for piece in pieces({"w": np.ones(2, "float32")})]
    [64, 8]
    """
    found = {name: np.asarray(array) for name, array in arrays.items()}
    types = {name: _dtype(name, array) for name, array in found.items()}
    order = sorted(found, key=lambda name: (-types[name].itemsize, name))
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    end = 0
    for name in order:
        first, end = end, end + found[name].nbytes
        entry = {"dtype": CODES[types[name].str], "shape": [*found[name].shape]}
        header[name] = entry | {"data_offsets": [first, end]}
    head = json.dumps(header, separators=separators).encode()
    head += b" " * (-(8 + len(head)) % begin)
    return _cut(head, [(found[name], types[name]) for name in order])


def read(data: Any) -> dict[str, Any]:
    """Return the arrays that `pieces` wrote, lying in `data` (bytes, or a map of a file).

    Raises `DataError` for bytes that are something else; what travelled is for `codec_tensors`.

    >>> read(b"".join(pieces({"w": np.ones(2, "float32")})))
    {'w': array([1., 1.], dtype=float32)}
    """
    view = memoryview(data).cast("B")
    try:
        start = 8 + int.from_bytes(view[:8], "little")
        header = json.loads(bytes(view[8:start]))
        header.pop("__metadata__", None)
        return {name: _array(view[start:], entry) for name, entry in header.items()}
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{len(view)} bytes are no arrays ({error}); give them whole") from error


def octets(array: Any) -> memoryview:
    """Return the bytes of a contiguous array, where they lie.

    >>> len(octets(np.zeros((2, 3), "float32")))
    24
    """
    view: memoryview = array.reshape(-1).view(np.uint8).data
    return view


def _cut(head: bytes, arrays: list[tuple[Any, Any]]) -> Iterator[bytes | memoryview]:
    yield len(head).to_bytes(8, "little") + head
    for array, dtype in arrays:
        raw = octets(np.asarray(array, dtype, order="C"))
        for begin in range(0, len(raw), CHUNK):
            yield raw[begin : begin + CHUNK]


def _array(view: memoryview, entry: Any) -> Any:
    begin, end = entry["data_offsets"]
    if end > len(view):
        raise ValueError(f"it ends at {len(view)}, before {end}")
    array = np.empty(0, TYPES[entry["dtype"]])
    if begin != end:  # an empty buffer at the end is no buffer to NumPy
        array = np.frombuffer(view[begin:end], array.dtype)
    return array.reshape(entry["shape"])


def _dtype(name: str, array: Any) -> np.dtype[Any]:
    dtype: np.dtype[Any] = np.dtype(array.dtype).newbyteorder("<")
    if dtype.str not in CODES:
        raise DataError(
            f"the array {name!r} is of dtype {array.dtype}; give one of {', '.join(CODES)}"
        )
    return dtype
