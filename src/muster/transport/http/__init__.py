# SPDX-License-Identifier: Apache-2.0
"""The server of a federation: who checks in, what is open, and one HTTPS port."""

__all__ = ()
