# SPDX-License-Identifier: Apache-2.0
"""How large what was compressed may become, one step after the other."""

import pytest
import zstandard

from muster.federation.protocol.unpack import bounded
from muster.security.refusal import RefusalReason, Refused


def test_zstd_is_unpacked_in_steps_that_can_be_refused():
    steps = []
    bounded(steps.append)(bytearray(zstandard.compress(bytes(10 << 20))))
    assert sum(map(len, steps)) == 10 << 20 and max(map(len, steps)) <= 1 << 19
    with pytest.raises(Refused) as caught:
        bounded(steps.append)(bytearray(b"plain text"))
    assert caught.value.reason is RefusalReason.MALFORMED
