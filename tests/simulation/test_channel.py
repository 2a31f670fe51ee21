# SPDX-License-Identifier: Apache-2.0
"""Objects over a socket pair, and trees of arrays in shared memory."""

import os
from multiprocessing.connection import Pipe

import numpy as np
import psutil
import pytest

from muster.simulation.channel import SharedParameters, receive, send

TREE = ({"x": np.arange(6.0).reshape(2, 3), "none": None}, (np.array([1], "int8"), np.zeros(0)))


def same(a, b):
    assert np.array_equal(a[0]["x"], b[0]["x"])
    assert a[0]["none"] is None
    assert np.array_equal(a[1][0], b[1][0])
    assert a[1][1].shape == (0,)


def test_arrays_travel_beside_the_message():
    ours, theirs = Pipe()
    send(ours, (TREE, "word"))
    found, word = receive(theirs)
    same(found, TREE)
    assert word == "word"
    ours.close()
    with pytest.raises(EOFError):
        receive(theirs)
    theirs.close()


def test_a_board_is_read_by_whoever_has_its_number():
    board = SharedParameters.holding(TREE)
    other = SharedParameters(board.template, os.dup(board.fd))
    board.write(TREE)
    same(other.read(), TREE)
    for view in (board.read()[0]["x"], board.read()[1][0]):
        assert view.ctypes.data % 64 == 0
    board.close()
    other.close()


def test_a_board_leaves_nothing():
    before = psutil.Process().num_fds()
    board = SharedParameters.holding(())
    board.close()
    board.close()
    del board
    assert psutil.Process().num_fds() == before
