# SPDX-License-Identifier: Apache-2.0
"""A worker process begins here: `python -m muster.simulation FD LIFELINE`."""

import sys

from muster.simulation.worker import main

__all__: list[str] = []

if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
