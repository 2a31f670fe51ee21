# SPDX-License-Identifier: Apache-2.0
"""What every test stands on, however the suite was started."""

import signal

from hypothesis import settings

# A suite started in the background inherits an ignored SIGINT, and so would the processes that
# tests interrupt; a shell's foreground is what they are about.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A property is about values; how long one example takes says something about the machine.
settings.register_profile("muster", deadline=None)
settings.load_profile("muster")

pytest_plugins = ("tests.optional", "tests.postgres")  # fixtures `postgres` and `database`
