# SPDX-License-Identifier: Apache-2.0
"""Security: who is who, who may what, and what was done; certificates, refusals, the audit log."""

__all__ = ()
