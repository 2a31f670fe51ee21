# SPDX-License-Identifier: Apache-2.0
"""Modules whose optional packages are not installed are not looked at for doctests.

Whatever else cannot be imported is an error: a test file that fails to load must never pass.
"""

from importlib.util import find_spec
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "muster"
NEEDS = {
    "torch": ("tasks/torch",),
    "jax": ("tasks/jax",),
    "cryptography": (
        "secagg/",
        "federation/",
        "security/",
        "transport/",
        "runs/federation/",
        "cli/federation/",
    ),
    "sqlalchemy": (
        "federation/coordinator/",
        "transport/http/",
        "store/ledger",
        "store/migrations/",
        "store/sql/",
        "runs/federation/",
    ),
    "uvicorn": ("transport/http/", "runs/federation/"),
    "httpx": ("federation/site/", "runs/federation/", "cli/federation/"),
}


def pytest_ignore_collect(collection_path):
    """True where a package is absent that the module is about; None asks the others."""
    if not collection_path.is_relative_to(SOURCE):
        return None
    place = collection_path.relative_to(SOURCE).as_posix()
    for package, rooms in NEEDS.items():
        if place.startswith(rooms) and find_spec(package) is None:
            return True
    return None
