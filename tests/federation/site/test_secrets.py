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
from muster.federation.protocol.message import TrainAssignment
from muster.federation.site.policy import Policy, read
from muster.federation.site.secrets import SiteSecrets, charges
from muster.federation.site.store import SiteStore, TrainingResult
from muster.federation.site.study import StudyRecord
from muster.keys import key
from muster.pipeline import Clip, DiscreteNoise, LocalNoise, Noise, Quantize
from muster.privacy import Charge, Selection, spent
from muster.privacy.book import LedgerFile
from muster.privacy.distributed import bounds
from muster.privacy.per_example import PerExample
from muster.privacy.shares import epsilon_alone, epsilon_as

LOCAL = (Clip(1.0), LocalNoise(2.0, 1e-5))
RULES = Policy(budget_epsilon=5.0, budget_delta=1e-5)


def plan(*stages, **fields):
    values = {
        "task": tasks.numpy.SoftmaxRegression(4, 3),
        "algorithm": algorithms.FedAvg(),
        "local": Local(epochs=2, batch=4, optimizer=optimizers.SGD(0.1)),
        "pipeline": stages,
        "weighting": "equal",
        "aggregation": aggregation.Mean("expected"),
        "evaluate": Every(clients=0),
    }
    return Plan(**(values | fields))


def task(round, run="r", model="a" * 64, attempt=1):
    return TrainAssignment(run, round, model, 15.0, attempt=attempt)


@pytest.fixture
def site_store(tmp_path):
    found = SiteStore(tmp_path / "vault")
    found.enter("r", "a")
    yield found
    found.close()


@pytest.fixture
def study(tmp_path):
    found = StudyRecord(tmp_path / "study", "default")
    yield found
    found.close()


@pytest.fixture
def private(site_store, study):
    def made(given=None, policy=None, entropy=os.urandom):
        return SiteSecrets(
            given or plan(*LOCAL), policy or Policy(), site_store, study, 20, entropy
        )

    return made


def entries(study, name="privacy.json"):
    return LedgerFile(study.folder / name).read(1e-5).entries


def test_what_a_client_draws_is_hidden_where_its_draws_are_its_privacy():
    assert plan(*LOCAL).veiled
    assert plan(Clip(1.0), Quantize(16), DiscreteNoise(1.0, 4), minimum=4).veiled
    assert plan(Clip(1.0), Quantize(8), pipeline.SecureSum()).veiled
    assert plan(local=Local(steps=1, examples=PerExample(1.0, 1.0))).veiled
    assert not plan(Clip(1.0), Noise(1.0)).veiled
    assert not plan(Clip(1.0), Quantize(8)).veiled


def test_a_secret_is_kept_until_the_fate_of_its_assignment_is_known(site_store, private):
    one = private()
    source = one.source(task(1))
    name = "noise-0000000001-0000000001-key"
    assert site_store.blobs.size(name) == 32
    assert private().source(task(1)) == source, "killed, and back"
    assert one.source(task(2)) != source
    assert one.source(task(1, model="b" * 64)) != source, "another model, other noise"
    assert one.source(task(1, attempt=2)) != source, "another attempt, another secret"
    assert os.stat(site_store.folder / name).st_mode & 0o077 == 0
    one.settle(1, 1)
    assert [n.split("-")[1:3] for n in site_store.blobs.names("noise-")] == [
        ["0000000001", "0000000002"],
        ["0000000002", "0000000001"],
    ]
    assert one.source(task(1)) != source
    one.settle(9, 1)
    assert [n.split("-")[1] for n in site_store.blobs.names("noise-")] == ["0000000002"]


def test_secrets_outlive_what_else_happens_in_a_vault(site_store, private):
    one = private()
    source = one.source(task(1))
    site_store.keep(task(1), TrainingResult({"delta": np.zeros(2)}, 1.0))
    site_store.forget()
    assert one.source(task(1)) == source


def test_an_assignment_whose_secret_is_gone_or_is_another_is_lost(site_store, study, private):
    one = private()
    study.begin(task(1), day="", secret=one.seal(task(1)))
    begun = study.begun(task(1))
    assert len(begun.secret) == 64 and not one.lost(task(1), begun)
    one.settle(1, 1)
    assert one.lost(task(1), begun)
    one.source(task(1))
    assert one.lost(task(1), begun), "one that was drawn since is another"
    assert not private(entropy=None).lost(task(1), begun), "a simulation draws from the seed"


