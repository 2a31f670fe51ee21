# SPDX-License-Identifier: Apache-2.0
"""Four hospitals, of each of which the released model hides the whole update: what that costs.

    muster run examples/private_hospitals.py

With four clients the noise that hides one of them hides most of what they learn together: see the
table in docs/privacy.md. Where patients are to be hidden and not hospitals, use
Local(examples=PerExample(...)) instead.
"""

import muster
from muster import aggregation, algorithms, data, optimizers, pipeline, privacy, tasks

plan = muster.Plan(
    task=tasks.numpy.LogisticRegression(13),
    algorithm=algorithms.FedAvg(),
    local=muster.Local(steps=100, batch=4, optimizer=optimizers.SGD(0.01)),
    pipeline=(pipeline.Clip(0.25), pipeline.Noise(1.0)),
    aggregation=aggregation.Mean("expected"),
    weighting="equal",
    rounds=8,
    budget=privacy.Budget(epsilon=15.0, delta=1e-3),
)


def population() -> data.Federation:
    """Return Cleveland, Hungary, Switzerland and Long Beach, with all their test patients."""
    return data.heart_disease()
