# SPDX-License-Identifier: Apache-2.0
"""Lines of a log by the minute: each kind has its own, and none is lost count of."""

import logging

from muster.federation.protocol.limits import LINES
from muster.transport.http.sparse import Sparse, sparse


def line(text="%s failed", name="muster.server", *args):
    return logging.LogRecord(name, logging.ERROR, "", 0, text, args or ("PUT",), None)


def test_so_many_a_minute_and_then_how_many_were_left_out():
    now = [0.0]
    seen = Sparse(3, clock=lambda: now[0])
    assert [seen.filter(line("%s failed", "muster.server", str(n))) for n in range(5)] == [
        True,
        True,
        True,
        False,
        False,
    ]
    assert seen.filter(line("%s closed")) and seen.filter(line(name="asyncio"))
    now[0] = 60.0
    later = line()
    assert seen.filter(later) and later.getMessage() == "PUT failed (2 more like it)"
    assert seen.filter(line())


def test_a_server_that_serves_writes_few_lines(caplog):
    log = logging.getLogger("muster.server")
    with sparse():
        for number in range(10 * LINES):
            log.error("%d failed", number)
    assert len(caplog.records) == LINES
    log.error("%d failed", 1)
    assert len(caplog.records) == LINES + 1
