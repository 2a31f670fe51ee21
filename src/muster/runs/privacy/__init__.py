# SPDX-License-Identifier: Apache-2.0
"""The privacy of a run: charged before each round, stated afterwards, and put to the test."""

__all__ = ()
