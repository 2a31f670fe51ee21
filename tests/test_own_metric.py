# SPDX-License-Identifier: Apache-2.0
"""The example of a user's own metric runs as it stands, and stops where its metric says."""

import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import muster
from muster import data
from muster.errors import PlanError
from muster.testing import check_metric

EXAMPLE = Path(__file__).parents[1] / "examples" / "own_metric.py"


def test_the_metric_is_sound_and_stops_the_run(tmp_path):
    pytest.importorskip("sklearn")
    made = runpy.run_path(str(EXAMPLE), run_name="own_metric")
    check_metric(made["Within"]())
    run = muster.simulate(made["plan"], data.digits(clients=10, alpha=0.5), path=tmp_path / "run")
    assert run.metrics["within 3"] >= 0.95 and run.round < 40
    assert run.trained[-2]["metrics"]["within 3"] < 0.95
    assert run.facts["stopped"] == "Target(metric='within 3', value=0.95)"
    with pytest.raises(PlanError, match="'within 3'"):
        replace(made["plan"], stop=[muster.Target("withn 3", 0.95)])


def test_it_runs_as_it_stands(tmp_path):
    pytest.importorskip("sklearn")
    done = subprocess.run(
        [sys.executable, EXAMPLE], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "on central test rows: {'loss': " in done.stdout
