# SPDX-License-Identifier: Apache-2.0
"""A run's threat table: who learns what of a client, from what the run recorded and a policy."""

from __future__ import annotations

from typing import Any

from muster.privacy import Release
from muster.privacy.threats import Peers, Setting, Threat, threats
from muster.runs.privacy.facts import statements
from muster.runs.privacy.masked import mask_of, own_needed
from muster.runs.run import Run

__all__ = ["setting_of", "table"]


def table(run: Run, peers: Peers | None = None) -> tuple[Threat, ...]:
    """Return a line for each reader of a run; none before the first sum of a plan with masks.

    `peers` are a site's rules about its peers, None where those are not known.
    """
    setting = setting_of(run, peers)
    return () if setting is None else threats(setting)


def setting_of(run: Run, peers: Peers | None = None) -> Setting | None:
    """Return the setting of a run's threat table; None if masked sums were planned, none made.

    The roster is that of the sums as they were made: the worst of them counts.
    """
    mask = mask_of(run)
    if mask is not None and mask.worst is None:
        return None
    kept: dict[str, Any] = run.facts.get("privacy") or {}
    releases = [Release(**release) for release in kept.get("releases", ())]
    return Setting(
        run.facts.get("carrier", "one machine"),
        None if mask is None else mask.worst,
        statements(run),
        frozenset(release.trust for release in releases),
        rows=bool(run.facts.get("examples")),
        public=mask is not None and mask.public,
        peers=peers,
        own=own_needed(run.facts.get("plan", {}), releases, peers),
    )
