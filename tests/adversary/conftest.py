# SPDX-License-Identifier: Apache-2.0
"""The secure sum that was played once, for all tests that take a place of it up again."""

import pytest


@pytest.fixture(scope="session")
def played(tmp_path_factory):
    """One sum of real sites; nobody changes it (see `played`)."""
    pytest.importorskip("sqlalchemy")
    pytest.importorskip("cryptography")
    from tests.adversary.played import Played

    return Played(tmp_path_factory.mktemp("played"))


@pytest.fixture
def lives(played, tmp_path):
    """Lives from before a message, not yet lived."""
    from tests.adversary.played import Life

    count = iter(range(10_000))

    def born(place, script, **more):
        return Life(played, place, tmp_path / str(next(count)), script, **more)

    return born
