# SPDX-License-Identifier: Apache-2.0
"""Everybody takes part in every round."""

from muster.keys import key
from muster.sampling import All
from muster.types import Cohort, Roster

ROSTER = Roster(("a", "b", "c"), lambda: [1, 2, 3])


def test_the_cohort_is_the_roster_and_the_state_passes_through():
    for round in (1, 2):
        cohort, state = All().sample(ROSTER, "state", round, key(round), None)
        assert cohort == Cohort(("a", "b", "c"))
        assert state == "state"


def test_everybody_is_included_with_certainty():
    assert All().share(ROSTER) == 1.0
    assert All() == All()
