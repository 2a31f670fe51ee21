# SPDX-License-Identifier: Apache-2.0
"""The protocol between the two sides of a federation: messages, tensors, claims and bounds."""

__all__ = ()
