# SPDX-License-Identifier: Apache-2.0
"""Shared memory: a child process sees the same rows, and cannot change them."""

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

from muster.data import Handle, Population
from muster.errors import DataError

CHILD = """
import pickle, sys
from muster.data import Population
population = Population.attach(pickle.load(sys.stdin.buffer))
assert not population.gather(population.clients).x.flags.writeable
print(population.fingerprint())
"""


def people():
    given = {i: (np.full((i + 1, 3), i, np.float32), np.arange(i + 1)) for i in range(5)}
    return Population.from_arrays(given, {3: given[1]})


def load(client):
    return np.full((2, 3), client), np.zeros(2)


@pytest.mark.parametrize("clients", [range(5), [1, 3]])
def test_a_child_sees_the_same_rows(clients):
    population = people().shared().only(clients)
    handle = population.handle()
    done = subprocess.run(
        [sys.executable, "-c", CHILD],
        input=pickle.dumps(handle),
        capture_output=True,
        pass_fds=handle.fds,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().strip() == people().only(clients).fingerprint()


def test_arrays_are_aligned():
    population = people().shared()
    handle = population.handle()
    assert all(place.offset % 64 == 0 for place in handle.places)
    assert Population.attach(handle).pooled()[0].ctypes.data % 64 == 0


def test_without_memfd_a_temporary_file_serves(monkeypatch):
    monkeypatch.delattr(os, "memfd_create", raising=False)
    population = people().shared()
    assert Population.attach(population.handle()).fingerprint() == people().fingerprint()


def test_the_file_is_closed_with_the_population_but_views_live_on():
    population = people().shared()
    fd = population.handle().fd
    x = population.pooled()[0]
    os.fstat(fd)
    del population
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    assert x[-1].tolist() == [4, 4, 4]


def test_private_memory_has_no_handle():
    with pytest.raises(DataError, match="call population"):
        people().handle()
    with pytest.raises(DataError, match="neither file nor loader"):
        Population.attach(Handle((1,)))


def test_a_lazy_population_travels_as_its_loader():
    handle = pickle.loads(pickle.dumps(Population.lazy([1, 2], load, 2).handle()))
    assert handle.fds == ()
    assert Population.attach(handle)[2][0].tolist() == [[2] * 3] * 2
    with pytest.raises(DataError, match="top of a module"):
        Population.lazy([1], lambda client: load(client), 2).handle()
