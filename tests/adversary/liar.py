# SPDX-License-Identifier: Apache-2.0
"""Members that speak the wire by hand to a real server: one of them says whatever a test gives it.

Nothing here trains: an honest member sends an update of zeros, whose facts are what the plan and
its rows make them.
"""

import contextlib
import json
import sqlite3
import threading

import httpx

import muster
from muster import algorithms, optimizers, tasks
from muster.federation.protocol.codec_tensors import digest, encode
from muster.federation.protocol.template import update_template
from muster.plan.registry import fingerprint
from muster.runs.federation.conduct import ServerSettings
from muster.runs.federation.serve import ListenSettings, ServedFederation, serve
from muster.store.ledger import FederationStore

NAMES = ("ann", "bob", "eve")  # the last one lies
ROWS = 12
HANGS = 200.0  # seconds, after which a server or an answer is taken to hang
PLAN = muster.Plan(
    task=tasks.numpy.MLP([4, 5, 3]),
    algorithm=algorithms.FedAvg(),
    rounds=1,
    local=muster.Local(epochs=1, batch=6, optimizer=optimizers.SGD(0.1)),
)
BODY = b"".join(encode(update_template(PLAN)))
TRAINED = {"rows": 12.0, "loss": 13.0, "steps": 2.0, "drift": 0.0}
MEASURED = {
    "rows": 12.0,
    "loss": 13.0,
    "accuracy/hits": 4.0,
    "accuracy/rows": 12.0,
    "held out": 0.0,
}


class Server:
    """One life of a real server over a folder, in a thread, on plain HTTP."""

    def __init__(self, folder, plan=PLAN, names=NAMES, lease=30.0):
        self.folder, self.plan, self.names = folder, plan, names
        self.terms = ServerSettings(enough=len(names), lease=lease)
        self.stop, self.heard = threading.Event(), threading.Event()
        self.address, self.why, self.error = "", "", None
        self.thread = threading.Thread(target=self._run)

    def _run(self):
        try:
            federation = ServedFederation(self.plan, self.folder, None, self.terms)
            where = ListenSettings("127.0.0.1:0")
            self.why = serve(federation, where, ready=self._ready, stop=self.stop)
        except BaseException as error:
            self.error = error
        finally:
            self.heard.set()

    def _ready(self, port):
        self.address = f"http://127.0.0.1:{port}"
        self.heard.set()

    def __enter__(self):
        self.thread.start()
        assert self.heard.wait(HANGS) and self.address, self.error
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()

    def ended(self):
        """Wait until the run is over; why it ended."""
        self.thread.join(HANGS)
        assert not self.thread.is_alive() and self.error is None, self.error
        return self.why

    def again(self):
        """Say what a further life of a run that has ended fails with, if it does."""
        with self:
            pass
        return self.error

    @contextlib.contextmanager
    def members(self, *, hello=True):
        """All members, each with a connection of its own."""
        with contextlib.ExitStack() as stack:
            found = [stack.enter_context(Member(self, name)) for name in self.names]
            for one in found if hello else ():
                assert one.hello()["kind"] == "welcome"
            yield found


class Member:
    """One member: every method is one message, with fields that a test may replace or take out."""

    def __init__(self, server, name):
        self.plan, self.name = server.plan, name
        headers = {"Muster-Site": name, "content-type": "application/json"}
        self.http = httpx.Client(base_url=server.address, headers=headers, timeout=HANGS)
        self.run = ""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.http.close()

    def say(self, path, message):
        """Octets of a message, unchecked on this side: infinities are written as such."""
        data = json.dumps(message).encode()
        return self.http.post(path, content=data).json()

    def hello(self, **more):
        plain = {"kind": "hello", "versions": [2], "name": self.name, "rows": ROWS}
        said = self.say("/v1/hello", plain | {"fingerprint": fingerprint(self.plan)} | more)
        self.run = said.get("run", self.run)
        return said

    def poll(self, wait=30.0, pending=0):
        poll = {"kind": "poll", "run": self.run, "pending": pending, "wait": wait, "attempt": 1}
        return self.say("/v1/poll", poll)

    def update(self, task, **more):
        """The announcement of an update."""
        plain = {
            "kind": "update",
            "run": self.run,
            "round": task["round"],
            "digest": digest([BODY]),
            "size": len(BODY),
            "weight": float(ROWS),
            "metrics": TRAINED,
            "attempt": 1,
        }
        return self.say("/v1/updates", plain | more)

    def upload(self, task):
        """The body of the honest update."""
        path = f"/v1/updates/{task['round']}/{digest([BODY])}?offset=0&size={len(BODY)}"
        return self.http.put(path, content=BODY).json()

    def measured(self, asked, **more):
        plain = {
            "kind": "measured",
            "run": self.run,
            "round": asked["round"],
            "model": asked["model"],
            "metrics": MEASURED,
            "attempt": 1,
        }
        return self.say("/v1/answers", plain | more)

    def decline(self, asked, **more):
        plain = {"kind": "decline", "run": self.run, "round": asked["round"], "text": "no"}
        return self.say("/v1/answers", plain | {"attempt": 1} | more)

    def trains(self):
        """Wait for the task, and do it honestly."""
        task = self.poll()
        assert task["kind"] == "task", task
        assert self.update(task) == {"kind": "offer", "offset": 0}
        assert self.upload(task)["accepted"]

    def measures(self):
        """Wait for the evaluation, and answer honestly."""
        asked = self.poll()
        assert asked["kind"] == "evaluate", asked
        assert self.measured(asked)["accepted"]


def in_parallel(*deeds):
    """Do things at the same time; what one raises is raised."""
    failed = []

    def done(deed):
        try:
            deed()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=done, args=(deed,)) for deed in deeds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


def history(folder):
    """The records of a run whose server has ended."""
    ledger = FederationStore(folder)
    try:
        return [record for record in ledger.history() if record["round"]]
    finally:
        ledger.close()


def altered(folder, statement, *given):
    """Change what is stored, as an older version, a bad disk or a person might have; rows hit."""
    with contextlib.closing(sqlite3.connect(folder / "run.db")) as connection:
        count = connection.execute(statement, given).rowcount
        connection.commit()
    return count


def tampered(folder, topic, key, field, raw):
    """Put `raw` in the place of a field of what is stored, or of its `key`; rows hit."""
    with contextlib.closing(sqlite3.connect(folder / "run.db")) as connection:
        place = (topic, key)
        ask = "SELECT body FROM journal WHERE topic = ? AND key = ?"
        (body,) = connection.execute(ask, place).fetchone()
        if field == "key":
            set_, value = "key", raw
        else:
            said = json.dumps(json.loads(body) | {field: "@@"})
            set_, value = "body", said.replace('"@@"', raw)
        say = f"UPDATE journal SET {set_} = ? WHERE topic = ? AND key = ?"
        count = connection.execute(say, (value, *place)).rowcount
        connection.commit()
    return count


def stored(folder):
    """All that members have made a server store: rows of the journal, and files of updates."""
    with contextlib.closing(sqlite3.connect(folder / "run.db")) as connection:
        rows = connection.execute("SELECT * FROM journal ORDER BY position").fetchall()
    return rows, sorted(p.name for p in (folder / "blobs").glob("update-*"))
