# SPDX-License-Identifier: Apache-2.0
"""The site's policy outranks the plan: who is refused, what is clipped, what is noised."""

from dataclasses import replace
from datetime import datetime

import numpy as np
import pytest
from tests.service.site.scene import PLANS, plan, rows

from muster import algorithms, keys, pipeline, tasks
from muster.errors import DataError, PlanError
from muster.local import Group, train
from muster.plan.registry import fingerprint
from muster.rounds import start
from muster.service.site.policy import Guarded, Policy, gaussian, read
from muster.vectors import leaves

torch = pytest.importorskip("torch")


def make_bn():
    """A model whose statistics are shared."""
    return torch.nn.Sequential(torch.nn.Linear(5, 3), torch.nn.BatchNorm1d(3))


def trained(plan, acting):
    """One client's round."""
    data = rows()
    blank = plan.fresh_memory(*plan.task.init(keys.key(plan.seed).at("init")))
    known = (blank,) if plan.remembers else None
    group = Group(("a",), (1,), *data, np.zeros(1, int), np.array([18]), known)
    return train(acting, "loop", 1, start(plan).sent(), group)


def zero(size):
    """Entropy that is none."""
    return bytes(size)


def test_a_file_is_read(tmp_path):
    path = tmp_path / "site.toml"
    path.write_text('fingerprints = ["0123456789ab"]\nhours = [22, 6]\nclip = 1\nnoise = 0.5\n')
    assert read(path) == Policy(("0123456789ab",), hours=(22, 6), clip=1, noise=0.5)


@pytest.mark.parametrize("text, said", [
    ("clipp = 1.0", "'clipp', which is no rule"), ("clip = ", "cannot be read"),
    ("clip = 0", "clip = 0; give a number above 0"), ("clip = true", "clip = True"),
    ("noise = 1.0", "give clip as well"), ("least_rows = 1.5", "least_rows = 1.5"),
    ("rounds_per_day = 0", "rounds_per_day = 0"), ("hours = [6]", "two different hours"),
    ("hours = [6, 6]", "two different hours"), ("hours = 6", "two different hours"),
    ('fingerprints = ["xyz"]', "12 to 64 digits"), ("clip = inf", "clip = inf"),
])  # fmt: skip
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


@pytest.mark.parametrize("refused, said", [
    (plan(algorithms.FedNova()), "beside its vectors"),
    (plan(task=tasks.torch.Classifier(make_bn)), "buffers"),
])  # fmt: skip
def test_what_noise_would_not_cover_is_refused(refused, said):
    Policy(clip=1.0).check(refused, "0" * 64, 1)
    with pytest.raises(PlanError, match=said):
        Policy(clip=1.0, noise=1.0).check(refused, "0" * 64, 1)


def test_hours_and_rounds_a_day():
    at = datetime(2026, 1, 1, 23, 30).timestamp()
    noon = datetime(2026, 1, 1, 12, 0).timestamp()
    night, day = Policy(hours=(22, 6)), Policy(hours=(8, 18))
    assert night.declines(at, 0) is None and "22:00 to 6:00" in night.declines(noon, 0)
    assert day.declines(noon, 0) is None and day.declines(at, 0)
    assert Policy(rounds_per_day=2).declines(at, 1) is None
    assert "2 rounds a day" in Policy(rounds_per_day=2).declines(at, 2)
    assert Policy().declines(at, 99) is None


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


def test_noise_is_drawn_from_the_system_and_scaled_to_the_clip():
    policy, given = Policy(clip=0.01, noise=2.0), PLANS["plain"]
    one, two = (trained(given, policy.guard(given)).payload["delta"] for _ in range(2))
    assert not np.array_equal(one, two)
    fixed = trained(given, Guarded(given, policy, zero)).payload["delta"]
    clipped = trained(given, Policy(clip=0.01).guard(given)).payload["delta"]
    noise = gaussian(fixed.size, zero)
    assert np.allclose(fixed[0] / 18, clipped[0] / 18 + 0.02 * noise, atol=1e-6)


def test_the_numbers_are_gaussian():
    drawn = gaussian(200_001, zero)
    assert drawn.shape == (200_001,) and np.isfinite(drawn).all()
    assert abs(drawn.mean()) < 0.01 and abs(drawn.std() - 1) < 0.01
    assert abs((drawn**4).mean() - 3) < 0.1
    assert len(np.unique(drawn)) == len(drawn)
    assert not np.array_equal(gaussian(9), gaussian(9))


def test_a_payload_of_integers_cannot_be_clipped():
    given = plan()
    contract = given.stages.contracts[0]
    fields = tuple(field._replace(integer=True) for field in contract.fields)
    whole = replace(given.stages, contracts=(replace(contract, fields=fields),))
    given.__dict__["stages"] = whole
    with pytest.raises(PlanError, match="sends integers"):
        Policy(clip=1.0).check(given, "0" * 64, 1)
