# SPDX-License-Identifier: Apache-2.0
"""One layout of arrays as bytes: what is written is read back, by the library too."""

import tracemalloc
from hashlib import sha256

import numpy as np
import pytest
from safetensors.numpy import load, save
from tests.chaos.scene import bits

from muster.errors import DataError
from muster.tree_codec import CHUNK, octets, pieces, read

ARRAYS = {
    "x": np.linspace(0, 1, 7, dtype="float32"),
    "wide": np.arange(6.0).reshape(2, 3).T,
    "one": np.array(3),
    "none": np.zeros((0, 2), "float16"),
    "flags": np.array([True, False]),
    "ü": np.array([-1], "int8"),
    "big": np.arange(3, dtype=">u2"),
    "complex": np.ones(2, "complex64"),
}
PLAIN = {name: np.asarray(a, a.dtype.newbyteorder("<"), order="C") for name, a in ARRAYS.items()}


def body(*arguments):
    return b"".join(pieces(*arguments))


def test_what_is_written_is_read():
    assert bits(read(body(ARRAYS))) == bits(PLAIN)
    assert bits(load(body(ARRAYS, {"format": "np"}))) == bits(PLAIN)
    assert bits(read(save(PLAIN, {"format": "np"}))) == bits(PLAIN)
    assert read(body({})) == {}
    assert bits(read(bytearray(body(ARRAYS)))) == bits(PLAIN)


def test_the_bytes_are_those_of_every_release():
    known = "4603a073ac9bca6bf49082ee3e8629782d9bee5dd00c64601e110388cc1823be"
    assert sha256(body(ARRAYS, {"muster": "1"})).hexdigest() == known
    assert body({"b": ARRAYS["x"], "a": 1.5}) == body({"a": 1.5, "b": ARRAYS["x"]})
    assert b'"w": {"dtype": "F64"' in body({"w": np.ones(2)}, None, (", ", ": "))


def test_arrays_are_written_from_and_read_where_they_lie():
    big = {"w": np.arange(3 << 18, dtype="f8")}
    tracemalloc.start()
    found = list(pieces(big))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20 < big["w"].nbytes
    assert max(map(len, found)) <= CHUNK
    assert np.shares_memory(np.frombuffer(found[1], np.uint8), big["w"])
    data = bytearray(b"".join(found))
    assert np.shares_memory(read(data)["w"], np.frombuffer(data, np.uint8))
    assert octets(big["w"]).nbytes == big["w"].nbytes


@pytest.mark.parametrize("array", [np.array(["text"]), np.zeros(1, "c16"), np.longdouble(1)])
def test_a_dtype_that_the_format_lacks(array):
    with pytest.raises(DataError, match=r"the array 'a' is of dtype .*; give one of <f8"):
        pieces({"a": array})


def test_bytes_that_are_something_else():
    whole = body(ARRAYS)
    for bad in (b"", b"1234567", b"\xff" * 20, b"\2" + bytes(7) + b"[]", whole[:-1], whole[:40]):
        with pytest.raises(DataError, match="bytes are no arrays"):
            read(bad)
    with pytest.raises(DataError, match="no arrays"):
        read(whole.replace(b"F32", b"F99"))
