# SPDX-License-Identifier: Apache-2.0
"""A database is brought to the newest version of the schema, as `muster.store.migrations` says.

There is no `env.py` and no `alembic.ini`: a ledger upgrades itself when it is opened.
"""

from __future__ import annotations

from pathlib import Path

from alembic.config import Config
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from muster.errors import RunError
from muster.store import migrations

__all__ = ["upgrade"]

HERE = Path(migrations.__file__).parent


def upgrade(connection: Connection, name: str) -> None:
    """Bring a database to the newest version, inside the transaction that is open.

    Raises `RunError` for one, called `name`, that is newer than this muster.
    """
    config = Config()
    config.set_main_option("script_location", _plain(HERE))
    config.set_main_option("version_locations", _plain(HERE))
    config.set_main_option("path_separator", "newline")
    script = ScriptDirectory.from_config(config)
    known = {revision.revision for revision in script.walk_revisions()}
    context = MigrationContext.configure(connection)
    found = context.get_current_heads()
    if not known.issuperset(found):
        raise RunError(
            f"{name} was written by a newer muster (schema {', '.join(found)}); upgrade muster "
            f"to go on with it"
        )

    ahead = [*script.iterate_revisions("head", found[0] if found else "base")]
    for revision in reversed(ahead):
        with Operations.context(context):
            revision.module.upgrade()
        context.stamp(script, revision.revision)


def _plain(path: Path) -> str:
    """Return a path for the configuration's own language, in which % has a meaning."""
    return str(path).replace("%", "%%")