def test_a_plan_without_client_noise_and_a_simulation_draw_from_the_seed(site_store, private):
    assert private(plan(Clip(1.0), Noise(1.0))).source(task(1)) is None
    assert private(entropy=None).source(task(1)) == key(0)
    assert private(plan(Clip(1.0), Noise(1.0))).seal(task(1)) == ""
    assert site_store.blobs.names("noise-") == []


def test_the_budget_of_the_site_stops_it_and_a_resumed_round_is_charged_once(study, private):
    one = private(policy=RULES)
    assert one.charge(task(1)) is None
    assert private(policy=RULES).charge(task(1)) is None
    assert len(entries(study)) == 1
    rounds = 1
    while one.charge(task(rounds + 1)) is None:
        rounds += 1
    (charge,) = charges(plan(*LOCAL), RULES, 20)
    assert (
        spent([charge] * rounds, 1e-5).epsilon <= 5.0 < spent([charge] * (rounds + 1), 1e-5).epsilon
    )
    said = one.charge(task(rounds + 1))
    assert said.startswith("the site's policy has a budget of privacy: the next release would")
    assert len(entries(study)) == rounds
    assert one.charge(task(rounds)) is None, "this round is in it"


def test_a_round_that_is_trained_again_with_another_secret_is_charged_again(study, private):
    one = private(policy=RULES)
    one.charge(task(1))
    one.settle(1, 1)
    one.charge(task(1))
    assert len(entries(study)) == 2
    forced = private(plan(), replace(RULES, clip=0.5, noise=9.0))
    for _ in range(2):
        assert forced.charge(task(2)) is None
        forced.settle(2, 1)
    assert len(entries(study)) == 4


def test_the_ledger_keys_an_assignment_by_all_of_its_digests(study, private):
    """Models that agree in their first 16 digits, and secrets alike, are two charges."""
    one, close = private(policy=RULES), "a" * 63 + "b"
    for given in (task(1), task(1, model=close), task(1, attempt=2)):
        assert one.charge(given) is None
    found = entries(study)
    assert len(found) == 3
    run, part, model, secret = found[0].charge.run.split("/")
    assert (run, part.partition(".")[0], model) == ("r", "1", "a" * 64)
    assert secret == one.seal(task(1)) and len(secret) == 64


def test_the_ledger_is_one_for_all_runs_and_vaults_of_a_study(study, private, tmp_path):
    private(policy=RULES).charge(task(1))
    other = SiteStore(tmp_path / "other")
    other.enter("r2", "a")
    SiteSecrets(plan(*LOCAL), RULES, other, study, 20, os.urandom).charge(task(1, run="r2"))
    other.close()
    assert [e.charge.run.split("/")[0] for e in entries(study)] == ["r", "r2"]


def test_the_study_says_which_budget_is_in_force(study, private):
    private(policy=RULES).joined()
    note = study.folder / "budget.json"
    assert json.loads(note.read_text()) == {
        "epsilon": 5.0,
        "delta": 1e-5,
        "own_share_only": False,
    }
    private(policy=replace(RULES, budget_epsilon=7.0, own_share_only=True)).joined()
    found = json.loads(note.read_text())
    assert found == {"epsilon": 7.0, "delta": 1e-5, "own_share_only": True}
    (study.folder / "budget.json.part").mkdir()
    with pytest.raises(RunError, match=r"budget.json cannot be written .* then join again"):
        private(policy=RULES).joined()


def test_a_budget_without_noise_of_ones_own_is_refused(private):
    shares = plan(Clip(1.0), Quantize(16), DiscreteNoise(1.0, 4), minimum=4)
    for given in (plan(), plan(Clip(1.0), Noise(1.0)), shares):
        with pytest.raises(PlanError, match=r"adds noise at the site; give noise in the policy"):
            private(given, RULES)
    forced = replace(RULES, clip=0.5, noise=4.0)
    assert private(plan(), forced).charge(task(1)) is None


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


SHARES = (Clip(1.0), Quantize(16), DiscreteNoise(8.0, 4), pipeline.SecureSum())


