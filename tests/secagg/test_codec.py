# SPDX-License-Identifier: Apache-2.0
"""A field comes back as it went, and its limits hold for writing and for reading."""

import pytest

from muster.secagg.codec import ByteReader, Malformed, blob, many, number, raw, text

CASES = [
    (raw(3), b"abc"),
    (number(4), 70000),
    (blob(9), b"abc"),
    (text(9), "Åse"),
    (many(blob(9)), (b"", b"a")),
]


@pytest.mark.parametrize(("form", "value"), CASES)
def test_a_field_comes_back(form, value):
    source = ByteReader(form.write(value) + b"next")
    assert form.read(source) == value
    assert source.take(4) == b"next"


@pytest.mark.parametrize(("form", "value"), CASES)
def test_a_cut_field_is_malformed(form, value):
    with pytest.raises(Malformed):
        form.read(ByteReader(form.write(value)[:-1]))


@pytest.mark.parametrize(
    ("form", "value"), [(raw(3), b"ab"), (blob(2), b"abc"), (text(2), "Åse"), (text(2), "")]
)
def test_a_field_beyond_its_limits_is_not_written(form, value):
    with pytest.raises(Malformed):
        form.write(value)


@pytest.mark.parametrize(
    ("form", "data"),
    [
        (blob(2), b"\0\0\0\3abc"),
        (text(2), b"\0\0\0\0"),
        (text(2), b"\0\0\0\1\xff"),
        (many(raw(1)), b"\xff\0\0\0ab"),
    ],
)
def test_a_field_beyond_its_limits_is_not_read(form, data):
    with pytest.raises(Malformed):
        form.read(ByteReader(data))
