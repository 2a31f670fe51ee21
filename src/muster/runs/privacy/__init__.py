# SPDX-License-Identifier: Apache-2.0
"""What a run reveals: charged before each round, stated afterwards, and put to the test."""

__all__ = ()
