# SPDX-License-Identifier: Apache-2.0
"""Tensors as they travel: a tree of arrays as one safetensors body, without a copy or a pickle.

Eight bytes of length, a JSON header, then the raw buffers, widest dtypes first and by name within
a dtype, with no gap: every buffer is aligned to its dtype, and equal trees are equal bytes, so
that a digest names them. The first begins at a multiple of 64, so that a model on the disk is
mapped as kernels like it, and needs no copy. A receiver knows from its plan what must come (the
template) and reads nothing else: names, dtypes, shapes and places are checked against it before a
byte is kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from math import prod
from mmap import mmap
from typing import Any

import numpy as np

from muster.mapped import forget
from muster.security.refusal import RefusalReason, Refused, malformed, parse, shown
from muster.tree_codec import CHUNK, CODES, pieces
from muster.types import Tree
from muster.vectors import leaves, rebuild

__all__ = [
    "Header",
    "check_header",
    "decode",
    "digest",
    "encode",
    "head_size",
    "largest",
    "longest_head",
]

FORMAT = {"muster": "1"}  # what the body's metadata says: the version of this format
LIMIT = 1 << 20  # bytes of a header
ALIGNED = 64  # of what a multiple the first array's place in a body is
DEPTH = 3  # the header, an entry, its list


@dataclass(frozen=True)
class Header:
    """A header that was checked: the body's size in all, and where each array lies in it."""

    size: int
    places: dict[str, tuple[int, int]]


@dataclass(frozen=True)
class _Spec:
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


def longest_head(template: Tree) -> int:
    """Return the bytes that no honest header of this template exceeds."""
    return min(LIMIT, _longest(_template(template)))


def largest(template: Tree) -> int:
    """Return the bytes that a body of this template has at the most, whoever wrote its header."""
    specs = _template(template)
    return 8 + _longest(specs) + sum(spec.size for spec in specs.values())


def encode(tree: Tree) -> Iterator[bytes | memoryview]:
    """Yield a tree of NumPy arrays in pieces; a contiguous array is sent from where it lies.

    Raises `Refused` for what cannot travel. The arrays must not change until the last piece.

    >>> body = b"".join(encode({"w": np.ones(2, "float32")}))
    >>> decode(body, {"w": np.zeros(2, "float32")})
    {'w': array([1., 1.], dtype=float32)}
    """
    arrays: dict[str, Any] = {}
    for name, leaf in leaves(tree):
        _fresh(name, arrays)
        arrays[name] = np.asarray(leaf)
        _spec(name, arrays[name])
    return pieces(arrays, FORMAT, begin=ALIGNED)


def digest(chunks: Iterable[bytes | memoryview]) -> str:
    """Return the SHA-256 of a body in hex: the name of a model, the proof of an upload.

    >>> digest([b"a", b"b"]) == digest([b"ab"])
    True
    """
    found = sha256()
    for chunk in chunks:
        found.update(chunk)
    return found.hexdigest()


def head_size(prefix: bytes | memoryview, limit: int = LIMIT) -> int:
    """Count the bytes that `check_header` needs, from the first eight. Raises `Refused`."""
    if len(prefix) < 8:
        raise Refused(RefusalReason.MALFORMED, f"a body of {len(prefix)} bytes; give at least 8")
    length = int.from_bytes(prefix[:8], "little")
    if length > limit:
        raise Refused(
            RefusalReason.TOO_LARGE, f"a header of {length} bytes; at most {limit} are read"
        )
    if length % 8:
        raise Refused(
            RefusalReason.MALFORMED, f"a header of {length} bytes; pad it to a multiple of 8"
        )
    return 8 + length


def check_header(
    prefix: bytes | memoryview, template: Tree, limit: int = LIMIT, size: int | None = None
) -> Header:
    """Return the header of a body that is as the template says.

    `prefix` holds the header or more of the body, `template` arrays whose dtype and shape count
    (`np.broadcast_to` makes one of no size), `size` the bytes announced for the whole. Raises
    `Refused`, and nothing else, whatever the bytes; no array is allocated.
    """
    specs = _template(template)
    start = head_size(prefix, min(limit, _longest(specs)))
    if len(prefix) < start:
        raise Refused(
            RefusalReason.MALFORMED, f"{len(prefix)} bytes of a header of {start}; send it all"
        )
    header = parse(bytes(prefix[8:start]), limit, DEPTH)
    if not isinstance(header, dict):
        malformed("the header", header, "an object of arrays by name")
    if header.pop("__metadata__", None) != FORMAT:
        raise Refused(
            RefusalReason.WRONG_VERSION, f"the body's metadata is not {FORMAT}; upgrade muster"
        )
    odd, missing = header.keys() - specs.keys(), specs.keys() - header.keys()
    if odd or missing:
        what = f"no {shown(min(odd))} is known" if odd else f"{shown(min(missing))} is missing"
        raise Refused(RefusalReason.MALFORMED, f"{what}; send the {len(specs)} arrays of the plan")
    places = {name: _place(name, header[name], spec) for name, spec in specs.items()}
    end = _without_gaps(places)
    if size is not None and size != start + end:
        raise Refused(
            RefusalReason.MALFORMED, f"{size} bytes in all; the header says {start + end}"
        )
    return Header(start + end, {name: (start + b, start + e) for name, (b, e) in places.items()})


