# SPDX-License-Identifier: Apache-2.0
"""A run that was put back to an older copy has a higher attempt, which its log knew of before."""

import shutil

import numpy as np
import pytest

from muster.errors import RunError
from muster.federation.coordinator.facts import FederationFacts, raised
from muster.runs.rollback import roll_back
from muster.security import audit
from muster.store.ledger import FederationStore


def committed(ledger, *rounds):
    ledger.note(federation=True)
    for round in rounds:
        record = {"round": round, "accepted": [], "invited": []}
        ledger.commit(round, {"x": np.zeros(1)}, record, [])


def put_back(ledger, last, lost, **more):
    """Say that this folder is an older copy; the new attempt."""
    return roll_back(ledger, last, by="ann", lost=lost, **more)["attempt"]


def test_an_attempt_is_raised_behind_the_last_round_and_survives(tmp_path):
    ledger = FederationStore(tmp_path / "run")
    assert raised(ledger) == ()
    committed(ledger, 1, 2, 3)
    ledger.close()
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    copy = FederationStore(tmp_path / "copy")
    assert put_back(copy, 3, 5) == 2 and raised(copy) == (3,)
    committed(copy, 4)
    assert put_back(copy, 4, 5) == 3
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

        put_back(ledger, 1, 2, note=note, clock=lambda: 0.0)
    (entry,) = [e for e in audit.entries(tmp_path / "audit.jsonl") if e["actor"] == "operator"]
    assert seen == [()] and entry["action"] == "rolled back"
    assert entry["details"] == {
        "number": 1,
        "to": 1,
        "from": 1,
        "by": "ann",
        "at": "1970-01-01T00:00:00+00:00",
        "lost": 2,
        "attempt": 2,
    }
    ledger.close()


def test_attempts_that_were_lost_do_not_come_again(tmp_path):
    """Of rounds 4 and 5 five plays: three attempts beside the first may have been seen."""
    ledger = FederationStore(tmp_path / "run")
    committed(ledger, 1, 2, 3)
    assert put_back(ledger, 3, 5, played=5) == 5
    assert raised(ledger) == (3, 3, 3, 3)
    assert ledger.facts()["rollbacks"][0]["played"] == 5
    ledger.close()


@pytest.mark.parametrize(
    ("lost", "played", "sentence"),
    [
        (5, 1, r"--played 1: rounds 4 to 5 were played at least once each; .* from 2 to 10000"),
        (5, 10_001, "from 2 to 10000"),
        (None, 3, r"--played 3 says .*give their last with --lost LAST"),
    ],
)
def test_plays_that_cannot_have_been_change_nothing(tmp_path, lost, played, sentence):
    ledger = FederationStore(tmp_path / "run")
    committed(ledger, 1, 2, 3)
    before = ledger.facts()
    with pytest.raises(RunError, match=sentence):
        put_back(ledger, 3 if lost else 2, lost, played=played)
    assert ledger.facts() == before
    ledger.close()


@pytest.mark.parametrize(("round", "lost"), [(2, 4), (3, 3), (3, 2), (3, 3 + 10_001)])
def test_what_cannot_have_been_lost_changes_nothing(tmp_path, round, lost):
    ledger = FederationStore(tmp_path / "run")
    committed(ledger, 1, 2, 3)
    before = ledger.facts()
    with pytest.raises(RunError, match="stands after round 3"):
        put_back(ledger, round, lost)
    assert ledger.facts() == before
    ledger.close()


def test_a_secret_of_an_open_round_goes_with_the_copy(tmp_path):
    ledger = FederationStore(tmp_path / "run")
    committed(ledger, 1)
    ledger.note(secret={"round": 2, "seed": "00" * 32})
    put_back(ledger, 1, 2)
    assert ledger.meta("secret") is None
    ledger.close()


@pytest.mark.parametrize(
    ("raised_", "attempts"),
    [((), (1, 1, 1, 1)), ((2,), (1, 1, 2, 2)), ((2, 1), (1, 3, 3, 3)), ((1, 3), (1, 2, 2, 3))],
)
def test_each_round_has_the_attempt_in_which_it_was_played(raised_, attempts):
    facts = FederationFacts("r", "0" * 64, {}, max, None, 9, raised=raised_)
    assert tuple(facts.attempt_of(round) for round in (1, 2, 3, 4)) == attempts
    assert facts.attempt == 1 + len(raised_)
