# SPDX-License-Identifier: Apache-2.0
"""The port in one process, without sockets: the same server, and what goes wrong by a seed."""

__all__ = ()
