# SPDX-License-Identifier: Apache-2.0
"""The channel of muster's own processes on a machine: objects over a socket pair, arrays apart.

Both ends are this program, started by it over an inherited socket, so pickle is safe here; it
is never used for anything that comes from a network or a file. Arrays travel as raw buffers
behind the message. What a whole cohort receives lies in `SharedParameters`, a piece of anonymous
shared memory that every worker maps.
"""

from __future__ import annotations

import mmap
import os
import pickle
import tempfile
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from muster.vectors import leaves, rebuild, tree_map

__all__ = ["SharedParameters", "receive", "send"]


def send(connection: Connection, message: Any) -> None:
    """Send an object, its arrays as raw buffers behind it."""
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(message, protocol=5, buffer_callback=buffers.append)
    connection.send_bytes(len(buffers).to_bytes(4, "little") + head)
    for buffer in buffers:
        with buffer.raw() as view:
            connection.send_bytes(view)


def receive(connection: Connection) -> Any:
    """Receive an object; raises `EOFError` or `OSError` when the other end has died."""
    head = connection.recv_bytes()
    count = int.from_bytes(head[:4], "little")
    return pickle.loads(head[4:], buffers=[connection.recv_bytes() for _ in range(count)])


class Shape:
    """The shape and dtype of an array that is not there: a leaf of a board's template."""

    def __init__(self, array: Any) -> None:
        self.dtype, self.shape = np.asarray(array).dtype, np.shape(array)


class SharedParameters:
    """Shared memory that holds one tree of arrays of fixed shapes; the owner writes, all read."""

    def __init__(self, template: Any, fd: int | None = None) -> None:
        self.template = template
        shapes = dict(leaves(template))
        sizes = [int(np.prod(s.shape)) for s in shapes.values()]
        ends = np.cumsum(
            [
                -(-n * s.dtype.itemsize // 64) * 64
                for n, s in zip(sizes, shapes.values(), strict=True)
            ]
        )
        size = int(ends[-1]) if len(ends) else 1
        self.fd = _anonymous(size) if fd is None else fd
        self._map = mmap.mmap(self.fd, size)
        offsets = [0, *(int(end) for end in ends)]
        self._views = {
            name: np.frombuffer(self._map, shape.dtype, n, offset).reshape(shape.shape)
            for (name, shape), n, offset in zip(shapes.items(), sizes, offsets, strict=False)
        }

    @classmethod
    def holding(cls, tree: Any) -> SharedParameters:
        """Return a new board for trees like this one."""
        return cls(tree_map(Shape, tree))

    def write(self, tree: Any) -> None:
        """Put a tree's arrays on the board."""
        for name, leaf in leaves(tree):
            self._views[name][...] = leaf

    def read(self) -> Any:
        """Return the tree, as views of the board."""
        return rebuild(self.template, self._views)

    def close(self) -> None:
        """Give the memory back once nobody looks at it."""
        if self.fd >= 0:
            self._views = {}
            os.close(self.fd)
            self.fd = -1


def _anonymous(size: int) -> int:
    """Return a descriptor of memory that no name refers to, so that nothing is left over."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("muster", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.ftruncate(fd, size)
    return fd
