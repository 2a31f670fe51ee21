# SPDX-License-Identifier: Apache-2.0
"""The updates of a round as they lie on the disk, one after the other, ready to be added up."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from muster.errors import NoRoom, RunError
from muster.federation.protocol.codec_tensors import decode, digest
from muster.security.refusal import Refused
from muster.store.blobs import Blobs, update_name
from muster.store.records import Assignment
from muster.types import Failed, Reply, Tree

__all__ = ["honest", "updates"]

CHECKS = 2  # updates that are compared with their digests at once


def updates(
    blobs: Blobs, round: int, seats: Sequence[Assignment], template: Tree
) -> Iterator[Reply | Failed]:
    """Yield the replies of seats that have arrived; each leaves memory before the next.

    They are compared with their digests ahead, by threads that read a little at a time. One that
    is gone, damaged, or not what the plan says by now leaves its client out, with the reason.
    """
    names = [update_name(round, seat.client, seat.digest) for seat in seats]
    pool = ThreadPoolExecutor(CHECKS, "muster-check")
    try:
        checks = [pool.submit(partial(_digest, blobs, name)) for name in names]
        for seat, name, check in zip(seats, names, checks, strict=True):
            try:
                if check.result() != seat.digest:
                    raise RunError(f"the blob {name} is damaged: its SHA-256 is another")
                data = blobs.whole(name, known=True)
                tree = decode(data, template, finite=True)
            except NoRoom:
                raise  # that is no fault of what is stored
            except (RunError, Refused) as error:
                yield Failed(seat.client, "record", f"its stored update cannot be used: {error}")
                continue
            payload, buffers = tree["payload"], tree["buffers"]
            yield Reply((seat.client,), payload, seat.weight, seat.metrics, buffers)
            if isinstance(data, mmap.mmap):
                data.madvise(mmap.MADV_DONTNEED)
    finally:
        pool.shutdown(cancel_futures=True)


def honest(
    found: Iterator[Reply | Failed], lost: list[Failed], refusal: Callable[[Reply], str]
) -> Iterator[Reply]:
    """Yield the replies alone; who is left out is put among those who are lost.

    `refusal(reply)` says why no honest client sends it, or "" (see `plan.outliers`).
    """
    for one in found:
        if isinstance(one, Reply):
            why = refusal(one)
            if not why:
                yield one
                continue
            one = Failed(one.clients[0], "reply", why)
        lost.append(one)


def _digest(blobs: Blobs, name: str) -> str:
    return digest(blobs.read(name))
