# SPDX-License-Identifier: Apache-2.0
"""A hundred writers of digits, each of whom the released model hides.

    muster run examples/private_digits.py       simulate it: accuracy and ε by round
    muster privacy                              what may be claimed, or why nothing is
    muster audit privacy latest examples/private_digits.py

The server is trusted: it sees each writer's clipped update and adds the noise. With the plan served
to real sites (`muster serve`) the noise comes from secrets; a simulation's comes from the seed.
"""

import muster
from muster import aggregation, algorithms, data, optimizers, pipeline, privacy, sampling, tasks

plan = muster.Plan(
    task=tasks.numpy.SoftmaxRegression(64, 10),
    algorithm=algorithms.FedAvg(),
    local=muster.Local(epochs=5, batch=16, optimizer=optimizers.SGD(0.1)),
    # Each writer tosses a secret coin: nobody knows who took part, which the accountant may use.
    sampling=sampling.Poisson(0.3),
    # No writer moves the sum by more than 1; the sum gets noise of that size.
    pipeline=(pipeline.Clip(1.0), pipeline.Noise(1.0)),
    # The sum is divided by the expected cohort: the number that answered would tell who took part.
    aggregation=aggregation.Mean("expected"),
    weighting="equal",
    rounds=40,
    evaluate=muster.Every(5, clients=0),
    # The run stops before it reveals more. Delta must lie below one over the writers.
    budget=privacy.Budget(epsilon=10.0, delta=1e-3),
)


def population() -> data.Federation:
    """Return digits, dealt to a hundred writers, with central test rows."""
    return data.digits(clients=100)
