# SPDX-License-Identifier: Apache-2.0
"""The server of a federation: what is open, who is asked, what became of it, and the seam."""

__all__ = ()
