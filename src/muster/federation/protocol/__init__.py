# SPDX-License-Identifier: Apache-2.0
"""What the two sides of a federation say to each other: messages, tensors, claims and bounds."""

__all__ = ()
