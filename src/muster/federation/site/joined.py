# SPDX-License-Identifier: Apache-2.0
"""The federation a site joined last, in its study's folder: enough to say who learns what of it.

It is what this site knows itself, its own plan and policy, and nothing that a server said.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from muster.errors import PlanError, RunError
from muster.federation.site.note import write_note
from muster.federation.site.peers import PeerRules
from muster.federation.site.policy import Policy
from muster.federation.site.secrets import charges
from muster.plan import Plan
from muster.plan.registry import to_value
from muster.plan.told import told_of
from muster.privacy import Release
from muster.privacy.told import Disclosure

__all__ = ["JOINED", "Joined", "read", "write"]

JOINED = "joined.json"


@dataclass(frozen=True)
class Joined:
    """A plan under a policy, as a site joined it.

    `plan` is its recorded value (`registry.to_value`); `releases` what its stages release; `own`
    the noise that this site adds itself, by plan or policy; `carrier` how its messages travel;
    `rows` whether its local steps hide single rows; `told` what is told beside its updates; `rules`
    with whom its updates are summed.
    """

    plan: Mapping[str, Any]
    releases: tuple[Release, ...]
    own: tuple[Release, ...]
    carrier: Literal["TLS", "plain"]
    rows: bool
    told: Disclosure
    rules: PeerRules

    @classmethod
    def of(cls, plan: Plan, policy: Policy, rows: int, *, plain: bool) -> Joined:
        """Return the record of what a site with so many rows joins, over `plain` HTTP or TLS."""
        return cls(
            to_value(plan),
            plan.stages.releases(),
            tuple(charge.release for charge in charges(plan, policy, rows)),
            "plain" if plain else "TLS",
            plan.local.examples is not None,
            told_of(plan, policy.keeps),
            policy.room,
        )


def write(folder: Path, joined: Joined) -> None:
    """Put it in the folder, in the place of what was there. Raises `RunError`."""
    write_note(folder / JOINED, asdict(joined))


def read(folder: Path) -> Joined | None:
    """Return the record of what this study joined last; None before that.

    Raises `RunError` where it is odd.
    """
    path = folder / JOINED
    if not path.exists():
        return None
    try:
        kept = json.loads(path.read_text("utf-8"))
        noise = {name: tuple(Release(**one) for one in kept[name]) for name in ("releases", "own")}
        parts = {"rules": PeerRules(**kept["rules"]), "told": Disclosure(**kept["told"])}
        return Joined(**kept | noise | parts)
    except (OSError, ValueError, KeyError, TypeError, PlanError) as error:
        raise RunError(
            f"{path} cannot be read ({error}); the next muster join writes it anew"
        ) from error
