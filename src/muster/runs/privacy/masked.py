# SPDX-License-Identifier: Apache-2.0
"""The masked sums of a run, as it recorded them."""

from __future__ import annotations

from itertools import chain

from muster.pipeline import SecureSum
from muster.privacy.mask import Mask, Sums
from muster.runs.run import Run

__all__ = ["mask_of"]


def mask_of(run: Run) -> Mask | None:
    """The secure sums of a run as they were made, at the worst of them; None without."""
    stages = run.facts.get("plan", {}).get("pipeline", ())
    found = [stage for stage in stages if stage["class"] == SecureSum.__name__]
    if not found:
        return None
    settings = {name: value for name, value in found[0].items() if name != "class"}
    rounds = [notes for record in run.history if (notes := record.get("secure"))]
    if not rounds:
        return Mask(settings)
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
            ring=worst["degree"] + 1 < worst["members"],
        ),
        SecureSum(**settings).chance(most, run.facts["plan"]["rounds"]),
    )