def decode(
    data: bytes | bytearray | memoryview | mmap,
    template: Tree,
    *,
    finite: bool = False,
    writable: bool = False,
    limit: int = LIMIT,
) -> Tree:
    """Return the tree in a body, as arrays that lie in `data`: nothing is copied.

    They are read-only, unless `writable` is asked for and `data` may be written to. With `finite`,
    NaN and infinity are refused. Raises `Refused`, and nothing else, whatever the bytes. A kernel
    wants its vectors aligned to 64 bytes, as the first one of a body of ours is in a map of its
    file: `mapped.own` copies any other.
    """
    view = memoryview(data).cast("B")
    view = view if writable else view.toreadonly()
    header = check_header(view, template, limit, len(view))
    arrays = {}
    for name, spec in _template(template).items():
        begin, end = header.places[name]
        count = (end - begin) // spec.dtype.itemsize
        empty = np.empty(0, spec.dtype)  # an empty buffer at the end is no buffer to NumPy
        arrays[name] = np.frombuffer(view, spec.dtype, count, begin) if count else empty
        _sound(name, arrays[name], finite)
        arrays[name] = arrays[name].reshape(spec.shape)
    return rebuild(template, arrays)


def _template(tree: Tree) -> dict[str, _Spec]:
    specs: dict[str, _Spec] = {}
    for name, leaf in leaves(tree):
        _fresh(name, specs)
        specs[name] = _spec(name, leaf)
    return specs


def _longest(specs: dict[str, _Spec]) -> int:
    """Return the bytes that no honest header exceeds, so that a hostile one costs little."""
    return 256 + sum(len(json.dumps(n)) + 128 + 24 * len(s.shape) for n, s in specs.items())


def _spec(name: str, leaf: Any) -> _Spec:
    like = leaf if hasattr(leaf, "dtype") and hasattr(leaf, "shape") else np.asarray(leaf)
    spec = _Spec(np.dtype(like.dtype).newbyteorder("<"), tuple(like.shape))
    if spec.dtype.str not in CODES:
        malformed(f"the dtype of {shown(name)}", str(like.dtype), "one of " + ", ".join(CODES))
    return spec


def _code(spec: _Spec) -> str:
    return CODES[spec.dtype.str]


def _fresh(name: str, known: dict[str, Any]) -> None:
    if name in known or name == "__metadata__":
        raise Refused(RefusalReason.MALFORMED, f"two arrays are called {shown(name)}; rename one")


def _place(name: str, entry: Any, spec: _Spec) -> tuple[int, int]:
    """Return the place of an array behind the header, when its entry is the template's."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        malformed(f"the entry of {shown(name)}", entry, "dtype, shape and data_offsets")
    if entry["dtype"] != _code(spec):
        malformed(f"the dtype of {shown(name)}", entry["dtype"], _code(spec))
    if _whole(entry["shape"]) != spec.shape:
        found = json.dumps(entry["shape"])[:60]
        malformed(f"the shape of {shown(name)}", found, f"{[*spec.shape]}")
    begin, end, *_ = (*_whole(entry["data_offsets"]), -1, -1)
    if not 0 <= begin <= end or end - begin != spec.size or len(entry["data_offsets"]) != 2:
        found = json.dumps(entry["data_offsets"])[:60]
        malformed(f"the place of {shown(name)}", found, f"two offsets {spec.size} bytes apart")
    if begin % spec.dtype.itemsize:
        raise Refused(
            RefusalReason.MALFORMED,
            f"{shown(name)} begins at {begin}; a {spec.dtype} begins at a multiple of "
            f"{spec.dtype.itemsize}: put the widest dtypes first",
        )
    return begin, end


def _whole(value: Any) -> tuple[int, ...]:
    """Return a list of whole numbers as a tuple; one that fits nothing for anything else."""
    if isinstance(value, list) and all(type(part) is int for part in value):
        return tuple(value)
    return (-1,)


def _without_gaps(places: dict[str, tuple[int, int]]) -> int:
    """Return the end of the last buffer, when each begins where the one before ends."""
    at = 0
    for name, (begin, end) in sorted(places.items(), key=lambda item: item[1]):
        if begin != at:
            what = "overlaps the array before" if begin < at else "leaves a hole before it"
            raise Refused(RefusalReason.MALFORMED, f"{shown(name)} {what}; it begins at {at}")
        at = end
    return at


def _sound(name: str, array: Any, finite: bool) -> None:
    """Refuse bytes that are no truth values and, where asked, numbers that are not finite."""
    if array.dtype.kind == "b" and array.size and array.view(np.uint8).max() > 1:
        raise Refused(
            RefusalReason.MALFORMED, f"{shown(name)} holds a byte that is neither 0 nor 1"
        )
    if finite and array.dtype.kind in "fc":
        for begin in range(0, array.size, CHUNK):
            part = array[begin : begin + CHUNK]
            sound = bool(np.isfinite(part).all())
            forget(part)
            if not sound:
                raise Refused(RefusalReason.NOT_FINITE, f"{shown(name)} holds NaN or infinity")
