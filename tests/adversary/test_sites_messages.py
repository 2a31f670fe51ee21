# SPDX-License-Identifier: Apache-2.0
"""A server that lies in a secure sum: every field of every message that it says, to a real site.

Each lie meets a site that is started again from what it had stored before that message. Whatever it
is told, it says each kind of word once, opens nothing but the sum that it consented to, ends its
session in words, destroys its secrets, and goes on.
"""

import numpy as np
import pytest

pytest.importorskip("sqlalchemy")
pytest.importorskip("cryptography")

from tests.adversary.members import elsewhere
from tests.adversary.mutants import KINDS, WHOLE, chosen, places, wellformed
from tests.adversary.played import NAMES, SITE
from tests.adversary.test_site_session import vector

from muster.secagg import messages
from muster.secagg.messages import CLIENT_KINDS, KeyRoster, Quit, SessionEnded, read

TOLD = {kind for number, kind in messages.KINDS.items() if number not in CLIENT_KINDS}


@pytest.fixture
def life(lives):
    """One life from before a message, checked."""

    def lived(place, script, **more):
        made = lives(place, script, **more).play()
        made.check()
        return made

    return lived


def test_the_sum_that_is_played_is_right_and_has_every_message(played):
    assert [type(read(told)) for told in played.told] == sorted(TOLD, key=lambda kind: kind.kind)
    total = sum(vector(played, name) for name in NAMES)
    assert played.total.astype(np.int64).tolist() == total.tolist()


def test_every_field_of_every_message_has_mutants_of_every_kind(played):
    """A kind of message, or a field, without mutants is found here."""
    found = {mutant.place for told in played.told for mutant in chosen(told)}
    wanted = {
        (kind.__name__, path, how)
        for kind in TOLD
        for path in places(kind)
        for how in KINDS
        if how != "trailing"
    } | {(kind.__name__, WHOLE, how) for kind in TOLD for how in KINDS}
    assert wanted - found == set()


@pytest.mark.parametrize("place", range(7))
def test_a_message_with_another_field_opens_nothing(place, played, life):
    """And the right one is told after it: it is too late then, unless it was a complaint's."""
    for mutant in chosen(played.told[place]):
        try:
            life(place, [mutant.data, *played.told[place:]])
        except BaseException as error:
            raise AssertionError(f"{mutant}: {type(error).__name__}: {error}") from error


@pytest.mark.parametrize("place", range(7))
def test_messages_out_of_turn_open_nothing(place, played, life):
    """One that was told before, or is told too early; and another of its kind behind it."""
    for other in played.told[:: 2 if place % 2 else 1]:
        life(place, [other, *played.told[place:]])
    other = next(m.data for m in chosen(played.told[place]) if wellformed(m.data))
    life(place, [played.told[place], other, *played.told[place + 1 :]])


@pytest.mark.parametrize("place", range(7))
def test_after_its_session_a_site_says_no_more_of_it(place, played, life):
    """Started again from what it stored then, with the honest server back."""
    made = life(place, [b"msa\x02", *played.told[place:]])
    before = list(made.heard)
    made.script = played.told
    made.play().check()
    assert {type(message) for message in made.heard[len(before) :]} <= {Quit}


def test_messages_of_another_round_run_study_or_attempt_open_nothing(played, life):
    """As they are, and under the id of this session: all of one other, and the roster of each."""
    changes = ({"run": "other"}, {"study": "other"}, {"attempt": 2}, {"round": 2})
    here = [type(read(told)) for told in played.told]
    for number, change in enumerate(changes):
        told = elsewhere(played, **change)[1][SITE]
        for message in told[: 1 if number else None]:
            place, data = here.index(type(message)), message.to_bytes()
            life(place, [data, *played.told[place:]])
            if not isinstance(message, KeyRoster | SessionEnded):
                spliced = data[:5] + read(played.told[1]).session + data[37:]
                life(place, [spliced, *played.told[place:]])
