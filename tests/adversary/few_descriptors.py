# SPDX-License-Identifier: Apache-2.0
"""A server in a process of its own, which may have few descriptors: `FOLDER DESCRIPTORS`.

It says its port, and ends when its standard input does.
"""

import asyncio
import resource
import sys
from pathlib import Path

from tests.transport.http.stand import Federation, edge_over, listening, run

from muster.transport.http.listen import ListenAddress
from muster.transport.http.protocol import Trust

if __name__ == "__main__":
    folder, count = Path(sys.argv[1]), int(sys.argv[2])
    there = Federation(folder / "pki")
    there.join("lyon")
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, count))

    async def main():
        with edge_over(folder, plain=False) as (edge, _, _):
            where = ListenAddress(
                host="127.0.0.1", port=0, control=folder / "c", tick=0.1, grace=0.5
            )
            async with listening(edge, where, Trust(there.hub)) as port:
                print(port, flush=True)
                await asyncio.to_thread(sys.stdin.read)

    run(main())
