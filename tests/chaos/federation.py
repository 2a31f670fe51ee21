# SPDX-License-Identifier: Apache-2.0
"""A federation of real processes: started, watched, killed, and started again when they die."""

import contextlib
import itertools
import json
import multiprocessing
import os
import signal
import socket
import sqlite3
import tempfile
import time
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import httpx
from tests.chaos import actor
from tests.chaos.actor import CLIENTS, Role, members

SOON = 20.0  # seconds in which something must happen
DEATHS = 30  # of one federation
FORK = multiprocessing.get_context("forkserver")  # a process that has imported everything forks
FORK.set_forkserver_preload(["__main__", "tests.chaos.actor"])
PORTS = itertools.count(os.getpid() * 37)


@dataclass(eq=False)
class Actor:
    """A process that plays a role."""

    role: Role
    process: Any
    pipe: Any

    def tell(self):
        """It may go on from the gate at which it waits."""
        self.pipe.send("go on")

    def kill(self, number=signal.SIGKILL):
        """A signal to this process alone, unless it has ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, number)


def port():
    """A free port of loopback, below those that the system gives to clients.

    So nobody takes it while its server is down, and nobody who dials it meets himself.
    """
    while True:
        number = 20000 + next(PORTS) % 12000
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", number)):
            return number


class Federation:
    """The processes of one run; `sites` are the clients of each site process.

    `role` has what all of them are told; `through` the port that sites dial in place of the
    server's; `traps` those of the next lives, by "server" or the sites of a process. As a context
    manager it leaves nothing behind.
    """

    def __init__(self, plan="scaffold", sites=(CLIENTS,), *, through=None, **role):
        self._folder = tempfile.TemporaryDirectory(prefix="fed-")  # short: a socket lies in there
        self.home = Path(self._folder.name)
        self.port = port()
        self.role = Role(str(self.home), plan, self.port, **role)
        self.sites, self.through = sites, through or self.port
        self.actors, self.log, self.deaths = [], [], 0
        self.told_to = {}  # what `gather` tells single site processes
        self.traps = {}
        self.since = time.monotonic()
        self.over = False  # the server has said that the run has ended

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for actor_ in self.actors:
            actor_.kill()
        for actor_ in self.actors:
            actor_.process.join()
            actor_.process.close()
            actor_.pipe.close()
        self._folder.cleanup()

    @property
    def folder(self):
        return self.role.folder

    def begin(self, server=None, site=None):
        """The server and all sites, each with its own `trap`, `gates`, `faults`."""
        self.server(**server or {})
        for clients in self.sites:
            self.site(clients, **site or {})
        return self

    def gather(self, **server):
        """Everybody is enrolled before the first round, of which fewer would be enough."""
        waiting = self.server(enough=99)
        for clients in self.sites:
            self.site(clients, **self.told_to.get(clients, {}))
        for _ in members(self.role.plan):
            self.told({"event": "enrolled"})
        waiting.kill()
        self.until(lambda one, said: one is waiting and said is None, again=False)
        self.deaths = 0
        self.server(**server)
        return self

    def server(self, **more):
        """One more server."""
        return self.start(replace(self.role, **more))

    def site(self, clients, **more):
        """One more site process."""
        return self.start(
            replace(self.role, clients=tuple(clients), **{"port": self.through, **more})
        )

    def start(self, role):
        """A process that plays a role."""
        ours, theirs = FORK.Pipe()
        process = FORK.Process(target=actor.main, args=(role, theirs), name=role.name)
        process.start()
        theirs.close()
        one = Actor(role, process, ours)
        self.actors.append(one)
        return one

    def the(self, name):
        """The newest process of that name."""
        return next(a for a in reversed(self.actors) if a.role.name == name)

    def next(self, seconds=SOON):
        """Return the next word: the actor and what it says, or None when it has ended.

        (None, None) when nothing is heard for so long.
        """
        ready = wait([a.pipe for a in self.actors], seconds)
        if not ready:
            return None, None
        one = next(a for a in self.actors if a.pipe is ready[0])
        try:
            said = one.pipe.recv()
        except (EOFError, ConnectionResetError):
            said = None
            self.actors.remove(one)
            one.pipe.close()
            one.process.join()
        self.log.append((time.monotonic() - self.since, one.role.name, said))
        self.over |= not one.role.clients and said is not None and said[0] == "ended"
        return one, said

    def step(self, *, again=True, seconds=SOON):
        """The next that is heard; who dies is started again, with its next trap or none."""
        one, said = self.next(seconds)
        if one is not None and said is None:
            self.died(one, again=again and not (self.over and not one.role.clients))
        return one, said

    def until(self, wanted, *, again=True):
        """Go on until `wanted(actor, said)`; nobody is kept waiting at another gate."""
        while True:
            one, said = self.step(again=again)
            assert one is not None, self.report()
            if wanted(one, said):
                return one, said
            if said is not None and said[0] == "at":
                one.tell()

    def at(self, label, count=1, **more):
        """Go on until a process waits at this gate: that process."""
        return self.until(lambda one, said: said == ("at", label, count), **more)[0]

    def round(self, number, **more):
        """Go on until this round is committed."""
        self.until(lambda one, said: said == ("round", number), **more)

    def told(self, event, **more):
        """Go on until a site tells this event: what it tells."""

        def wanted(one, said):
            event_ = said[1] if said is not None and said[0] == "event" else {}
            return event.items() <= event_.items()

        return self.until(wanted, **more)[1][1]

    def died(self, one, *, again=True):
        """A process has ended: killed, then it is started again; or it has done its work."""
        code = one.process.exitcode
        early = code == -signal.SIGTERM and self.over  # it was told to end before it listened
        assert code in (0, -9) or early, self.report(one)
        if code == -9:
            self.deaths += 1
            assert self.deaths <= DEATHS, self.report(one)
            if again:
                self.start(replace(one.role, trap=self.trap_of(one.role.clients or "server")))

    def trap_of(self, who):
        """Where the next life of the server or a site process ends; None where it does not."""
        left = self.traps.get(who)
        return left.pop(0) if left else None

    def finish(self, **more):
        """Go on to the end of the run, and of all processes; none of them ends with an error."""
        while not self.over or any(not a.role.clients for a in self.actors):
            self.until(lambda *_: self.over, **more)
        return self.close()

    def close(self):
        """Have everybody end in an orderly way."""
        for one in self.actors:
            one.kill(signal.SIGTERM)  # such as a site that came back too late to hear of the end
        while self.actors:
            one, _ = self.step(again=False)
            assert one is not None, self.report()
        return self

    def ask(self, method, path):
        """Return the server's words on its control socket."""
        transport = httpx.HTTPTransport(uds=str(self.folder / "control.sock"))
        with httpx.Client(transport=transport, base_url="http://muster", timeout=SOON) as client:
            return client.request(method, path).raise_for_status().json()

    def status(self):
        return self.ask("GET", "/status")

    def want(self, word):
        return self.ask("POST", f"/want/{word}")

    def transitions(self):
        """The steps of the lifecycle that the server has written down."""
        path = self.folder / "run.db"
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            return database.execute("SELECT * FROM transitions ORDER BY id").fetchall()

    def report(self, one=None):
        """Report all that is known when something went wrong."""
        lines = [f"{at:.3f} {name}: {said}" for at, name, said in self.log[-40:]]
        if one is not None:
            lines.append(f"{one.role.name} ended with {one.process.exitcode}")
        lines += [f"{a.role.name} lives" for a in self.actors]
        if any(not a.role.clients for a in self.actors):
            with contextlib.suppress(httpx.HTTPError):
                lines.append(json.dumps(self.status(), indent=1))
        for path in sorted(self.home.glob("*.errors")):
            lines.append(f"{path.name}: {path.read_text()[-3000:]}")
        return "\n".join(lines)
