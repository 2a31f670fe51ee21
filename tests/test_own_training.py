# SPDX-License-Identifier: Apache-2.0
"""The example of a user's own training runs as it stands, and learns."""

from pathlib import Path

import pytest

import muster
from muster.runs import planfile

EXAMPLE = Path(__file__).parents[1] / "examples" / "own_training.py"


def test_scikit_learn_in_a_federation(tmp_path):
    pytest.importorskip("sklearn")
    example = planfile.load(EXAMPLE)
    people, rows = example.enrolled()
    run = muster.simulate(example.plan, people, rows, path=tmp_path / "run", workers=1)
    assert run.metrics["accuracy"] > 0.85
    assert set(run.model()) == {"coef", "intercept"}
