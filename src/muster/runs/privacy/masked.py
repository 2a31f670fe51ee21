# SPDX-License-Identifier: Apache-2.0
"""The masked sums of a run, as it recorded them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

from muster.extras import require
from muster.pipeline import SecureSum
from muster.plan.quorum import needed, target_replies
from muster.plan.told import told_of_value
from muster.privacy.distributed import known_shares
from muster.privacy.invited import MOST, Invited, fewest_own
from muster.privacy.mask import Mask, Sums
from muster.privacy.release import Release
from muster.privacy.threats import Peers
from muster.runs.records import RecordedRun

__all__ = ["honest_shares", "mask_of", "own_needed", "settings_of"]


def mask_of(run: RecordedRun) -> Mask | None:
    """Return the secure sums of a run as they were made, at the worst of them; None without."""
    settings = settings_of(run.facts.get("plan", {}))
    if settings is None:
        return None
    public = told_of_value(run.facts["plan"]).trained
    rounds = [notes for record in run.history if (notes := record.get("secure"))]
    if not rounds:
        return Mask(settings, public=public)
    worst = min(chain(*rounds), key=lambda note: (note["honest"], note["threshold"]))
    most = max(sum(note["members"] for note in notes) for notes in rounds)
    return Mask(
        settings,
        Sums(
            worst["members"],
            worst["threshold"],
            worst["honest"],
            worst["colluders"],
            worst["losses"],
            ring=_ring(worst),
        ),
        SecureSum(**settings).chance(most, run.facts["plan"]["rounds"]),
        public=public,
    )


def settings_of(plan: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the settings of a recorded plan's SecureSum (`registry.to_value`); None without."""
    found = [one for one in plan.get("pipeline", ()) if one["class"] == SecureSum.__name__]
    return {name: value for name, value in found[0].items() if name != "class"} if found else None


def own_needed(
    plan: Mapping[str, Any], releases: Iterable[Release], peers: Peers | None
) -> int | None:
    """Count the own clients that a server needs which chooses whom it invites beside one other.

    By a recorded plan, what its stages release, and a site's rules, None where those are not known.
    None where masks hide nothing, or no number would do.
    """
    settings = settings_of(plan)
    if settings is None:
        return None
    secure, rules = SecureSum(**settings), peers or Peers()
    honest = max((one.survivors - one.known for one in releases if one.discrete), default=0)
    drawn = 0 if rules.least else _drawn(plan) // secure.groups  # with least_peers it takes fewer

    def session(size: int) -> Invited | None:
        if (
            honest and size > require("muster.secagg.graph", extra="site").FULL
        ):  # no site takes part: see `SecureSum.terms`
            return None
        made = secure.bears(
            size, needed(plan["minimum"], target_replies(size, plan["overselect"])), honest
        )
        return Invited(made.minimum, made.colluders) if made.hides else None

    most = rules.names if rules.named else MOST - 1
    seen = range(max(3, 1 + rules.others), 2 + most)
    return fewest_own(session, max(drawn, 1 + rules.least), seen)


def _drawn(plan: Mapping[str, Any]) -> int:
    """Count the clients that a recorded plan draws; 0 where it does not say."""
    count = int(plan["sampling"].get("count") or 0)
    return math.ceil(count * float(plan["overselect"]))


def honest_shares(run: RecordedRun, mask: Mask) -> int | None:
    """Return the fewest honest clients that a sum is sure to hold; None before the first.

    All who may work together of those who were invited may be among those whose sum was opened; of
    a ring, a part may have been opened.
    """
    corrupt = float(mask.settings["corrupt"])
    counted = (record for record in run.history if record["accepted"] and not record["abandoned"])
    return min((_sure(record, corrupt) for record in counted), default=None)


def _sure(record: Mapping[str, Any], corrupt: float) -> int:
    """Count the honest clients that whatever was opened in one round is sure to hold."""
    parts = [int(note["honest"]) for note in record.get("secure", ()) if _ring(note)]
    return min([len(record["accepted"]) - known_shares(len(record["invited"]), corrupt), *parts])


def _ring(note: Mapping[str, Any]) -> bool:
    """Return whether the clients of a recorded sum shared with some of the others only."""
    return bool(note["degree"] + 1 < note["members"])
