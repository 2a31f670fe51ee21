# SPDX-License-Identifier: Apache-2.0
"""How the messages of a federation travel. A server needs the extra `service`, a site `site`."""

__all__ = ()
