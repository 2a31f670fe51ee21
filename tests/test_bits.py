# SPDX-License-Identifier: Apache-2.0
"""The tool that compares bits sees one that changed, and nothing where none did."""

import json
import re
from dataclasses import is_dataclass, replace
from pathlib import Path

import numpy as np
import pytest

import bits
import bits_plans
from bits_plans import Trained
from muster import aggregation, algorithms, pipeline, sampling
from muster.aggregation import Mean

RECORD = {"round": 1, "accepted": [0, 2], "metrics": {"loss": 0.5}, "seconds": 1.0}


def told(value, **changes):
    return lambda folder: Trained({0: {"x": np.zeros(2)}, 1: {"x": value}}, [RECORD | changes])


def compared(tmp_path, before, after):
    file = tmp_path / "bits.json"
    assert bits.main(["record", str(file)], before) == 0
    return bits.main(["compare", str(file)], after)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (told(np.array([1.0, np.nextafter(2.0, 3.0)])), "version 1, x; final state"),
        (told(np.array([1.0, 2.0]), accepted=[0]), "record 1"),
        (told(np.float32([1.0, 2.0])), "version 1, x"),
        (told(np.array([[1.0, 2.0]])), "version 1, x"),
        (lambda folder: Trained({1: {"x": np.array([1.0, 2.0])}}, [RECORD]), "version 0, x"),
    ],
)
def test_one_bit_is_seen(tmp_path, capsys, changed, named):
    plans = {"one": told(np.array([1.0, 2.0])), "two": told(np.array([-0.0]))}
    assert compared(tmp_path, plans, plans | {"one": changed}) == 1
    assert f"one: {named}" in capsys.readouterr().out
    assert compared(tmp_path, plans, plans | {"two": told(np.array([0.0]))}) == 1
    assert "two: version 1, x" in capsys.readouterr().out


def test_nothing_is_seen_where_nothing_changed(tmp_path, capsys):
    plans = {"one": told(np.array([1.0, np.nan]))}
    assert compared(tmp_path, plans, {"one": told(np.array([1.0, np.nan]), seconds=9.0)}) == 0
    assert "1 plans: the same bits" in capsys.readouterr().out


def test_a_plan_that_is_gone_is_seen_and_one_that_came_is_told(tmp_path, capsys):
    one, both = {"one": told(np.zeros(1))}, {"one": told(np.zeros(1)), "two": told(np.zeros(1))}
    assert compared(tmp_path, both, one) == 1
    assert "two: not trained any more" in capsys.readouterr().out
    assert compared(tmp_path, one, both) == 0
    assert "two: came after the record" in capsys.readouterr().out
    assert compared(tmp_path, one, both | {"one": told(np.ones(1))}) == 1


def test_another_machine_says_nothing(tmp_path, capsys):
    file, plans = tmp_path / "bits.json", {"one": told(np.zeros(1))}
    bits.main(["record", str(file)], plans)
    held = json.loads(file.read_text())
    held["machine"]["processor"] += " of another kind"
    file.write_text(json.dumps(held))
    assert bits.main(["compare", str(file)], plans) == 2
    assert "of another kind" in capsys.readouterr().out
    assert bits.main(["compare"]) == bits.main(["forget", "it"]) == 2


def test_a_bit_of_a_real_sum_is_seen(tmp_path, capsys, monkeypatch):
    real = {name: bits_plans.CASES[name] for name in ("fedavg", "dropouts", "resumed")}
    assert compared(tmp_path, real, real) == 0
    reduce = Mean.reduce

    def planted(self, replies, invited):
        total = reduce(self, replies, invited)
        shifted = total.payload["delta"] * np.float32(1 + 1e-6)  # a few units in the last place
        return replace(total, payload=total.payload | {"delta": shifted})

    monkeypatch.setattr(Mean, "reduce", planted)
    assert bits.main(["compare", str(tmp_path / "bits.json")], real) == 1
    said = capsys.readouterr().out
    for name in real:
        assert f"{name}: version 1, algorithm." in said


# Values that stages and samplers are made of, or make: no plan names one.
PARTS = ("Cohort", "Contract", "Pipeline", "Sampler", "SamplerTraits")


@pytest.mark.parametrize("room", [algorithms, sampling, pipeline, aggregation])
def test_everything_shipped_is_in_a_plan(room):
    text = Path(bits_plans.__file__).read_text("utf-8")
    kinds = [name for name in room.__all__ if is_dataclass(getattr(room, name))]
    kinds = [name for name in kinds if name not in PARTS]
    assert len(kinds) > 2
    assert [name for name in kinds if not re.search(rf"\b{name}\(", text)] == []
