# SPDX-License-Identifier: Apache-2.0
"""The site's policy outranks the plan: who is refused, what is clipped, what is noised."""

from dataclasses import replace
from datetime import datetime

import numpy as np
import pytest
from tests.federation.site.scene import PLANS, plan, rows

from muster import Every, algorithms, keys, pipeline, sampling, tasks
from muster.errors import DataError, PlanError
from muster.federation.site.policy import Policy, read
from muster.local import Group, train
from muster.plan.registry import fingerprint
from muster.privacy import Secret
from muster.privacy.randomness import normal
from muster.rounds import start
from muster.vectors import leaves

torch = pytest.importorskip("torch")


def make_bn():
    """A model whose statistics are shared."""
    return torch.nn.Sequential(torch.nn.Linear(5, 3), torch.nn.BatchNorm1d(3))


def trained(plan, acting, source=None):
    """One client's round."""
    data = rows()
    blank = plan.fresh_memory(*plan.task.init(keys.key(plan.seed).at("init")))
    known = (blank,) if plan.remembers else None
    group = Group(("a",), (1,), *data, np.zeros(1, int), np.array([18]), known)
    return train(acting, "loop", 1, start(plan).sent(), group, None, source)


def test_a_file_is_read(tmp_path):
    path = tmp_path / "site.toml"
    path.write_text('fingerprints = ["0123456789ab"]\nhours = [22, 6]\nclip = 1\nnoise = 0.5\n')
    assert read(path) == Policy(("0123456789ab",), hours=(22, 6), clip=1, noise=0.5)


@pytest.mark.parametrize(
    "text, said",
    [
        ("clipp = 1.0", "'clipp', which is no rule"),
        ("clip = ", "cannot be read"),
        ("clip = 0", "clip = 0; give a number above 0"),
        ("clip = true", "clip = True"),
        ("clip = 1e300", "from 1e-30 to 1e30"),
        ("clip = 1\nnoise = 1e300", "from 1e-09 to 1e"),
        ("clip = 1\nnoise = 5e-324", "noise = 5e-324"),
        ("least_peers = 1", "least_peers = 1"),
        ("noise = 1.0", "give clip as well"),
        ("least_rows = 1.5", "least_rows = 1.5"),
        ("rounds_per_day = 0", "rounds_per_day = 0"),
        ("hours = [6]", "two different hours"),
        ("hours = [6, 6]", "two different hours"),
        ("hours = 6", "two different hours"),
        ('fingerprints = ["xyz"]', "12 to 64 digits"),
        ("clip = inf", "clip = inf"),
        ("study = '../x'", "the name of a study"),
        ("study = 3", "the name of a study"),
        ("new_runs = -1", "from 0 up"),
        ("extra_rounds = 1.5", "from 0 up"),
        ("repeated_rounds = -1", "from 0 up"),
        ("evaluations_per_day = 0", "above 0"),
        ("metrics = 'some'", "'hidden' or 'public'"),
        ("rows = true", "'hidden' or 'public'"),
        ("ledger = 'x'", "'ledger', which is no rule"),
        ("rows = 'hidden'\nmetrics = 'public'", "give metrics = 'hidden' as well"),
    ],
)
def test_a_file_that_says_nothing_sensible_is_refused(text, said, tmp_path):
    path = tmp_path / "site.toml"
    path.write_text(text)
    with pytest.raises(PlanError, match=said.replace("[", r"\[")):
        read(path)


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(PlanError, match="cannot be read"):
        read(tmp_path / "site.toml")


def test_only_known_plans_and_enough_rows(tmp_path):
    mark = fingerprint(PLANS["plain"])
    Policy(fingerprints=(mark[:12],), least_rows=18).check(PLANS["plain"], mark, 18)
    with pytest.raises(PlanError, match="not among the fingerprints"):
        Policy(fingerprints=("0" * 12,)).check(PLANS["plain"], mark, 18)
    with pytest.raises(DataError, match="least_rows = 19"):
        Policy(least_rows=19).check(PLANS["plain"], mark, 18)


@pytest.mark.parametrize(
    "refused, said",
    [
        (plan(algorithms.FedNova()), "beside its vectors"),
        (plan(task=tasks.torch.Classifier(make_bn)), "buffers"),
    ],
)
def test_what_noise_would_not_cover_is_refused(refused, said):
    Policy(clip=1.0).check(refused, "0" * 64, 1)
    with pytest.raises(PlanError, match=said):
        Policy(clip=1.0, noise=1.0).check(refused, "0" * 64, 1)


def test_hours():
    at = datetime(2026, 1, 1, 23, 30).timestamp()
    noon = datetime(2026, 1, 1, 12, 0).timestamp()
    night, day = Policy(hours=(22, 6)), Policy(hours=(8, 18))
    assert night.closed(at) is None and "22:00 to 6:00" in night.closed(noon)
    assert day.closed(noon) is None and day.closed(at)
    assert Policy().closed(at) is None


def test_metrics_are_told_unless_hidden_or_a_budget_would_not_count_them():
    budget = {"budget_epsilon": 1.0, "budget_delta": 1e-6}
    assert Policy().reports and Policy(metrics="public").reports
    assert not Policy(metrics="hidden").reports and not Policy(rows="hidden").reports
    assert not Policy(**budget).reports and Policy(**budget, metrics="public").reports


