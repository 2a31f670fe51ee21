# SPDX-License-Identifier: Apache-2.0
"""The picture is drawn for few and many clients, with and without labels."""

import io

import numpy as np
import pytest

from muster.data import Population, iid, picture, split


@pytest.mark.parametrize("clients", [1, 4, 40, 300])
def test_labels_by_clients(clients):
    y = np.arange(1200) % 5
    figure = picture(split(np.ones((1200, 1)), y, iid(1200, clients)))
    above, below, _ = figure.axes
    assert below.get_images()[0].get_array().shape == (5, clients)
    assert above.get_ylabel() == "rows"
    file = io.BytesIO()
    figure.savefig(file, format="png")
    assert file.tell() > 1000


def test_long_names_stand_upright():
    given = {f"hospital {i}": (np.ones((2, 1)), np.array([0, 1])) for i in range(12)}
    label = picture(Population.from_arrays(given)).axes[1].get_xticklabels()[0]
    assert (label.get_text(), label.get_rotation()) == ("hospital 0", 90)


def test_real_targets_get_a_histogram():
    given = {i: (np.ones((i + 1, 1)), np.ones(i + 1)) for i in range(9)}
    (axes,) = picture(Population.from_arrays(given)).axes
    assert axes.get_xlabel() == "rows per client"
    assert sum(bar.get_height() for bar in axes.patches) == 9
