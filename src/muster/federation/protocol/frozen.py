# SPDX-License-Identifier: Apache-2.0
"""How parameters that nobody trains travel: in a body of their own, once.

A model's body has the SHA-256 of theirs in their place. So one digest still names the whole model,
in assignments, logs and secure sums; a site that holds them fetches nothing, and one that is told
of others fetches those.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from muster.federation.protocol.codec_tensors import check_header, digest, encode
from muster.types import Sent, Tree

__all__ = ["NAME", "digest_of", "named_in", "once", "without"]

NAME = np.zeros(32, np.uint8)  # what stands for them in a model's body: the form of a SHA-256


def once(frozen: Any) -> Tree:
    """Return the tree that is sent once: the parameters that nobody trains, `(f,)`."""
    return {"frozen": frozen}


def digest_of(frozen: Any) -> str:
    """Return the SHA-256 of the body that holds them."""
    return digest(encode(once(frozen)))


def without(sent: Sent, digest: str) -> Sent:
    """Return the tree that is sent each round; `digest` is that of the body that is sent once.

    >>> without(Sent(None, (), None, np.ones(9)), "ff" * 32).frozen.shape
    (32,)
    """
    return sent._replace(frozen=np.frombuffer(bytes.fromhex(digest), np.uint8))


def named_in(body: Any, template: Sent) -> str | None:
    """Read off a model's body the digest of the frozen parameters that go with it; None for none.

    `template` is that of the model (`template.sent_template`). Raises `Refused` for a body that is
    not as it says.
    """
    if template.frozen is None:
        return None
    begin, end = check_header(body, template, size=len(body)).places["frozen"]
    return bytes(memoryview(body).cast("B")[begin:end]).hex()
