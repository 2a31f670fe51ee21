# SPDX-License-Identifier: Apache-2.0
"""One tree of errors, drawn in a docstring that is true; a client's error survives a pickle."""

import importlib
import pickle
import re

import pytest

from muster import errors

ROOMS = ("muster.secagg", "muster.security.refusal", "muster.store.blobs")


def named(cls):
    """`Aborted` of muster.secagg.session is drawn as `secagg.Aborted`."""
    package, room, *_ = cls.__module__.split(".")
    assert package == "muster"
    return cls.__name__ if room == "errors" else f"{room}.{cls.__name__}"


def tree(cls):
    for child in cls.__subclasses__():
        if child.__module__.startswith("muster."):
            yield named(child), named(cls)
            yield from tree(child)


def drawn(text):
    """(name, parent) of every line of the drawing."""
    path = ["MusterError"]
    for line in text.splitlines():
        found = re.match(r" {4}((?:│   |    )*)[├└]── ([\w.]+)", line)
        if found:
            depth = len(found[1]) // 4 + 1
            yield found[2], path[depth - 1]
            path[depth:] = [found[2]]


def test_the_drawing_is_the_tree():
    for room in ROOMS:
        try:
            importlib.import_module(room)
        except errors.MissingExtra as missing:
            pytest.skip(str(missing))
    names = {name for name, _ in drawn(errors.__doc__)}
    assert set(drawn(errors.__doc__)) == set(tree(errors.MusterError))
    assert {"MusterError"} | {n for n in names if "." not in n} == set(errors.__all__)


@pytest.mark.parametrize(
    ("name", "builtin"),
    [("PlanError", ValueError), ("DataError", ValueError), ("MissingExtra", ImportError)],
)
def test_an_error_is_also_the_builtin_a_caller_expects(name, builtin):
    assert issubclass(getattr(errors, name), builtin)


def test_a_client_error_says_who_when_where_and_why():
    error = errors.ClientError(3, "lyon", "train", "loss is NaN\n")
    assert str(error) == "client 'lyon' failed in round 3 at stage 'train': loss is NaN"
    assert (error.round, error.client, error.stage) == (3, "lyon", "train")


def test_a_client_error_travels_between_processes():
    error = pickle.loads(pickle.dumps(errors.ClientError(3, 7, "report", "why")))
    assert type(error) is errors.ClientError
    assert (error.round, error.client, error.stage, error.cause) == (3, 7, "report", "why")
