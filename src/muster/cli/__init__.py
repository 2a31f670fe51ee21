# SPDX-License-Identifier: Apache-2.0
"""The shell: `muster`, one file per command."""

from muster.cli.app import main

__all__ = ["main"]
