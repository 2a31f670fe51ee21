# SPDX-License-Identifier: Apache-2.0
"""A record of what a site joined is read back as written; odd ones are refused with a remedy."""

import json
from dataclasses import replace

import pytest
from tests.federation.coordinator.masked import plan_of

from muster import Local, PerExample, aggregation, pipeline
from muster.errors import RunError
from muster.federation.site.joined import JOINED, Joined, read, write
from muster.federation.site.peers import PeerRules
from muster.federation.site.policy import Policy

MASKED = plan_of(weighting="equal", cap=None)
SHARES = replace(
    MASKED,
    minimum=4,
    aggregation=aggregation.Mean("expected"),
    pipeline=(*MASKED.pipeline[:2], pipeline.DiscreteNoise(2.0, 4), pipeline.SecureSum()),
)
OPEN = replace(MASKED, pipeline=MASKED.pipeline[:1])
ROWS = replace(OPEN, local=Local(steps=2, batch=4, examples=PerExample(1.0, 2.0)))
RULES = Policy(least_peers=4, peers=["lyon", "paris-*"], organisations=["CNRS"])


@pytest.mark.parametrize(
    ("plan", "policy", "public", "own"),
    [
        (MASKED, RULES, False, []),
        (SHARES, Policy(), False, ["skellam"]),
        (OPEN, Policy(), True, []),
        (OPEN, Policy(metrics="hidden"), False, []),
        (OPEN, Policy(clip=1.0, noise=2.0), True, ["local gaussian"]),
        (ROWS, Policy(), False, ["gaussian"]),
        (plan_of(secure=pipeline.SecureSum(metrics="public")), Policy(), True, []),
    ],
)
def test_what_was_joined_is_read_back(plan, policy, public, own, tmp_path):
    made = Joined.of(plan, policy, 20, plain=False)
    write(tmp_path, Joined.of(OPEN, Policy(), 9, plain=True))
    write(tmp_path, made)
    found = read(tmp_path)
    assert found == replace(made, plan=json.loads(json.dumps(made.plan)))
    assert (found.carrier, found.public) == ("TLS", public)
    assert [release.mechanism for release in found.own] == own
    assert found.rows == (plan is ROWS)
    assert found.rules == PeerRules(policy.least_peers, policy.peers, policy.organisations)


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"plan": {}}', '{"releases": [{"mechanism": "x"}], "own": []}', "\x00"]
)
def test_what_is_odd_is_refused_and_written_anew_by_the_next_join(text, tmp_path):
    (tmp_path / JOINED).write_text(text)
    with pytest.raises(RunError, match="the next muster join writes it anew"):
        read(tmp_path)
    write(tmp_path, Joined.of(OPEN, Policy(), 9, plain=True))
    assert read(tmp_path).carrier == "plain"


def test_before_a_site_has_joined_there_is_nothing_and_a_bad_disk_is_said(tmp_path):
    assert read(tmp_path) is None
    with pytest.raises(RunError, match="repair the disk"):
        write(tmp_path / "gone", Joined.of(OPEN, Policy(), 9, plain=True))