def test_by_its_own_share_alone_a_site_is_charged_for_the_noise_that_it_adds_itself():
    """Of four shares it adds a fourth of the variance: half of the multiplier."""
    given = plan(*SHARES, minimum=4)
    (counted,) = charges(given, RULES, 20)
    (own,) = charges(given, replace(RULES, own_share_only=True), 20)
    assert (counted.release.known, own.release.known) == (1, 3)
    reach, variance = own.release.sensitivity, given.stages.share_variance()
    assert variance == pytest.approx((4.0 * reach) ** 2), "the deviation is four sensitivities"
    line, _ = bounds(own.release)[1]
    assert line == pytest.approx(reach**2 / (2 * variance)), "that of no other noise"
    assert spent([own], 1e-5).epsilon > spent([counted], 1e-5).epsilon
    bare = plan(*SHARES[:-1], minimum=4)
    assert charges(bare, RULES, 20) == ()
    (seen,) = charges(bare, replace(RULES, own_share_only=True), 20)
    assert seen.release == own.release, "what is added before it is sent needs no mask"


def test_a_budget_of_own_shares_counts_so_what_was_charged_otherwise_before(study, private):
    given = plan(*SHARES, minimum=4)
    (once,) = charges(given, RULES, 20)
    both = epsilon_alone([once] * 2, 1e-5)
    assert spent([once] * 3, 1e-5).epsilon < both, "so three fit where the others are believed"
    rules = replace(RULES, budget_epsilon=both)
    assert private(given, rules).charge(task(1)) is None
    own = private(given, replace(rules, own_share_only=True))
    assert own.charge(task(2)) is None and own.charge(task(2)) is None
    assert "counted by its own share of the noise alone" in own.charge(task(3))
    (first, second) = entries(study)
    assert (first.charge.release.known, second.charge.release.known) == (1, 3)
    assert private(given, rules).charge(task(3)) is None, "who believes the others goes on"


def test_no_epsilon_of_shares_stands_in_a_ledger_without_what_it_takes_for_granted(study, private):
    given = plan(*SHARES, minimum=4)
    private(given, RULES).charge(task(1))
    held = json.loads((study.folder / "privacy.json").read_text())
    assert (held["assumes"]["others"], held["assumes"]["shares"]) == (2, 4)
    assert "who do not work with the server" in held["assumes"]["text"]
    own = replace(RULES, own_share_only=True, study="own")
    record = StudyRecord(study.folder / "own", "own")
    try:
        kept = SiteStore(study.folder / "vault")
        kept.enter("r", "a")
        SiteSecrets(given, own, kept, record, 20, os.urandom).charge(task(1))
        kept.close()
        assert "assumes" not in json.loads((record.folder / "privacy.json").read_text())
    finally:
        record.close()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("budget_epsilon = 2.0", "give both, or none"),
        ("own_share_only = true", "and no budget; give budget_epsilon"),
        ("own_share_only = 1", "own_share_only = 1; give true or false"),
        ("budget_delta = 1e-6", "give both, or none"),
        ("budget_epsilon = -1\nbudget_delta = 1e-6", "a number above 0"),
        ("budget_epsilon = 2.0\nbudget_delta = 1.0", r"a number in \(0, 1\)"),
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


def test_noise_and_seal_are_of_the_rows_the_plan_and_what_the_policy_forces(site_store, study):
    """The secret is one, as a vault that was put back still has it."""
    noisy = Policy(clip=1.0, noise=2.0)

    def made(rows=b"a", given=None, policy=noisy):
        return SiteSecrets(
            given or plan(), policy, site_store, study, 20, os.urandom, digest=lambda: rows
        )

    one = made()
    changed = [
        made(b"b"),
        made(given=plan(Clip(0.5))),
        made(policy=replace(noisy, noise=3.0)),
        made(policy=replace(noisy, clip=0.5)),
    ]
    assert made().seal(task(1)) == one.seal(task(1))
    assert made().source(task(1)) == one.source(task(1))
    study.begin(task(1), day="", secret=one.seal(task(1)))
    begun = study.begun(task(1))
    assert not made().lost(task(1), begun)
    for other in changed:
        assert other.seal(task(1)) != one.seal(task(1))
        assert other.source(task(1)) != one.source(task(1))
        assert other.lost(task(1), begun)
    assert len({other.seal(task(1)) for other in changed}) == len(changed)


