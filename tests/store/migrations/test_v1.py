# SPDX-License-Identifier: Apache-2.0
"""The schema that the migrations make is the one that is asked, whatever was there before."""

import pytest
from tests.store.scene import enrol, members

pytest.importorskip("sqlalchemy")

from sqlalchemy import inspect

from muster.store import SQLiteStore
from muster.store.records import Member
from muster.store.sql import tables

SHARED = {"blobs", "chunks", "progress"}


def test_the_tables_are_those_that_are_asked(place):
    ledger = place()
    found = inspect(ledger._transactions.engine)
    schema = "muster_r" if ledger.shared else None
    wanted = {
        name: {column.name for column in table.columns}
        for name, table in tables.state.metadata.tables.items()
        if ledger.shared or name not in SHARED
    }
    names = set(found.get_table_names(schema)) - {"alembic_version"}
    assert names == set(wanted)
    for name, columns in wanted.items():
        assert {column["name"] for column in found.get_columns(name, schema)} == columns
        keys = {column.name for column in tables.state.metadata.tables[name].primary_key}
        assert set(found.get_pk_constraint(name, schema)["constrained_columns"]) == keys


def test_a_simulation_goes_on_as_a_federation(alone):
    store = SQLiteStore(alone.folder)
    store.note(plan=1)
    store.commit(1, {"x": [1.0]}, {"round": 1}, [])
    store.close()
    ledger = alone()
    assert (ledger.meta("plan"), ledger.latest()[0]) == (1, 1)
    enrol(ledger, Member("a", "a", 1)).result()
    ledger.close()
    assert len(members(alone())) == 1
