# SPDX-License-Identifier: Apache-2.0
"""A member that lies in a secure sum: every field of every message that it says, to a real server.

Whatever it says, the server refuses it with a reason or takes it in; the round ends, the honest are
in its sum, which is right to the bit, and nobody but the liar is named.
"""

from functools import partial

import numpy as np
import pytest

pytest.importorskip("sqlalchemy")
pytest.importorskip("cryptography")

from tests.adversary.members import LIAR, NAMES, Hub, honest
from tests.adversary.mutants import KINDS, mutants, places
from tests.service.round.masked import plan_of

from muster.secagg import messages
from muster.secagg.agreement import Binding
from muster.secagg.messages import CLIENT_KINDS, Compared, Complaint, Masked, Opened, Quit, read
from muster.service.refusal import Reason

SAID = {messages.KINDS[number].__name__ for number in CLIENT_KINDS}
PLAN = plan_of(layers=(4, 3), rounds=100_000)


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    made = Hub(tmp_path_factory.mktemp("hub"), PLAN)
    yield made
    made.close()


def complaining(sum_, message):
    """The liar complains about ann's share, which fits: so that ann, and it, have more to say."""
    return message


def sampled(hub):
    """A message of each kind that members say, as they lie on the wire."""
    found = {}

    def lie(message):
        found[type(message).__name__] = message
        return honest(message)

    hub.sum(lie).check()
    hub.commit(NAMES)
    return found


def play(hub, kind, data):
    """A round in which the liar's message of a kind is another one; the right one comes after it.

    `data(message)` gives the octets. Returns the sum, and how the other one was answered.
    """
    found = []

    def lie(message):
        if type(message).__name__ != kind:
            return honest(message)
        found.append(message)
        return [(data(message), {}, {}), *honest(message)]

    made = hub.sum(lie)
    return made, made.answers[LIAR], found


def test_all_that_is_malformed_is_refused_at_the_door_and_costs_its_sender_nothing(hub):
    """All of them, before each message: the right one is taken in after them."""
    seen, tried = set(), []

    def lie(message):
        sent = []
        for mutant in mutants(message.to_bytes()):
            seen.add(mutant.place)
            try:
                read(mutant.data)
            except messages.Malformed:
                sent.append((mutant.data, {}, {}))
        tried.append(len(sent))
        return [*sent, *honest(message)]

    made = hub.sum(lie)
    made.check()
    assert set(made.found.survivors) == set(NAMES)
    refused = [answer for answer in made.answers[LIAR] if answer.status != 200]
    assert {answer.reason for answer in refused} <= {Reason.MALFORMED, Reason.TOO_LARGE}
    assert len(refused) == sum(tried) > 100
    hub.commit(NAMES)
