# SPDX-License-Identifier: Apache-2.0
"""The table says of a site what really travels: its line of the server against the wire.

Real sites under each plan and policy, at a server that keeps all it hears. What is compared is what
came over the wire (the fields of `Hello`, `UpdateHeader`, `Progress`, `Measured`, and the header
of metrics in a secure sum), never a second list of what should come.
"""

import json
from dataclasses import replace
from itertools import product

import pytest
from tests.adversary.rogue import Rogue, Site
from tests.adversary.sums import Session, Sums
from tests.federation.coordinator.masked import plan_of
from tests.federation.site.hub import said
from tests.federation.site.scene import LOCAL, plan

from muster import Every, PerExample, pipeline
from muster.errors import PlanError
from muster.federation.protocol.message import Measured
from muster.federation.site.policy import Policy
from muster.plan.registry import to_value
from muster.plan.told import told_of, told_of_value
from muster.privacy.told import Disclosure
from muster.runs.privacy.site import studies

STAGES = {"plain": (), "noise": (pipeline.Clip(1.0), pipeline.LocalNoise(8.0, 1e-5))}
EXAMPLES = {
    "plain": None,
    "hidden": PerExample(1.0, 2.0),
    "public": PerExample(1.0, 2.0, metrics="public"),
}
EVALUATES = {"asks": Every(), "asks nobody": Every(clients=0)}
BUDGET = {"budget_epsilon": 90.0, "budget_delta": 1e-5}
POLICIES = {
    "none": Policy(),
    "hidden": Policy(metrics="hidden"),
    "public": Policy(metrics="public"),
    "rows": Policy(rows="hidden"),
    "noise": Policy(clip=1.0, noise=4.0),
    "budget": Policy(clip=1.0, noise=4.0, **BUDGET),
    "budget, public": Policy(clip=1.0, noise=4.0, metrics="public", **BUDGET),
}


def built(stages, examples, evaluate):
    """The plan of a setting; None where a plan like that is refused."""
    local = replace(LOCAL, examples=EXAMPLES[examples])
    try:
        return plan(
            local=local, pipeline=STAGES[stages], evaluate=EVALUATES[evaluate], weighting="equal"
        )
    except PlanError:
        return None


SETTINGS = [
    (*names, policy)
    for *names, policy in product(STAGES, EXAMPLES, EVALUATES, POLICIES)
    if built(*names) is not None
]


def heard(hellos, trained, measured):
    """Return what came: whether it holds the number of rows, a loss, metrics of an evaluation."""
    enrolled = any(hello.rows > 1 for hello in hellos)  # one stands for a number that is kept
    return {
        "rows": enrolled or any("rows" in one for one in (*trained, *measured)),
        "loss": any("loss" in one for one in trained),
        "metrics": bool(measured),
    }


def line_of(home):
    """Return what the server learns by a site's own table."""
    (study,) = studies(home)
    (found,) = [one for one in study.threats if one.reader == "the server"]
    return found.learns


def says(learns):
    """Return what a line of the server says is told beside updates or sums."""
    beside = learns.replace("SecureSum(metrics='public')", "")
    return {
        "rows": "row count" in beside,
        "loss": "loss" in beside,
        "metrics": "metrics" in beside,
    }


def expected(told):
    """The same of a derived value."""
    return {"rows": told.rows, "loss": told.trained, "metrics": told.measured}


@pytest.mark.parametrize(("stages", "examples", "evaluate", "policy"), SETTINGS)
def test_the_table_says_what_travels(stages, examples, evaluate, policy, tmp_path):
    given, rules = built(stages, examples, evaluate), POLICIES[policy]
    site, rogue = Site(tmp_path, given, rules), Rogue(given, [])
    rogue.script = [rogue.task(1), rogue.settled(1), rogue.evaluate(1)]
    site.attend(rogue)
    ((update, _),) = rogue.updates
    travelled = heard(
        rogue.hellos,
        [update.metrics],
        [answer.metrics for answer in rogue.of(Measured)],
    )
    assert says(line_of(site.study)) == travelled
    assert expected(told_of(given, rules.keeps)) == travelled
    assert told_of_value(to_value(given), rules.keeps) == told_of(given, rules.keeps)
    noisy = stages == "noise" or rules.noise is not None
    assert ("own noise" in line_of(site.study)) == (noisy and examples == "plain")
    assert ("noise hides single rows" in line_of(site.study)) == (examples != "plain")


class Mixed(Sums):
    """Five sites with a policy each; what they say beside their masked vectors is kept.

    When the sum is open each is asked to measure a model.
    """

    def __init__(self, home, plan, policies):
        super().__init__(home, plan=plan)
        self.policies = dict(zip(self.names, policies, strict=True))
        self.told, self.asked = {name: [] for name in self.names}, set()

    async def _site(self, stack, hand, name):
        self.habits = replace(self.habits, policy=self.policies[name])
        return await super()._site(stack, hand, name)

    def handle(self, name, request):
        if beside := request.headers.get("muster-metrics"):
            self.told[name].append(json.loads(beside))
        answer = super().handle(name, request)
        if request.url.path == "/v1/poll" and self.now is None and name not in self.asked:
            self.asked.add(name)
            return said(self.sites[name].evaluate(1))
        return answer


MASKED = [
    (metrics, examples, evaluate)
    for metrics, examples, evaluate in product(("hidden", "public"), EXAMPLES, EVALUATES)
    if not ("hidden" in (metrics, examples) and evaluate == "asks")
]


@pytest.mark.parametrize(("metrics", "examples", "evaluate"), MASKED)
def test_the_table_says_what_travels_beside_a_masked_sum(metrics, examples, evaluate, tmp_path):
    given = replace(
        plan_of(rounds=5, secure=pipeline.SecureSum(metrics=metrics)),
        evaluate=EVALUATES[evaluate],
    )
    given = replace(given, local=replace(given.local, examples=EXAMPLES[examples]))
    policies = [POLICIES[name] for name in ("none", "hidden", "public", "rows", "none")]
    sums = Mixed(tmp_path, given, policies)
    sums.lead(Session(sums.names, most=float("inf")))
    shown = set()
    for name, rules in sums.policies.items():
        site = sums.sites[name]
        travelled = heard(
            site.hellos,
            sums.told[name],
            [answer.metrics for answer in site.of(Measured)],
        )
        assert not site.updates, "no update travels by itself"
        assert says(line_of(sums.home / name)) == travelled
        assert expected(told_of(given, rules.keeps)) == travelled
        assert told_of_value(to_value(given), rules.keeps) == told_of(given, rules.keeps)
        shown.add(travelled["loss"])
    assert shown == ({False, True} if "hidden" not in (metrics, examples) else {False})


def test_the_settings_reach_all_that_may_be_told():
    """So the property above is not of a corner: every value of `Disclosure` that can be, is."""
    found = {told_of(built(*names), POLICIES[policy].keeps) for *names, policy in SETTINGS}
    assert found == {
        Disclosure(True, True, True),
        Disclosure(True, True, False),
        Disclosure(True, False, False),
        Disclosure(False, False, False),
    }
