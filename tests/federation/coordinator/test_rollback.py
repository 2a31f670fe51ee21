# SPDX-License-Identifier: Apache-2.0
"""A run that was put back to an older copy has a higher attempt, which its log knew of before."""

import shutil

import numpy as np
import pytest

from muster.federation.coordinator.facts import FederationFacts
from muster.federation.coordinator.rollback import raise_attempt, raised
from muster.security import audit
from muster.store.ledger import FederationStore


def committed(ledger, *rounds):
    for round in rounds:
        record = {"round": round, "accepted": [], "invited": []}
        ledger.commit(round, {"x": np.zeros(1)}, record, [])


def unnoted(actor, action, **details):
    """Nobody keeps a log."""


def test_an_attempt_is_raised_behind_the_last_round_and_survives(tmp_path):
    ledger = FederationStore(tmp_path / "run")
    assert raised(ledger) == ()
    committed(ledger, 1, 2, 3)
    ledger.close()
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    copy = FederationStore(tmp_path / "copy")
    assert raise_attempt(copy, unnoted) == 2 and raised(copy) == (3,)
    committed(copy, 4)
    assert raise_attempt(copy, unnoted) == 3
    copy.close()
    again = FederationStore(tmp_path / "copy")
    assert raised(again) == (3, 4)
    again.close()


def test_the_log_has_it_before_the_run_does(tmp_path):
    ledger = FederationStore(tmp_path / "run")
    committed(ledger, 1)
    with audit.AuditLog(tmp_path / "audit.jsonl", purpose="server", id="run") as log:
        seen = []

        def note(*given, **details):
            seen.append(raised(ledger))
            log.append(*given, **details)

        raise_attempt(ledger, note)
    (entry,) = [e for e in audit.entries(tmp_path / "audit.jsonl") if e["actor"] == "operator"]
    assert seen == [()] and entry["action"] == "attempt raised"
    assert entry["details"] == {"attempt": 2, "committed": 1}
    ledger.close()


@pytest.mark.parametrize(
    ("raised_", "attempts"),
    [((), (1, 1, 1, 1)), ((2,), (1, 1, 2, 2)), ((2, 1), (1, 3, 3, 3)), ((1, 3), (1, 2, 2, 3))],
)
def test_each_round_has_the_attempt_in_which_it_was_played(raised_, attempts):
    facts = FederationFacts("r", "0" * 64, {}, max, None, 9, raised=raised_)
    assert tuple(facts.attempt_of(round) for round in (1, 2, 3, 4)) == attempts
    assert facts.attempt == 1 + len(raised_)
