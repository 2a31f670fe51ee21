# SPDX-License-Identifier: Apache-2.0
"""A ledger on either database, opened as often as a test likes."""

import threading

import pytest

from muster.errors import MissingExtra

try:
    from muster.store.ledger import FederationStore
except MissingExtra:
    FederationStore = None


class Place:
    """Where a ledger lies: `place()` opens it, and on PostgreSQL takes the lead."""

    def __init__(self, folder, url):
        self.folder, self.url, self.made = folder, url, []

    def __call__(self, *, lead=True, **options):
        ledger = FederationStore(self.folder, self.url, **options)
        self.made.append(ledger)
        assert not lead or ledger.lead(threading.Event())
        return ledger

    def close(self):
        """Close all that was opened."""
        while self.made:
            self.made.pop().close()


@pytest.fixture(params=["sqlite", "postgres"])
def place(request, tmp_path):
    """A `Place` on each database."""
    yield from _place(request, tmp_path, shared=request.param == "postgres")


@pytest.fixture
def shared(request, tmp_path):
    """A `Place` on PostgreSQL."""
    yield from _place(request, tmp_path, shared=True)


@pytest.fixture
def alone(request, tmp_path):
    """A `Place` on SQLite."""
    yield from _place(request, tmp_path, shared=False)


def _place(request, folder, *, shared):
    if FederationStore is None:
        pytest.skip("the extra 'service' is not installed")
    url = request.getfixturevalue("database") + "?run=r" if shared else None
    place = Place(folder / "run", url)
    yield place
    place.close()
