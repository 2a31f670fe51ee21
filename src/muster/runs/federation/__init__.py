# SPDX-License-Identifier: Apache-2.0
"""A federation over a network: the server, the sites, and both as processes on one machine."""

__all__ = ()
