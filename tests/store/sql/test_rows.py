# SPDX-License-Identifier: Apache-2.0
"""Blobs in PostgreSQL: in rows of a mebibyte, durable when finished, seen by every server."""

import tracemalloc

import numpy as np
import pytest

pytest.importorskip("sqlalchemy")

from muster.errors import RunError


def rows(ledger):
    with ledger._transactions.engine.connect() as connection:
        query = "SELECT start, length(data) FROM chunks ORDER BY start"
        return [tuple(row) for row in connection.exec_driver_sql(query)]


def test_a_row_holds_a_mebibyte_at_most(shared):
    ledger = shared()
    data = np.arange(5 << 17, dtype="f4").data.cast("B")
    assert ledger.blobs.append("blob", 0, data) == len(data)
    assert ledger.blobs.append("blob", len(data), b"end") == len(data) + 3
    assert rows(ledger) == [(0, 1 << 20), (1 << 20, 1 << 20), (2 << 20, 1 << 19), (len(data), 3)]
    ledger.blobs.drop("blob")
    assert rows(ledger) == []


def test_every_server_sees_it(shared):
    one, other = shared(), shared(lead=False)
    one.blobs.append("blob", 0, b"ab")
    assert other.blobs.held("blob") == 2
    other.blobs.append("blob", 2, b"c")
    other.blobs.finish("blob")
    assert bytes(one.blobs.whole("blob")) == b"abc"


def test_a_blob_is_read_a_row_at_a_time(shared):
    blobs = shared().blobs
    data = bytes(1 << 20)
    end = 0
    for _ in range(24):
        end = blobs.append("blob", end, data)
    blobs.finish("blob")
    tracemalloc.start()
    assert sum(map(len, blobs.read("blob"))) == end
    assert tracemalloc.get_traced_memory()[1] < 6 << 20
    tracemalloc.reset_peak()
    assert len(blobs.whole("blob")) == end
    assert tracemalloc.get_traced_memory()[1] < end + (6 << 20)
    tracemalloc.stop()


def test_a_row_that_is_gone_is_noticed(shared):
    ledger = shared()
    ledger.blobs.append("blob", 0, bytes(3 << 20))
    ledger.blobs.finish("blob")
    with ledger._transactions.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM chunks WHERE start = 1048576")
    with pytest.raises(RunError, match="the blob blob ends at 1048576 of 3145728"):
        ledger.blobs.whole("blob")
