# SPDX-License-Identifier: Apache-2.0
"""The commands about privacy."""

__all__ = ()
