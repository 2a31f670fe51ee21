# SPDX-License-Identifier: Apache-2.0
"""A plain value as one array of bytes and back: what a sampler keeps between rounds.

Its form may grow from round to round (a client more is known), which arrays by name cannot say.
The bytes are JSON: numbers, text and lists as they are, whatever else as an object of one key.
"""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from muster.errors import DataError

__all__ = ["packed", "unpacked"]

TYPES = "biuf"  # kinds of arrays: booleans, integers and floats


def packed(value: Any) -> NDArray[np.uint8] | None:
    """Return the bytes of a value; None for None, so that nothing is stored where nothing is kept.

    Raises `DataError` for what is none of: None, booleans, numbers, text, tuples, lists, dicts by
    numbers or text, and NumPy arrays of booleans or numbers.

    >>> unpacked(packed({"a": (1, 2.5), 3: None}))
    {'a': (1, 2.5), 3: None}
    """
    if value is None:
        return None
    text = json.dumps(_written(value), separators=(",", ":"))
    return np.frombuffer(text.encode(), np.uint8).copy()


def unpacked(data: Any) -> Any:
    """Return the value that `packed` wrote. Raises `DataError` for bytes of something else."""
    if data is None:
        return None
    try:
        return _read(json.loads(np.asarray(data, np.uint8).tobytes()))
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{len(data)} bytes are no plain value ({error}); give them whole"
        ) from error


def _written(value: Any) -> Any:
    if isinstance(value, np.generic) and value.dtype.kind in TYPES:
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        return [_written(part) for part in value]
    if type(value) is tuple:
        return {"tuple": [_written(part) for part in value]}
    if isinstance(value, dict):
        return {"dict": [[_name(key), _written(part)] for key, part in value.items()]}
    if isinstance(value, np.ndarray) and value.dtype.kind in TYPES:
        raw = np.ascontiguousarray(value, value.dtype.newbyteorder("<"))
        text = base64.b64encode(raw.tobytes()).decode()
        return {"array": [raw.dtype.str, list(value.shape), text]}
    raise DataError(
        f"{value!r:.60} is a {type(value).__name__}, which cannot be kept between rounds; use "
        f"None, numbers, text, tuples, lists, dicts and NumPy arrays of them"
    )


def _name(key: Any) -> Any:
    if isinstance(key, np.integer):
        key = key.item()
    if isinstance(key, bool) or not isinstance(key, int | str):
        raise DataError(
            f"{key!r:.60} is the key of a dict that is kept between rounds; use numbers or text"
        )
    return key


def _read(value: Any) -> Any:
    if isinstance(value, list):
        return [_read(part) for part in value]
    if not isinstance(value, dict):
        return value
    ((kind, held),) = value.items()
    if kind == "tuple":
        return tuple(_read(part) for part in held)
    if kind == "dict":
        return {key: _read(part) for key, part in held}
    if kind != "array":
        raise ValueError(f"there is no kind {kind!r}")
    dtype, shape, text = held
    return np.frombuffer(base64.b64decode(text), np.dtype(dtype)).reshape(shape).copy()