def test_other_rows_under_one_secret_are_a_second_charge(site_store, study):
    """The whole site was put back to between the charge and the record of the assignment."""
    for rows in (b"a", b"a", b"b"):
        site = SiteSecrets(
            plan(*LOCAL), RULES, site_store, study, 20, os.urandom, digest=lambda rows=rows: rows
        )
        assert site.charge(task(1)) is None
    assert len(entries(study)) == 2
    assert len({entry.charge.run for entry in entries(study)}) == 2


def test_what_was_begun_otherwise_and_never_charged_is_not_charged_for_what_it_is_not(
    site_store, study
):
    """An update was kept under less noise, and waits for its masked sum under today's policy."""
    given, loud = plan(), replace(RULES, clip=0.5, noise=9.0)
    before = SiteSecrets(given, replace(loud, noise=1.0), site_store, study, 20, os.urandom)
    sealed = before.seal(task(1))
    now = SiteSecrets(given, loud, site_store, study, 20, os.urandom)
    assert "was begun with other rows, another plan or other noise" in now.charge(task(1), sealed)
    assert not entries(study)
    again = SiteSecrets(given, replace(loud, budget_epsilon=4.0), site_store, study, 20, os.urandom)
    assert again.charge(task(1), now.seal(task(1))) is None, "how much may be spent changes nothing"


def test_rows_that_change_within_a_run_are_no_fixed_settings(site_store, study):
    """Twenty rows, then two hundred: each of a batch's rows is drawn ten times less."""
    given = plan(local=Local(epochs=2, batch=4, examples=PerExample(1.0, 2.0)))
    rules = replace(RULES, budget_epsilon=1e3)
    for round, rows in ((1, 20), (2, 20), (3, 200)):
        site = SiteSecrets(given, rules, site_store, study, rows, os.urandom)
        assert site.charge(task(round)) is None
        ledger = LedgerFile(study.folder / "privacy.json").read(1e-5)
        assert (ledger.theorem == "fixed settings") == (round < 3)
    assert len({charge.amplification for charge in ledger.charges}) == 2
    assert ledger.theorem == "Rényi filter"
    assert ledger.epsilon >= spent(ledger.charges[:2], 1e-5).epsilon


@pytest.mark.parametrize("delta", [0.5, 0.05])
def test_a_delta_must_lie_below_one_over_the_rows(delta, private, study):
    with pytest.raises(PlanError, match="there are 20 rows: to publish one of them at random"):
        private(policy=replace(RULES, budget_delta=delta))
    private(policy=replace(RULES, budget_delta=0.049))


def test_a_ledger_that_has_lost_entries_is_not_gone_on_with(study, private):
    one = private(policy=RULES)
    for round in (1, 2):
        assert one.charge(task(round)) is None
    assert study.entries == 2
    book = LedgerFile(study.folder / "privacy.json")
    whole = book.path.read_text()
    for lost in (book.read(1e-5).entries[:1], ()):
        book.path.write_text(replace(book.read(1e-5), entries=lost).to_json())
        for keep in (False, True):
            with pytest.raises(RunError, match=r"is gone or was put back: it has [01] entries"):
                one.charge(task(3), keep=keep)
        book.path.write_text(whole)
    assert one.charge(task(3)) is None and study.entries == 3


@pytest.mark.parametrize("first", ["rows", "shares"])
def test_a_budget_counts_shares_for_single_rows_where_any_run_was_about_rows(
    first, site_store, study
):
    """A row that goes makes another update: twice as far as an update that is zero."""
    rows = plan(local=Local(epochs=1, batch=4, examples=PerExample(1.0, 2.0)))
    shares = plan(*SHARES, minimum=4)
    both = (*charges(rows, RULES, 20), *charges(shares, RULES, 20))
    by_row, by_update = epsilon_as(both, 1e-5, own=False), spent(both, 1e-5).epsilon
    assert by_update < by_row
    order = [rows, shares] if first == "rows" else [shares, rows]
    rules = replace(RULES, budget_epsilon=(by_row + by_update) / 2)
    sites = [SiteSecrets(given, rules, site_store, study, 20, os.urandom) for given in order]
    assert sites[0].charge(task(1)) is None
    assert "counted for single rows" in sites[1].charge(task(2))
    assert len(entries(study)) == 1
