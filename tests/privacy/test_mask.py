# SPDX-License-Identifier: Apache-2.0
"""Statements about masked sums: whom they are safe from, and what no mask does."""

import pytest

from muster.privacy.mask import Mask, Sums, described

HIDDEN = {"minimum": 3, "metrics": "hidden", "groups": 1}
WORST = Sums(clients=9, threshold=7, honest=4, colluders=3, losses=1)


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (None, ["none"]),
        (Mask(HIDDEN), ["no sum was made yet", "as far as all its clients could"]),
        (
            Mask(HIDDEN, WORST),
            [
                "at least 4 honest clients in each sum that is opened",
                "3 of 9 clients may work with the server, and 1 be lost",
                "7 of them open what one of them dealt",
                "metrics hidden",
                "may move a sum as far as all 9 clients could, unnamed",
                "would bound it",
                "what the sums of two rounds differ by",
            ],
        ),
        (
            Mask(HIDDEN, Sums(500, 90, 20, 166, 50, ring=True)),
            ["20 honest clients in each part of a sum that can be told apart (a ring)"],
        ),
        (
            Mask(HIDDEN | {"metrics": "public", "groups": 5}, WORST, 0.00042),
            ["5 groups", "with a chance of 0.00042", "public: each client's losses", "bounds it"],
        ),
    ],
)
def test_it_says_what_holds_and_what_does_not(mask, said):
    text = described(mask)
    for words in said:
        assert words in text


def test_losses_and_rows_are_public_only_where_that_was_said():
    assert not Mask(HIDDEN).public and Mask({"metrics": "public"}).public
