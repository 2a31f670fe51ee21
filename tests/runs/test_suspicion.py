# SPDX-License-Identifier: Apache-2.0
"""Three rounds in a row for a sum that cannot be; anything else begins the count anew."""

import pytest

from muster.runs.suspicion import IN_A_ROW, Suspicion

LIED = {"abandoned": True, "rejected": [{"clients": ["b", "a"], "reason": "its weight is 0"}]}
GOOD = {"abandoned": False}
FEW = {"abandoned": True}
PARTLY = {"abandoned": False, "rejected": LIED["rejected"]}


def test_three_in_a_row():
    suspicion = Suspicion()
    assert [suspicion.seen(LIED) for _ in range(IN_A_ROW - 1)] == ["", ""]
    assert suspicion.seen(LIED) == (
        "3 rounds in a row were given up, since the masked sum is none that honest clients make "
        "(its weight is 0); one of these lied: a, b; find out which, then resume"
    )
    assert suspicion.seen(LIED) == ""  # who resumes has looked


@pytest.mark.parametrize("between", [GOOD, FEW, PARTLY])
def test_anything_else_begins_anew(between):
    suspicion = Suspicion()
    assert not any(suspicion.seen(r) for r in (LIED, LIED, between, LIED, LIED))
    assert suspicion.seen(LIED)


def test_the_count_survives_a_restart():
    assert Suspicion([GOOD, LIED, LIED]).seen(LIED)
    assert not Suspicion([LIED, LIED, LIED]).seen(LIED)


def test_many_names_are_cut_short():
    many = LIED | {"rejected": [{"clients": list(range(100, 200)), "reason": "its norm is 9"}]}
    said = [Suspicion([many, many]).seen(many)]
    assert said[0].endswith("118, 119 …; find out which, then resume")
