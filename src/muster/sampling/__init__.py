# SPDX-License-Identifier: Apache-2.0
"""Client selection: who is invited in a round."""

from muster.sampling.everybody import All
from muster.sampling.poisson import Poisson
from muster.sampling.rotation import Rotation
from muster.sampling.uniform import Uniform
from muster.sampling.weighted import Weighted

__all__ = ["All", "Poisson", "Rotation", "Uniform", "Weighted"]
