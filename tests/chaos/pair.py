# SPDX-License-Identifier: Apache-2.0
"""Two servers on one PostgreSQL, behind a balancer that the sites dial."""

from tests.chaos.federation import Federation, port
from tests.chaos.proxy import Balancer


class Pair(Federation):
    """A federation, or mixed into one, with a second server at the port `other`."""

    def __init__(self, database, *args, **role):
        super().__init__(*args, url=f"{database}?run=shared", **{"lease": 6.0} | role)
        self.database, self.other = database, port()
        self.balancer = Balancer((self.port, self.other))

    def __enter__(self):
        self.balancer.__enter__()
        self.through = self.balancer.port
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self.balancer.__exit__(*error)

    def both(self, first=None, second=None):
        """Two servers, of which the first leads."""
        self.server(**first or {})
        self.until(ready)
        self.server(number=1, port=self.other, **second or {})
        self.until(ready)
        return self


def ready(one, said):
    """A server listens."""
    return said is not None and said[0] == "ready"
