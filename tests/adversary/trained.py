# SPDX-License-Identifier: Apache-2.0
"""Rounds trained in the clear at a real server, of which one member lies in any request.

The server is that of `members`: in one thread, with a clock that goes on when nobody speaks. The
honest send bodies of whole numbers, so that their sum is right to the bit or wrong.
"""

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from tests.adversary.members import LIAR, Hub
from tests.adversary.requests import Request

from muster.federation.protocol.codec_tensors import digest, encode
from muster.federation.protocol.message import (
    Ack,
    ResumeAt,
    TrainAssignment,
    UpdateHeader,
    from_json,
    to_json,
)
from muster.federation.protocol.template import update_template
from muster.types import Cohort, Failed, Late, Reply
from muster.vectors import leaves, rebuild

ROWS = 9
KEPT = 1 << 20  # octets of what members have begun that a server of so small a model may hold


def body_of(plan, number):
    """An update whose numbers are all this one."""
    template = update_template(plan)
    full = {name: np.full(leaf.shape, number, leaf.dtype) for name, leaf in leaves(template)}
    return b"".join(encode(rebuild(template, full)))


def update_of(run, round, body, **more):
    """Its announcement."""
    said = {"run": run, "round": round, "digest": digest([body]), "size": len(body)}
    return UpdateHeader(**said | {"weight": float(ROWS)} | more)


def put_of(update, offset=0):
    """The request that sends its octets from there on."""
    place = {"round": str(update.round), "digest": update.digest}
    where = {"offset": str(offset), "size": str(update.size)}
    return Request("PUT", "/v1/updates/{round}/{digest}", place, where)


@dataclass
class Round:
    """The outcome of one round: the seats, and what the engine was given."""

    seats: dict
    replies: tuple


class Trainers(Hub):
    """A server of rounds in the clear."""

    def training(self, lie=None):
        """Have a round trained; the liar makes its requests in `lie(task)`, else it is honest.

        What must hold is checked: nobody honest is harmed, the sum is right to the bit, what is
        stored stays small. The round is committed.
        """
        due = list(self.names)

        def turn():
            if not due:
                return False
            tasks = {name: self.poll(name) for name in due}
            assert all(isinstance(task, TrainAssignment) for task in tasks.values()), tasks
            due.clear()
            for name in sorted(tasks, key=lambda name: name != LIAR):
                if name == LIAR and lie is not None:
                    lie(tasks[name])
                else:
                    self.deliver(name, tasks[name])
            return True

        self._act, self.turns.taken = turn, 0
        self.network.send(Cohort(tuple(self.names), None), self.state.sent(), self.round)
        replies = tuple(self.network.replies())
        made = Round(dict(self.round_state.seats), replies)
        self.commit(self._check(made))
        return made

    def deliver(self, name, task):
        """Announce and send the honest update of a member."""
        body = self.body(name)
        update = update_of(self.run, task.round, body)
        assert self.announce(name, update) == ResumeAt(0)
        assert self.put(name, update, body) == Ack(True)

    def body(self, name):
        """The honest update of a member."""
        return body_of(self.plan, 1 + self.names.index(name))

    def announce(self, name, update):
        """Return the answer to an announcement."""
        return from_json(self.say(name, "/v1/updates", to_json(update)).body, ResumeAt, Ack)

    def put(self, name, update, body, offset=0):
        """Return the answer to its bytes."""
        method, target, headers = put_of(update, offset).sent()
        return from_json(self.ask(name, method, target, body, headers).body, ResumeAt, Ack)

    def say(self, name, path, data):
        """Post octets."""
        return self.ask(name, "POST", path, data)

    def stored(self):
        """All that members have made the server store, as it lies on the disk."""
        with closing(sqlite3.connect(self.home / "run" / "run.db")) as connection:
            ask = "SELECT * FROM journal WHERE topic IN ('enrolled', 'decided') ORDER BY position"
            rows = connection.execute(ask).fetchall()
        return rows, sorted(self.ledger.blobs.names("update-")), list(self.notes)

    def _check(self, made):
        """Check all that must hold; who is in the sum."""
        honest = [name for name in self.names if name != LIAR]
        for name in honest:
            assert made.seats[name].standing == "arrived", (name, made.seats[name])
        assert set(self.round_state.excluded) <= {LIAR}
        (reply,) = [one for one in made.replies if isinstance(one, Reply)]
        lost = [one.client for one in made.replies if not isinstance(one, Reply)]
        assert set(honest) <= set(reply.clients) and set(lost) <= {LIAR}, (reply.clients, lost)
        assert all(isinstance(one, Failed | Late | Reply) or one.reason for one in made.replies)
        assert reply.weight == ROWS * len(reply.clients)
        if LIAR not in reply.clients:
            total = sum(1 + self.names.index(name) for name in honest)
            for _, leaf in leaves({"payload": dict(reply.payload), "buffers": reply.buffers}):
                assert (np.asarray(leaf) == total).all()
        json.dumps(dict(reply.metrics), allow_nan=False)
        json.dumps([str(one) for one in made.replies])
        blobs = self.ledger.blobs
        held = [blobs.size(name) or blobs.held(name) for name in blobs.names("update-")]
        assert sum(held) <= KEPT and len(held) <= len(self.names), held
        return reply.clients


class Door:
    """The server's store, looked at behind every answer."""

    def __init__(self, hub):
        self.hub, self.before = hub, hub.stored()

    def refused(self, lie, answer):
        """Return whether it was refused: with a reason then, and nothing has changed."""
        before, self.before = self.before, self.hub.stored()
        if answer.status == 200:
            return False
        assert answer.reason is not None, str(lie)
        assert self.before == before, str(lie)
        return True
