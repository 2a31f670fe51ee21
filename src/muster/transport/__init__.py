# SPDX-License-Identifier: Apache-2.0
"""Transports of a federation's messages. A server needs the extra `service`, a site `site`."""

__all__ = ()
