# SPDX-License-Identifier: Apache-2.0
"""Answers without a look at the rows: how good they are, and whether a model does better."""

import math

import numpy as np
import pytest

from muster.metrics.constant import beaten, constant, guess
from muster.metrics.head import OutputHead

CLASSES = OutputHead("softmax", 3, plain=True)
Y = np.array([0, 0, 0, 1, 1, 2])


def test_the_best_constant_answer_has_the_commonest_class_and_the_entropy():
    special = pytest.importorskip("scipy.stats")
    found = constant(CLASSES, Y)
    assert found == {"accuracy": 0.5, "loss": pytest.approx(special.entropy([3, 2, 1]))}
    assert constant(OutputHead("softmax", 3), Y) == {"accuracy": 0.5}  # a loss of the user's own
    assert constant(OutputHead("numbers", 1, plain=True), Y) == {"loss": pytest.approx(Y.var())}
    assert constant(OutputHead("own"), Y) == {}


def test_a_guess_has_the_logarithm_of_the_classes():
    found = guess(CLASSES, 50)
    assert found["loss"] == math.log(3)
    assert found["accuracy"] == pytest.approx(1 / 3 + 3 * math.sqrt(2 / 9 / 50))
    assert (
        guess(CLASSES, 0)
        == guess(OutputHead("softmax", plain=True), 9)
        == guess(OutputHead("own"), 9)
        == {}
    )
    assert guess(OutputHead("sigmoid", 1, plain=True), 9)["loss"] == math.log(2)


@pytest.mark.parametrize(
    ("found", "least", "better"),
    [
        ({"accuracy": 0.5, "loss": 1.02}, {"accuracy": 0.5, "loss": 1.01}, False),
        ({"accuracy": 0.5, "loss": 1.0099}, {"accuracy": 0.5, "loss": 1.01}, False),  # rounding
        ({"accuracy": 0.5, "loss": 0.9}, {"accuracy": 0.5, "loss": 1.01}, True),
        ({"accuracy": 0.8, "loss": 9.0}, {"accuracy": 0.5, "loss": 1.01}, True),  # too sure
        ({"loss": 9.0}, {"accuracy": 0.5, "loss": 1.01}, False),
        ({"f1": 0.1}, {"accuracy": 0.5, "loss": 1.01}, True),  # nothing to compare
        ({"accuracy": 0.1}, {}, True),
    ],
)
def test_a_model_is_better_in_one_of_the_two(found, least, better):
    assert beaten(found, least) == better
