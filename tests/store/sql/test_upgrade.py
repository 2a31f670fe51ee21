# SPDX-License-Identifier: Apache-2.0
"""A schema is upgraded whole or not at all, and a newer one is left alone."""

import pytest
from tests.store.scene import members

pytest.importorskip("sqlalchemy")

from sqlalchemy import text

from muster.errors import RunError
from muster.store.sql import connect
from muster.store.sql.upgrade import upgrade


def test_a_newer_schema_is_left_alone(place):
    ledger = place()
    with ledger._transactions.engine.connect() as connection:
        connection = connection.execution_options(writes=True)
        connection.execute(text("UPDATE alembic_version SET version_num = '99'"))
        connection.execute(text("DROP TABLE journal"))
        connection.commit()
    place.close()
    with pytest.raises(RunError, match=r"newer muster \(schema 99\); upgrade muster"):
        place()


def test_an_upgrade_that_breaks_off_leaves_nothing(place, monkeypatch):
    def halfway(connection, name):
        upgrade(connection, name)
        raise OSError("halfway")

    with monkeypatch.context() as patch:
        patch.setattr(connect, "upgrade", halfway)
        with pytest.raises(OSError, match="halfway"):
            place()
    assert members(place()) == {}
