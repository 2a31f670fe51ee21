# SPDX-License-Identifier: Apache-2.0
"""A site's own privacy: secrets before use and gone after, its budget whatever the server says."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest

from muster import (
    Every,
    Local,
    Plan,
    aggregation,
    algorithms,
    optimizers,
    pipeline,
    sampling,
    tasks,
)
from muster.errors import PlanError, RunError
from muster.keys import key
from muster.pipeline import Clip, DiscreteNoise, LocalNoise, Noise, Quantize
from muster.privacy import Charge, Selection, spent
from muster.privacy.book import Book
from muster.privacy.per_example import PerExample
from muster.service.message import Task
from muster.service.private import Private, charges, veiled
from muster.service.site.policy import Policy, read
from muster.service.site.vault import Made, Vault

LOCAL = (Clip(1.0), LocalNoise(2.0, 1e-5))
RULES = Policy(budget_epsilon=5.0, budget_delta=1e-5)


def plan(*stages, **fields):
    values = {
        "task": tasks.numpy.SoftmaxRegression(4, 3), "algorithm": algorithms.FedAvg(),
        "local": Local(epochs=2, batch=4, optimizer=optimizers.SGD(0.1)), "pipeline": stages,
        "weighting": "equal", "aggregation": aggregation.Mean("expected"),
        "evaluate": Every(clients=0),
    }  # fmt: skip
    return Plan(**(values | fields))


def task(round, run="r", model="a" * 64):
    return Task(run, round, model, 15.0)


@pytest.fixture
def vault(tmp_path):
    found = Vault(tmp_path / "vault")
    found.enter("r", "a")
    yield found
    found.close()


def private(vault, given=None, policy=None, entropy=os.urandom):
    return Private(given or plan(*LOCAL), policy or Policy(), vault, 20, entropy)


def test_what_a_client_draws_is_hidden_where_its_draws_are_its_privacy():
    assert veiled(plan(*LOCAL))
    assert veiled(plan(Clip(1.0), Quantize(16), DiscreteNoise(1.0, 4), minimum=4))
    assert veiled(plan(Clip(1.0), Quantize(8), pipeline.SecureSum()))
    assert veiled(plan(local=Local(steps=1, examples=PerExample(1.0, 1.0))))
    assert not veiled(plan(Clip(1.0), Noise(1.0)))
    assert not veiled(plan(Clip(1.0), Quantize(8)))


def test_a_secret_is_kept_until_the_fate_of_its_round_is_known(vault):
    one = private(vault)
    source = one.source(task(1))
    name = "noise-000001-key"
    assert vault.blobs.size(name) == 32
    assert private(vault).source(task(1)) == source, "killed, and back"
    assert one.source(task(2)) != source
    assert one.source(task(1, model="b" * 64)) != source, "another model, other noise"
    assert os.stat(vault.folder / name).st_mode & 0o077 == 0
    one.settle(1)
    assert vault.blobs.names("noise-") == ["noise-000002-key"]
    assert one.source(task(1)) != source


def test_secrets_outlive_what_else_happens_in_a_vault(vault):
    one = private(vault)
    source = one.source(task(1))
    vault.keep(task(1), Made({"delta": np.zeros(2)}, 1.0))
    vault.forget()
    assert one.source(task(1)) == source


def test_a_plan_without_client_noise_and_a_simulation_draw_from_the_seed(vault):
    assert private(vault, plan(Clip(1.0), Noise(1.0))).source(task(1)) is None
    assert private(vault, entropy=None).source(task(1)) == key(0)
    assert vault.blobs.names("noise-") == []


def test_the_budget_of_the_site_stops_it_and_a_resumed_round_is_charged_once(vault):
    one = private(vault, policy=RULES)
    assert one.refusal(task(1)) is None
    assert private(vault, policy=RULES).refusal(task(1)) is None
    book = Book(vault.folder / "privacy.json")
    assert len(book.read(1e-5).entries) == 1
    rounds = 1
    while one.refusal(task(rounds + 1)) is None:
        rounds += 1
    (charge,) = charges(plan(*LOCAL), RULES, 20)
    assert (
        spent([charge] * rounds, 1e-5).epsilon <= 5.0 < spent([charge] * (rounds + 1), 1e-5).epsilon
    )
    said = one.refusal(task(rounds + 1))
    assert said.startswith("the site's policy has a budget of privacy: the next release would")
    assert len(book.read(1e-5).entries) == rounds
    assert one.refusal(task(rounds)) is None, "this round is in it"


def test_a_round_that_is_trained_again_with_another_secret_is_charged_again(vault):
    one = private(vault, policy=RULES)
    one.refusal(task(1))
    one.settle(1)
    one.refusal(task(1))
    assert len(Book(vault.folder / "privacy.json").read(1e-5).entries) == 2
    forced = private(vault, plan(), replace(RULES, clip=0.5, noise=9.0))
    for _ in range(2):
        assert forced.refusal(task(2)) is None
        forced.settle(2)
    assert len(Book(vault.folder / "privacy.json").read(1e-5).entries) == 4


def test_the_ledger_may_be_one_for_all_runs_on_these_rows(vault, tmp_path):
    rules = replace(RULES, ledger=str(tmp_path / "rows.json"))
    private(vault, policy=rules).refusal(task(1))
    private(vault, policy=rules).refusal(task(1, run="other"))
    assert len(Book(tmp_path / "rows.json").read(1e-5).entries) == 2


def test_the_vault_says_which_budget_is_in_force_and_where_its_ledger_is(vault, tmp_path):
    private(vault, policy=RULES)
    said = {"epsilon": 5.0, "delta": 1e-5, "ledger": str(vault.folder / "privacy.json")}
    assert json.loads((vault.folder / "budget.json").read_text()) == said
    private(vault, policy=replace(RULES, budget_epsilon=7.0, ledger=str(tmp_path / "rows.json")))
    said |= {"epsilon": 7.0, "ledger": str(tmp_path / "rows.json")}
    assert json.loads((vault.folder / "budget.json").read_text()) == said
    (vault.folder / "budget.json.part").mkdir()
    with pytest.raises(RunError, match=r"budget.json cannot be written .* then join again"):
        private(vault, policy=RULES)


def test_a_budget_without_noise_of_ones_own_is_refused(vault):
    for given in (plan(), plan(Clip(1.0), Noise(1.0)), plan(Clip(1.0), Quantize(16), DiscreteNoise(1.0, 4), minimum=4)):  # fmt: skip # noqa: E501
        with pytest.raises(PlanError, match=r"adds noise at the site; give noise in the policy"):
            private(vault, given, RULES)
    forced = replace(RULES, clip=0.5, noise=4.0)
    assert private(vault, plan(), forced).refusal(task(1)) is None


def test_what_is_charged():
    (local,) = charges(plan(*LOCAL), RULES, 20)
    assert (local.release.mechanism, local.rounds) == ("local gaussian", 1)
    (forced,) = charges(plan(), Policy(clip=0.5, noise=4.0), 20)
    assert (forced.release.multiplier, forced.release.sensitivity) == (2.0, 1.0)
    rows = plan(local=Local(epochs=2, batch=4, examples=PerExample(1.0, 1.1)))
    assert charges(rows, RULES, 20) == (
        Charge(charges(rows, RULES, 20)[0].release, Selection("poisson", 0.2), 10),
    )
    dealt = replace(rows, local=replace(rows.local, examples=PerExample(1.0, 1.1, "shuffled")))
    assert charges(dealt, RULES, 20)[0].selection == Selection()
    masked = plan(Clip(1.0), Quantize(16), DiscreteNoise(1.0, 4), pipeline.SecureSum(), minimum=4)
    assert charges(masked, RULES, 20)[0].release.mechanism == "skellam"
    assert charges(plan(Clip(1.0), Noise(1.0)), RULES, 20) == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("budget_epsilon = 2.0", "give both, or none"),
        ("budget_delta = 1e-6", "give both, or none"),
        ("budget_epsilon = -1\nbudget_delta = 1e-6", "a number above 0"),
        ("budget_epsilon = 2.0\nbudget_delta = 1.0", r"a number in \(0, 1\)"),
        ("ledger = ''", "the name of a file"),
    ],
)
def test_a_policy_with_half_a_budget_is_refused(tmp_path, text, said):
    path = tmp_path / "site.toml"
    path.write_text(text)
    with pytest.raises(PlanError, match=said):
        read(path)


def test_sampling_has_nothing_to_do_with_it():
    assert (
        charges(plan(*LOCAL, sampling=sampling.Poisson(0.1)), RULES, 20)[0].selection == Selection()
    )
