# SPDX-License-Identifier: Apache-2.0
"""A federation of before, whose database has no room for versions, gets it and goes on."""

import numpy as np
import pytest

pytest.importorskip("sqlalchemy")

from alembic import op
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Column, Text, text

from muster.store.migrations import v1, v2


def before_the_journal(connection):
    """The tables of the second version."""
    with Operations.context(MigrationContext.configure(connection)):
        for table in ("journal", "transitions"):
            op.drop_table(table)
        v1._federation()
        v1._secure()
        v2.upgrade()
        op.add_column("control", Column("wanted", Text, nullable=False, server_default="run"))


def test_a_run_of_before_keeps_models_from_now_on(place):
    ledger = place()
    ledger.commit(1, {"x": np.ones(3)}, {"round": 1}, [])
    with ledger._transactions.engine.connect() as connection:
        for table in ("versions", "superseded"):
            connection.execute(text(f"DROP TABLE {table}"))
        before_the_journal(connection)
        connection.execute(text("UPDATE meta SET value = '1' WHERE key = 'schema'"))
        connection.execute(text("UPDATE alembic_version SET version_num = '2'"))
        connection.commit()
    place.close()
    ledger = place()
    assert (ledger.versions(), ledger.superseded(), ledger.meta("schema")) == ([1], [], 2)
    ledger.commit(2, {"x": np.zeros(3)}, {"round": 2}, [], {1})
    assert ledger.versions() == [1, 2]
    ledger.go_back(1, 1)
    assert (ledger.latest()[0], ledger.superseded()) == (1, [(1, {"round": 2})])
    assert ledger.state(1)["x"].tolist() == [1.0, 1.0, 1.0]
