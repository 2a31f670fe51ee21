# SPDX-License-Identifier: Apache-2.0
"""A shell in an empty folder, with a tiny plan in it."""

import json
import sys

import pytest
from typer.testing import CliRunner

from muster.cli.app import app

TINY = '''
"""Three clients, four rounds, a few milliseconds."""
import numpy as np
import muster
from muster import algorithms, optimizers, sampling, tasks

plan = muster.Plan(
    task=tasks.numpy.SoftmaxRegression(3, 2),
    algorithm=algorithms.FedAvg(),
    local=muster.Local(epochs=2, batch=4, optimizer=optimizers.SGD(0.5)),
    sampling=sampling.All(),
    rounds=4,
)


def population():
    rng = np.random.default_rng(0)
    rows = {}
    for name in "abc":
        x = rng.standard_normal((12, 3)).astype(np.float32)
        rows[name] = x, (x[:, 0] > 0).astype(np.int64)
    return muster.Population.from_arrays(rows, test=rows)
'''


class Shell:
    """Runs `muster` with some words; every answer is checked to hold no traceback."""

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, *words, code=0):
        """Return the text that was printed."""
        result = CliRunner().invoke(app, list(words))
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return result.stdout

    def fails(self, *words, code=1):
        """Return the words on the standard error, which are one sentence."""
        result = CliRunner().invoke(app, list(words))
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.stderr
        return result.stderr.strip()

    def json(self, *words, code=0):
        """Return the lines that were printed."""
        return [json.loads(line) for line in self(*words, "--json", code=code).splitlines()]


@pytest.fixture
def shell(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    (tmp_path / "plan.py").write_text(TINY, encoding="utf-8")
    yield Shell(tmp_path)
    for name in set(sys.modules) - before:
        if name.startswith("plan"):
            del sys.modules[name]
