# SPDX-License-Identifier: Apache-2.0
"""A federation of before, whose database has no room for versions, gets it and goes on."""

import numpy as np
import pytest

pytest.importorskip("sqlalchemy")

from sqlalchemy import text


def test_a_run_of_before_keeps_models_from_now_on(place):
    ledger = place()
    ledger.commit(1, {"x": np.ones(3)}, {"round": 1}, [])
    with ledger._transactions.engine.connect() as connection:
        for table in ("versions", "superseded"):
            connection.execute(text(f"DROP TABLE {table}"))
        connection.execute(text("ALTER TABLE opened DROP COLUMN counted"))
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
