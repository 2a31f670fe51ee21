# SPDX-License-Identifier: Apache-2.0
"""A site's ledger read back is what was charged, and what it affords is what the budget grants."""

import json
from dataclasses import replace

import pytest

from muster import Every, Local, PerExample, Plan, algorithms, pipeline, tasks
from muster.errors import MusterError, RunError
from muster.privacy import Charge, Release, promise, spent
from muster.runs.privacy.site import accounts
from muster.service.message import Task
from muster.service.private import Private
from muster.service.site.policy import Policy
from muster.service.site.vault import Vault

LOCAL = Local(epochs=2, batch=4, examples=PerExample(1.0, 2.0))
RULES = Policy(budget_epsilon=6.0, budget_delta=1e-4)
ROWS = 20


def plan(local=LOCAL, *stages):
    return Plan(
        task=tasks.numpy.SoftmaxRegression(4, 3), algorithm=algorithms.FedAvg(), local=local,
        pipeline=stages, weighting="equal", evaluate=Every(clients=0),
    )  # fmt: skip


def trained(folder, rounds, given=None, policy=RULES, run="r"):
    """So many rounds at a site whose vault is this folder; how many its budget let pass."""
    vault = Vault(folder)
    vault.enter(run, "a")
    try:
        site = Private(given or plan(), policy, vault, ROWS, lambda n: bytes(n))
        tasks_ = [Task(run, round, "a" * 64, 15.0) for round in range(1, rounds + 1)]
        return sum(site.refusal(task) is None for task in tasks_)
    finally:
        vault.close()


def test_what_was_charged_is_read_back_from_an_identity_or_a_vault(tmp_path):
    trained(tmp_path / "lyon" / "vault-1", 3)
    for folder in (tmp_path / "lyon", tmp_path / "lyon" / "vault-1"):
        (found,) = accounts(folder)
        assert found.budget.epsilon == 6.0
        assert found.ledger.epsilon == promise(LOCAL, ROWS, 3, 1e-4).epsilon
        assert found.left == 6.0 - found.ledger.epsilon
        (part,) = found.parts
        assert part == ("r", 3, 1, 3, found.ledger.epsilon)
        assert found.unit.startswith("one row of this site")


def test_what_is_left_is_what_the_budget_grants(tmp_path):
    trained(tmp_path / "v", 2)
    (before,) = accounts(tmp_path / "v")
    assert trained(tmp_path / "v", 50) == 2 + before.more
    (after,) = accounts(tmp_path / "v")
    assert after.more == 0
    assert after.ledger.epsilon <= 6.0


def test_runs_share_a_ledger_and_each_is_told_by_itself(tmp_path):
    rules = replace(RULES, ledger=str(tmp_path / "rows.json"))
    trained(tmp_path / "lyon" / "vault-1", 2, policy=rules, run="one")
    trained(tmp_path / "lyon" / "vault-2", 1, policy=rules, run="two")
    (found,) = accounts(tmp_path / "lyon")
    assert found.path == tmp_path / "rows.json"
    one, two = found.parts
    assert (one.run, one.trainings, two.run, two.trainings) == ("one", 2, "two", 1)
    assert one.epsilon == promise(LOCAL, ROWS, 2, 1e-4).epsilon
    assert two.epsilon < one.epsilon < found.ledger.epsilon
    (again,) = accounts(tmp_path / "lyon", rules)
    assert again == found


def test_each_vault_has_its_own_ledger_where_none_is_named(tmp_path):
    for number in (1, 2):
        trained(tmp_path / f"vault-{number}", number)
    assert [found.parts[0].trainings for found in accounts(tmp_path)] == [1, 2]


def test_noise_on_the_update_is_about_the_site_as_a_whole(tmp_path):
    local = Local(epochs=1, batch=4)
    stages = (pipeline.Clip(1.0), pipeline.LocalNoise(3.0, 1e-5))
    rules = replace(RULES, budget_epsilon=60.0, clip=0.5, noise=9.0)
    trained(tmp_path, 2, plan(local, *stages), rules)
    (found,) = accounts(tmp_path)
    assert found.unit.startswith("all rows of this site together")
    assert found.parts[0].trainings == 2, "a training with two mechanisms is one"
    assert len(found.ledger.entries) == 4
    once = [e.charge for e in found.ledger.entries[:2]]
    more = [replace(c, rounds=found.more) for c in once]
    assert spent([*found.ledger.charges, *more], 1e-4).epsilon <= 60.0
    more = [replace(c, rounds=found.more + 1) for c in once]
    assert spent([*found.ledger.charges, *more], 1e-4).epsilon > 60.0


def test_another_policy_says_another_budget(tmp_path):
    trained(tmp_path, 2)
    (found,) = accounts(tmp_path, replace(RULES, budget_epsilon=99.0))
    assert found.budget.epsilon == 99.0
    with pytest.raises(RunError, match=r"counts at delta 0.0001 and the budget at .* budget_delta"):
        accounts(tmp_path, replace(RULES, budget_delta=1e-6))


def test_a_site_that_has_not_trained_yet(tmp_path):
    trained(tmp_path, 0)
    (found,) = accounts(tmp_path)
    assert (found.parts, found.more, found.left) == ([], None, 6.0)


def test_a_ledger_without_a_note_has_no_known_budget(tmp_path):
    trained(tmp_path, 1)
    (tmp_path / "budget.json").unlink()
    (found,) = accounts(tmp_path)
    assert (found.budget, found.left, found.more) == (None, None, None)
    assert found.parts[0].trainings == 1


def test_what_is_no_ledger_is_refused(tmp_path):
    with pytest.raises(RunError, match="is no folder; give a site's identity, or its vault"):
        accounts(tmp_path / "nowhere")
    with pytest.raises(RunError, match=r"no ledger of privacy is in .* budget_epsilon and"):
        accounts(tmp_path)
    with pytest.raises(RunError, match="no ledger of privacy"):
        accounts(tmp_path, replace(RULES, ledger=str(tmp_path / "gone.json")))
    trained(tmp_path, 1)
    (tmp_path / "budget.json").write_text("{")
    with pytest.raises(RunError, match=r"budget.json cannot be read .* --policy site.toml"):
        accounts(tmp_path)
    (tmp_path / "budget.json").unlink()
    (tmp_path / "privacy.json").write_text("[]")
    with pytest.raises(MusterError, match="this is no privacy ledger"):
        accounts(tmp_path)


def test_charges_are_of_the_field(tmp_path):
    """A ledger that was written by hand, so that nothing of the writer is taken on trust."""
    charge = Charge(Release("gaussian", 5.0, 1.0), rounds=4, run="r/model/secret")
    from muster.privacy import Ledger

    (tmp_path / "privacy.json").write_text(Ledger(1e-5).enter(7, charge).to_json())
    (tmp_path / "budget.json").write_text(
        json.dumps({"epsilon": 3.0, "delta": 1e-5, "ledger": str(tmp_path / "privacy.json")})
    )
    (found,) = accounts(tmp_path)
    (part,) = found.parts
    assert (part.run, part.trainings, part.first, part.last) == ("r", 1, 7, 7)
