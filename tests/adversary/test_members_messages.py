# SPDX-License-Identifier: Apache-2.0
"""A member that lies in a secure sum: every field of every message that it says, to a real server.

Whatever it says, the server refuses it with a reason or takes it in; the round ends, the honest are
in its sum, which is right to the bit, and nobody but the liar is named.
"""

from functools import cache

import numpy as np
import pytest

pytest.importorskip("sqlalchemy")
pytest.importorskip("cryptography")

from tests.adversary.lies import Lie
from tests.adversary.members import LIAR, Hub
from tests.adversary.mutants import KINDS, WHOLE, chosen, mutants, places, wellformed
from tests.federation.coordinator.masked import plan_of

from muster.secagg import messages
from muster.secagg.messages import CLIENT_KINDS, MaskedVector, read
from muster.security.refusal import RefusalReason

SAID = {messages.KINDS[number] for number in CLIENT_KINDS}
PLAN = plan_of(layers=(4, 3), rounds=100_000)


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    made = Hub(tmp_path_factory.mktemp("hub"), PLAN)
    yield made
    made.close()


@cache
def samples(hub):
    """A message of each kind that members say, as it lies on the wire."""
    found = {}
    for kind in sorted(SAID, key=lambda kind: kind.kind):
        lie = Lie(kind, lambda data: [data])
        made = hub.sum(lie)
        made.check()
        assert made.answers[LIAR][-1].status == 200
        found[kind] = lie.meant.to_bytes()
        hub.commit(made.found.survivors)
    return found


def differs(made, data):
    """Return the difference that a masked message makes to a sum, from the one that was meant."""
    ring, size = made.group.terms.ring, made.hub.plan.frame.size
    vectors = [read(one).vector for one in (data, made.lie.meant.to_bytes())]
    told, meant = (ring.unpack(one, size).astype(np.int64) for one in vectors)
    return told - meant


def test_every_field_of_every_message_has_mutants_of_every_kind(hub):
    """A kind of message, or a field, without mutants is found here."""
    found = {mutant.place for data in samples(hub).values() for mutant in mutants(data)}
    wanted = {
        (kind.__name__, path, how)
        for kind in SAID
        for path in places(kind)
        for how in KINDS
        if how != "trailing"
    } | {(kind.__name__, WHOLE, how) for kind in SAID for how in KINDS}
    assert wanted - found == set()


def test_what_is_malformed_is_refused_at_the_door_and_the_right_one_is_taken_after_it(hub):
    for kind, sample in samples(hub).items():
        tried = []

        def change(data, tried=tried):
            tried += [m.data for m in mutants(data) if not wellformed(m.data)]
            return [*tried, data]

        made = hub.sum(Lie(kind, change))
        made.check()
        refused = [answer for answer in made.answers[LIAR] if answer.status != 200]
        assert {answer.reason for answer in refused} == {RefusalReason.MALFORMED}
        assert len(refused) == len(tried) >= len(places(type(read(sample))))
        hub.commit(made.found.survivors)


@pytest.mark.parametrize("kind", sorted(SAID, key=lambda kind: kind.kind), ids=lambda k: k.__name__)
def test_a_message_with_another_field_harms_nobody_but_its_sender(kind, hub):
    """Each in a round of its own: what is a message, and says something else."""
    for mutant in chosen(samples(hub)[kind]):
        if not wellformed(mutant.data):
            continue
        place, what = mutant.field, mutant.what

        def change(data, place=place, what=what, how=mutant.kind):
            same = [m for m in mutants(data) if (m.field, m.kind, m.what) == (place, how, what)]
            return [same[0].data if same else data]

        lie = Lie(kind, change)
        made = hub.sum(lie)
        try:
            sent = [data for name, data in made.sent if name == LIAR and data[4] == kind.kind]
            changed = kind is MaskedVector and made.found and LIAR in made.found.survivors
            made.check(differs(made, sent[0]) if changed else None)
        except AssertionError as error:
            raise AssertionError(f"{mutant}: {error}") from error
        finally:
            hub.commit(made.found.survivors if made.found else ())
