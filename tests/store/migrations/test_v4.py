# SPDX-License-Identifier: Apache-2.0
"""An evaluation that was open before goes on; from now on it says whose replies are measured."""

from dataclasses import replace

import pytest

pytest.importorskip("sqlalchemy")

from sqlalchemy import text

from muster.store.records import OpenWork

OPEN = OpenWork(1, "evaluate", ("a", 2), (1, 1), (("a", 3), (2, 4)), "d" * 64, 0.0)


def test_what_was_open_goes_on_with_nobody_counted(place):
    ledger = place()
    ledger.open(OPEN)
    with ledger._transactions.engine.connect() as connection:
        connection.execute(text("ALTER TABLE opened DROP COLUMN counted"))
        connection.execute(text("UPDATE alembic_version SET version_num = '3'"))
        connection.commit()
    place.close()
    ledger = place()
    assert ledger.opened()[0] == OPEN


def test_who_is_counted_is_kept(place):
    ledger = place()
    one = replace(OPEN, counted=(2, "a"))
    ledger.open(one)
    assert ledger.opened()[0] == one
