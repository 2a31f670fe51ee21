# SPDX-License-Identifier: Apache-2.0
"""The update pipeline: what happens to a payload between a client and the sum."""

from __future__ import annotations

from typing import Any

from muster.pipeline.adaptive_clip import AdaptiveClip
from muster.pipeline.banded_noise import BandedNoise
from muster.pipeline.clip import Clip
from muster.pipeline.discrete_noise import DiscreteNoise
from muster.pipeline.local_noise import LocalNoise
from muster.pipeline.noise import Noise
from muster.pipeline.quantize import Quantize
from muster.pipeline.secure_sum import SecureSum
from muster.pipeline.stage import Contract, Field, Pipeline, Stage
from muster.spelling import absent

__all__ = [
    "AdaptiveClip",
    "BandedNoise",
    "Clip",
    "Contract",
    "DiscreteNoise",
    "Field",
    "LocalNoise",
    "Noise",
    "Pipeline",
    "Quantize",
    "SecureSum",
    "Stage",
]


def __getattr__(name: str) -> Any:
    raise absent("muster.pipeline", name, __all__)
