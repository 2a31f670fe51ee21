# SPDX-License-Identifier: Apache-2.0
"""The update pipeline: what happens to a payload between a client and the sum."""

from muster.pipeline.adaptive_clip import AdaptiveClip
from muster.pipeline.clip import Clip
from muster.pipeline.quantize import Quantize
from muster.pipeline.stage import Contract, Field, Pipeline, Stage

__all__ = ["AdaptiveClip", "Clip", "Contract", "Field", "Pipeline", "Quantize", "Stage"]
