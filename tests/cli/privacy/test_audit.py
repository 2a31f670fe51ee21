# SPDX-License-Identifier: Apache-2.0
"""`muster audit privacy`: measured beside promised."""

import json

from tests.cli.privacy.test_statement import NOISY


def test_attacks_are_a_table_or_json(shell):
    shell("run", "plan.py", "--path", "runs/noisy", "--quiet", *NOISY)
    text = shell("audit", "privacy", "noisy", "plan.py", *NOISY)
    for word in ("canaries", "membership of rows", "inversion of one update", "holds", "exposed"):
        assert word in text
    found = [
        json.loads(line)
        for line in shell("audit", "privacy", "noisy", "plan.py", "--json", *NOISY).splitlines()
    ]
    assert [one["verdict"] for one in found][:2] == ["not audited", "holds"]
    assert found[0]["measured"] == "the model has 8 coordinates, and canaries need 400"
    assert found[1]["figures"]["members"] == 36
