# SPDX-License-Identifier: Apache-2.0
"""The bench beside flwr: its rounds open the plain sum, and its table says what was measured."""

from dataclasses import replace

import pytest

pytest.importorskip("cryptography")
pytest.importorskip("threadpoolctl")

from bench import secagg_flwr
from bench.meter import Meter
from bench.secagg_case import Case

CASE = Case(30, 50)


def test_muster_opens_the_plain_sum_and_the_time_is_charged_to_everybody():
    found = secagg_flwr.played(CASE)
    assert (found.total == CASE.total).all()
    assert found.server > 0 and found.client(len(CASE.lost)) > 0
    assert len(found.spent) == 1 + 1 + CASE.count  # nobody, the server, the clients
    assert found.sent >= 50 * 21 // 8  # 30 values of 16 bits need 21


def test_flwr_opens_the_plain_sum():
    pytest.importorskip("flwr")
    theirs = pytest.importorskip("bench.flwr_round")
    found = theirs.played(CASE)
    assert (found.total == CASE.total).all()
    assert found.server > 0 and found.client(len(CASE.lost)) > 0


def test_the_first_side_is_what_the_others_are_compared_with():
    rows = secagg_flwr.lines(CASE, {"one": secagg_flwr.played, "two": secagg_flwr.played}, 1)
    assert [row[1] for row in rows] == ["one", "two"]
    assert rows[0][2].endswith("(1×)") and rows[1][4] == rows[0][4]


def test_a_wrong_sum_is_no_measurement():
    def wrong(case):
        found = secagg_flwr.played(case)
        return replace(found, total=found.total + 1)

    with pytest.raises(AssertionError, match="two opened another sum"):
        secagg_flwr.lines(CASE, {"two": wrong}, 1)


def test_without_flwr_muster_is_measured_alone(monkeypatch, capsys):
    def absent(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(secagg_flwr.importlib, "import_module", absent)
    monkeypatch.setattr(secagg_flwr.os, "sched_setaffinity", lambda *_: None, raising=False)
    monkeypatch.setattr(secagg_flwr, "CASES", (CASE,))
    monkeypatch.setattr(secagg_flwr.sys, "argv", ["bench.secagg_flwr", "--repeat", "1"])
    secagg_flwr.main()
    said = capsys.readouterr().out
    assert "muster is measured alone" in said and "| muster |" in said


def test_a_meter_charges_whoever_had_the_turn():
    ticks = iter([0.0, 1.0, 3.0, 6.0, 10.0])
    meter = Meter(lambda: next(ticks))
    for who in ("a", "", "a"):
        meter.turn(who)
    meter.turn()
    assert dict(meter.spent) == {"": 4.0, "a": 6.0}
