# SPDX-License-Identifier: Apache-2.0
"""A federation over a network. Needs the extra `service`: pip install 'muster[service]'."""

__all__ = ()