@pytest.mark.parametrize(
    "refused, said",
    [
        (plan(), "weighting = 'examples' counts a client by its rows"),
        (plan(weighting="equal", sampling=sampling.Weighted(3)), "draws clients by their rows"),
    ],
)
def test_rows_are_hidden_where_the_plan_needs_none(refused, said):
    Policy(rows="hidden").check(plan(weighting="equal"), "0" * 64, 18)
    with pytest.raises(PlanError, match=said):
        Policy(rows="hidden").check(refused, "0" * 64, 18)


def test_without_forced_stages_the_plan_is_the_plan():
    assert Policy(least_rows=3).guard(PLANS["plain"]) is PLANS["plain"]


def test_a_forced_clip_equals_the_clip_of_a_plan():
    forced = trained(PLANS["plain"], Policy(clip=0.01).guard(PLANS["plain"]))
    clipped = plan(pipeline=[pipeline.Clip(0.01)])
    same = trained(clipped, clipped)
    assert np.array_equal(forced.payload["delta"], same.payload["delta"])
    assert np.linalg.norm(forced.payload["delta"] / 18) == pytest.approx(0.01, rel=1e-5)


@pytest.mark.parametrize("name", PLANS)
def test_forced_stages_come_before_the_plans_own_and_keep_the_format(name):
    given = PLANS[name]
    free, forced = trained(given, given), trained(given, Policy(clip=0.01, noise=1).guard(given))
    for (path, a), (_, b) in zip(leaves(free.payload), leaves(forced.payload), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype), path


def test_forced_noise_is_a_function_of_the_secret_and_scaled_to_the_clip():
    policy, given = Policy(clip=0.01, noise=2.0), PLANS["plain"]
    acting, one = policy.guard(given), Secret(bytes(32))
    found = [trained(given, acting, s).payload["delta"] for s in (one, one, Secret(b"x" * 32))]
    assert np.array_equal(found[0], found[1]) and not np.array_equal(found[0], found[2])
    clipped = trained(given, Policy(clip=0.01).guard(given), one).payload["delta"]
    noise = (found[0] - clipped)[0] / 18 / 0.02
    assert abs(noise.mean()) < 0.5 and 0.7 < noise.std() < 1.3
    assert np.allclose(
        noise, normal(one.at("encode", 1, "forced", "delta", "a"), noise.size), atol=1e-3
    )


def test_a_payload_of_integers_cannot_be_clipped():
    given = plan()
    contract = given.stages.contracts[0]
    fields = tuple(field._replace(integer=True) for field in contract.fields)
    whole = replace(given.stages, contracts=(replace(contract, fields=fields),))
    given.__dict__["stages"] = whole
    with pytest.raises(PlanError, match="sends integers"):
        Policy(clip=1.0).check(given, "0" * 64, 1)


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"least_peers": 6}, "least_peers = 6, .* at most 6 .*: ask for at most 5, or"),
        ({"organisations": tuple("uvwxyz")}, "6 organisations, .* at most 6 .*: ask for at most 5"),
        ({"peers": ("ann", "bob", "cid")}, "3 peers, .* at least 5 .*: name more peers"),
    ],
)
def test_rules_that_no_sum_of_a_plan_can_meet_are_refused_when_it_is_met(rule, words):
    """It draws at most six, and opens no sum of fewer than five."""
    secure = pipeline.SecureSum(minimum=5, dropout=0.0, corrupt=0.05)
    stages = [pipeline.Clip(1.0), pipeline.Quantize(8), secure]
    given = plan(
        pipeline=stages, sampling=sampling.Uniform(count=6), evaluate=Every(clients=0), cap=9
    )
    with pytest.raises(PlanError, match=words):
        Policy(**rule).check(given, "a" * 64, 20)
    Policy(least_peers=5, organisations=tuple("vwxyz")).check(given, "a" * 64, 20)
    Policy(peers=tuple("vwxy")).check(given, "a" * 64, 20)
    anyone = replace(given, sampling=sampling.All())
    Policy(least_peers=6).check(anyone, "a" * 64, 20)


def test_a_plan_that_draws_more_than_a_site_with_rules_verifies_is_refused_when_it_is_met():
    stages = [pipeline.Clip(1.0), pipeline.Quantize(8), pipeline.SecureSum(corrupt=0.05)]
    more = {"pipeline": stages, "evaluate": Every(clients=0), "cap": 9}
    given = plan(sampling=sampling.Uniform(count=10_001), **more)
    with pytest.raises(PlanError, match=r"10001 .* verifies each .* at most 10000 .*: draw fewer"):
        Policy(organisations=("Inserm",)).check(given, "a" * 64, 20)
    Policy().check(given, "a" * 64, 20)
    fewer = plan(sampling=sampling.Uniform(count=10_000), **more)
    Policy(least_peers=9_999).check(fewer, "a" * 64, 20)


@pytest.mark.parametrize(
    "rule", [{"least_peers": 3}, {"peers": ("a", "b")}, {"organisations": ("Inserm",)}]
)
def test_rules_about_peers_need_a_plan_with_masks(rule):
    policy, bare = Policy(**rule), plan()
    with pytest.raises(PlanError, match="shows the server each update by itself"):
        policy.check(bare, fingerprint(bare), 18)
