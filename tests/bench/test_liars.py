# SPDX-License-Identifier: Apache-2.0
"""The bench of liars poisons whom it says, and its defences are plans."""

import numpy as np
from bench import liars

from muster import data


def test_only_the_liars_rows_change():
    honest, _ = data.digits(clients=liars.WRITERS)
    told = liars.poisoned(honest, 5, seed=1)
    changed = [c for c in honest.clients if not np.array_equal(honest[c][1], told[c][1])]
    assert len(changed) == 5
    for client in changed:
        np.testing.assert_allclose(told[client][0], liars.INK * honest[client][0])
        assert (told[client][1] == 9 - honest[client][1]).all()


def test_every_defence_is_a_plan_with_groups_enough():
    for _, groups, rule in liars.DEFENCES:
        plan = liars.defended(groups, rule, seed=0)
        assert len(plan.groups(tuple(range(liars.WRITERS)), 1)) == groups
        assert plan.aggregation == rule
