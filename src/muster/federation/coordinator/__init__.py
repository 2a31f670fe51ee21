# SPDX-License-Identifier: Apache-2.0
"""A round over a network: its life, the hall where its clients wait, and the Clients seam."""

__all__ = ()
