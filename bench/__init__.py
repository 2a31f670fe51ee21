# SPDX-License-Identifier: Apache-2.0
"""Speed and memory against a hand-written loop: `python -m bench`."""
