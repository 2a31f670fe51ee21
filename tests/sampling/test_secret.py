# SPDX-License-Identifier: Apache-2.0
"""Cohorts drawn from a secret: the same for the same secret, uniform, and no key's."""

import numpy as np

from muster import sampling
from muster.keys import key
from muster.privacy.randomness import Secret
from muster.types import Roster

TEN = Roster(tuple("abcdefghij"), lambda: np.ones(10, int))


def test_uniform_and_poisson_draw_from_secrets():
    secret = Secret(bytes(32)).at("sample", 1)
    for one in (sampling.Uniform(count=4), sampling.Poisson(0.5), sampling.All()):
        cohort, _ = one.sample(TEN, None, 1, secret, None)
        again, _ = one.sample(TEN, None, 1, secret, None)
        other, _ = one.sample(TEN, None, 1, secret.at(2), None)
        assert cohort == again
        assert list(cohort.clients) == sorted(set(cohort.clients))
        assert cohort != other or isinstance(one, sampling.All)
    counts = np.zeros(10)
    for i in range(3000):
        counts[secret.at(i).choice(10, 4)] += 1
    assert (abs(counts / 3000 - 0.4) < 0.05).all()
    assert key(0).choice(10, 4).tolist() == sorted(set(key(0).choice(10, 4).tolist()))
