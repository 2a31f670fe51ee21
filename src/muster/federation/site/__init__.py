# SPDX-License-Identifier: Apache-2.0
"""A site of a federation: it dials out, trains on its own rows, and keeps what it must."""

__all__ = ()
