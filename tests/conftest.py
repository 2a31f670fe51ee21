# SPDX-License-Identifier: Apache-2.0
"""The ground that every test stands on, however the suite was started."""

import os
import platform
import signal
from pathlib import Path

from hypothesis import settings

# A suite started in the background inherits an ignored SIGINT, and so would the processes that
# tests interrupt; a shell's foreground is what they are about.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A property is about values; how long one example takes says something about the machine.
settings.register_profile("muster", deadline=None)
settings.load_profile("muster")


def pytest_report_header(config):
    """Which processor ran them: bits of sums and products may differ from one kind to the next."""
    listed = Path("/proc/cpuinfo")
    lines = listed.read_text("utf-8").splitlines() if listed.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    model = named[0] if named else platform.processor() or platform.machine()
    return f"processor: {model}, {os.cpu_count()} cores"


# fixtures `postgres`, `database`, `rings`
pytest_plugins = ("tests.optional", "tests.postgres", "tests.secagg.rings")
