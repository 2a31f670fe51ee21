# SPDX-License-Identifier: Apache-2.0
"""A federation over a network. A server needs the extra `service`, a site `site`."""

__all__ = ()
