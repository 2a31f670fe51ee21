# SPDX-License-Identifier: Apache-2.0
"""A process of a federation on one machine, as its parent starts it."""

import sys

from muster.runs.federation.child import main

__all__ = ()

if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
