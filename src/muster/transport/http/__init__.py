# SPDX-License-Identifier: Apache-2.0
"""The one HTTPS port of a server: sockets, identity on every request, limits, transfers."""

__all__ = ()
