# SPDX-License-Identifier: Apache-2.0
"""The statement about a run without noise: what its plan does, none of which is a promise."""

from __future__ import annotations

from typing import Any

from muster.plan.registry import spelled
from muster.privacy import AuditFinding, Statement
from muster.privacy.mask import described
from muster.runs.privacy.masked import mask_of
from muster.runs.records import RecordedRun

__all__ = ["unprotected"]

REASON = "no stage adds noise; put Clip(bound) and Noise(multiplier) into the pipeline"
SEEN = "the server, which sees each client's update by itself"
MASKED = "the server, which sees sums of updates, and whose updates are in them"
READERS = "whoever reads the released models"
WEIGHTS = {"equal": "each client counts once", "examples": "each client counts by its rows"}
DIVIDED = {
    "replies": "what the replies weigh",
    "expected": "what the replies are expected to weigh",
}


def unprotected(run: RecordedRun, audits: tuple[AuditFinding, ...] = ()) -> Statement:
    """Return the statement about one client of a run that adds no noise, from its recorded plan.

    No number in it is made up: sampling, weights and denominator are the plan's, and what a plan
    does not say is left out.
    """
    plan: dict[str, Any] = run.facts.get("plan") or {}
    secure = next((s for s in plan.get("pipeline") or () if s["class"] == "SecureSum"), None)
    replies = [len(r["accepted"]) for r in run.trained if not r.get("abandoned")]
    found = "; ".join(
        f"{a.name}: epsilon is at least {a.epsilon:.4g} at confidence {a.confidence:g}"
        for a in audits
    )
    items = {
        "privacy": "none: no epsilon bounds what this run reveals",
        "unit": "one client",
        "trust": f"{MASKED if secure else SEEN}; {READERS}",
        "mechanism": _mechanism(plan),
        "sampling": f"{spelled(plan['sampling'])}; no noise counts on it" if plan else "",
        "accountant": "none: there is no noise to account",
        "dropouts": f"fewest replies: {min(replies)}" if replies else "",
        "not covered": "everything that clients send, and what the models keep of it",
        "noise": "none",
        "audits": found or "none was made",
        "secure sum": described(mask_of(run)),
    }
    claim = "No privacy is claimed for this run:"
    return Statement(False, claim, (REASON,), {k: v for k, v in items.items() if v})


def _mechanism(plan: dict[str, Any]) -> str:
    parts = ["no noise"]
    if plan.get("weighting") in WEIGHTS:
        cap = plan.get("cap")
        parts.append(f"weights: {WEIGHTS[plan['weighting']]}{f', at most {cap}' if cap else ''}")
    rule = plan.get("aggregation") or {}
    if rule.get("class") == "Mean":
        parts.append(f"the sum is divided by {DIVIDED[rule['denominator']]}")
    elif rule:
        parts.append(f"updates are combined by {spelled(rule)}")
    return "; ".join(parts)
