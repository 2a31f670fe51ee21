# SPDX-License-Identifier: Apache-2.0
"""A failure says where and what went wrong, and quotes nothing of the data."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.errors import ClientError, DataError, MusterError
from muster.federation.protocol.message import TrainingFailure
from muster.federation.site.failure import failed, masked, redacted
from muster.security.refusal import RefusalReason, Refused


def caught(function, *given):
    try:
        function(*given)
    except Exception as error:
        return error
    raise AssertionError


def secret():
    raise ValueError("patient 'Smith' aged 47 has [1.5, 2.5] and {'a': 3}")


def wrapped():
    try:
        secret()
    except ValueError as error:
        raise MusterError(f"fit raised ValueError; repair it:\n{error}") from error


def test_frames_and_types_are_told_and_values_are_not():
    text = redacted(caught(wrapped))
    assert "test_failure.py, line" in text and "in secret" in text and "in wrapped" in text
    assert "ValueError: patient '…' aged # has […] and […]" in text
    assert "muster.errors.MusterError: fit raised ValueError; repair it:" in text
    for value in ("Smith", "47", "1.5", "/"):
        assert value not in text.replace("'…'", "") or value in "47"


@pytest.mark.parametrize(
    "error, stage",
    [
        (ClientError(3, "a", "report", "its delta holds NaN"), "report"),
        (DataError("labels hold 7"), "data"),
        (ValueError("no"), "train"),
        (Refused(RefusalReason.MALFORMED, "the model is none"), "model"),
    ],
)
def test_each_error_has_its_stage(error, stage):
    failure = failed("r", 3, error)
    assert isinstance(failure, TrainingFailure) and failure.stage == stage


def test_arrays_are_masked():
    assert not re.search(r"\d", masked(f"bad values {np.arange(1000.0)} and {np.float32(3.5)!r}"))


@given(st.text(max_size=3000))
def test_any_text_may_travel(text):
    assert len(masked(text)) <= 200
    failed("r", 1, ValueError(text))


def test_a_long_chain_is_cut():
    error = ValueError("0")
    for depth in range(30):
        after = ValueError(str(depth))
        after.__cause__ = error
        error = after
    assert redacted(error).count("ValueError") == 8
