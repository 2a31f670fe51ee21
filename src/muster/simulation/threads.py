# SPDX-License-Identifier: Apache-2.0
"""One thread for training: what makes many workers fast, and bits equal for one and many."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from muster.types import Task

__all__ = ["ONE_THREAD", "one_thread"]

ONE_THREAD = dict.fromkeys(
    (
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
        "VECLIB_MAXIMUM_THREADS",
        "NUMEXPR_NUM_THREADS",
    ),
    "1",
)


@contextlib.contextmanager
def one_thread(task: Task) -> Iterator[None]:
    """Have BLAS, OpenMP and torch use one thread inside; afterwards what they used before."""
    own = sys.modules.get(task.traits.threads)
    before = own.get_num_threads() if own else 0
    with threadpool_limits(limits=1):
        if own:
            own.set_num_threads(1)
        try:
            yield
        finally:
            if own:
                own.set_num_threads(before)
