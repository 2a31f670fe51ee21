# SPDX-License-Identifier: Apache-2.0
"""Client selection: who is invited in a round."""

from __future__ import annotations

from typing import Any

from muster.sampling.everybody import All
from muster.sampling.poisson import Poisson
from muster.sampling.rotation import Rotation
from muster.sampling.sampler import Sampler, SamplerTraits
from muster.sampling.uniform import Uniform
from muster.sampling.weighted import Weighted
from muster.spelling import absent
from muster.types import Cohort

__all__ = [
    "All",
    "Cohort",
    "Poisson",
    "Rotation",
    "Sampler",
    "SamplerTraits",
    "Uniform",
    "Weighted",
]


def __getattr__(name: str) -> Any:
    raise absent("muster.sampling", name, __all__)
