# SPDX-License-Identifier: Apache-2.0
"""Tables of who holds what, in numbers."""

import numpy as np
import pytest

from muster.data import Population, dirichlet, split, statistics
from muster.errors import DataError


def held(**labels):
    return Population.from_arrays(
        {c: (np.ones((len(y), 1)), np.array(y)) for c, y in labels.items()}
    )


def test_counts_and_skew():
    facts = statistics(held(a=[0, 0], b=[1, 1, 1, 1], c=[0, 1]), classes=3)
    assert facts.labels.tolist() == [[2, 0, 0], [0, 4, 0], [1, 1, 0]]
    assert (facts.minimum, facts.median, facts.maximum) == (2, 2.0, 4)
    pooled = np.array([3, 5]) / 8
    expected = (2 * pooled[1] + 4 * pooled[0] + 2 * 0.125) / 8
    assert facts.skew == pytest.approx(expected)
    assert statistics(held(a=[0, 1], b=[1, 0])).skew == 0


def test_the_table_names_few_clients_and_sums_up_many():
    text = str(statistics(held(anna=[0, 0], bo=[1])))
    assert "anna     2  2  ." in text
    y = np.arange(3000) % 10
    many = split(np.ones((3000, 1)), y, dirichlet(y, 100, 0.5))
    assert len(str(statistics(many)).splitlines()) == 3
    assert "p90" in str(statistics(many))
    assert "share" in str(statistics(held(a=[0, 30, 30])))


def test_real_targets_have_no_labels():
    facts = statistics(held(a=[0.5, 1.5], b=[2.5]))
    assert facts.labels is None
    assert facts.skew is None
    assert str(facts).splitlines()[1:] == ["client  rows", "     a     2", "     b     1"]


def test_sequences_count_each_value_and_lazy_rows_are_loaded():
    def load(client):
        return np.zeros((1, 3), int), np.array([[0, client, client]])

    assert statistics(Population.lazy([1, 2], load, 1)).labels.tolist() == [[1, 2, 0], [1, 0, 2]]


@pytest.mark.parametrize(("y", "classes"), [([0, 5], 3), ([-1, 0], None)])
def test_a_label_outside_the_classes_is_refused(y, classes):
    with pytest.raises(DataError, match="client 'b' has label"):
        statistics(held(a=[0], b=y), classes)
