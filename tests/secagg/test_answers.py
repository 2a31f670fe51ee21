# SPDX-License-Identifier: Apache-2.0
"""A client against a server that lies about keys, models and sets."""

from dataclasses import replace

import numpy as np
import pytest
from tests.secagg.scene import (
    COUNT,
    VICTIM,
    Scene,
    attacked,
    believe,
    expected,
    kinds,
    named,
    only,
    scene_of,
    terms,
    told,
    vectors,
)

from muster.secagg import Aborted, SessionReason
from muster.secagg.answers import MISSING, graph_for
from muster.secagg.messages import (
    Advert,
    Compared,
    Complaints,
    Consent,
    Delivery,
    KeyRoster,
    MaskedVector,
    Members,
    OpenedShares,
    Quit,
    Quorum,
    Revealed,
    Survivors,
)
from muster.secagg.pieces import PIECE

# -- split view ----------------------------------------------------------------------------------


def split(colluders, *dissenters):
    """Some are told that c0000 is dead, the others that it is alive; each gets the signatures of
    those who were told the same, and the server takes any."""
    own = terms(6, colluders=colluders)
    dead = only(1, 2, 3, 4, 5, count=6)

    def down(name, message):
        if name in dissenters and isinstance(message, Survivors):
            return [replace(message, alive=dead)]
        if name in dissenters and isinstance(message, Quorum):
            return [replace(message, alive=dead, signatures=message.signatures[1:])]
        return [message]

    played = Scene(own, vectors(own, 6), down=down, server_verify=believe)
    try:
        result = played.run()
    except Aborted:
        result = None
    return played, result, {name for name, m in played.said if isinstance(m, Revealed)}


def test_a_split_view_is_answered_on_the_side_of_the_threshold_only():
    played, result, answered = split(1, "c0003", "c0004")
    assert answered == {"c0000", "c0001", "c0002", "c0005"}
    assert {played.reason(name) for name in ("c0003", "c0004")} == {SessionReason.QUORUM}
    assert result.total.tolist() == expected(played, named(6))


def test_a_split_view_against_a_larger_threshold_is_answered_by_nobody():
    played, result, answered = split(2, "c0003", "c0004")
    assert (answered, result) == (set(), None)
    assert {played.reason(name) for name in named(6)} == {SessionReason.QUORUM}


def test_an_even_split_is_answered_by_nobody():
    played, result, answered = split(1, "c0003", "c0004", "c0005")
    assert (answered, result) == (set(), None)
    assert {played.reason(name) for name in named(6)} == {SessionReason.QUORUM}


def test_forged_signatures_are_no_quorum():
    def change(message):
        return [replace(message, signatures=tuple(bytes(32) for _ in message.signatures))]

    _, reason, said = attacked(Quorum, change)
    assert reason is SessionReason.QUORUM and Revealed not in kinds(said)


def test_signatures_of_others_do_not_count_twice():
    def change(message):
        return [replace(message, signatures=message.signatures[:1] * COUNT)]

    _, reason, said = attacked(Quorum, change)
    assert reason is SessionReason.QUORUM and Revealed not in kinds(said)


# -- keys ----------------------------------------------------------------------------------------


def entry(number, **changes):
    def change(message):
        entries = list(message.entries)
        entries[number] = replace(entries[number], **changes)
        return [replace(message, entries=tuple(entries))]

    return change


def copied(message):
    key = message.entries[3].mask_key
    return entry(2, mask_key=key)(message)


def renamed(message):
    return [replace(message, entries=(message.entries[0], *message.entries[:4]))]


def left_out(message):
    return [replace(message, entries=message.entries[:1] + message.entries[2:])]


ROSTERS = [
    (entry(2, mask_key=b"\7" * 32), SessionReason.SIGNATURE),
    (entry(2, channel_key=b"\7" * 32), SessionReason.SIGNATURE),
    (entry(2, commitment=b"\7" * 32), SessionReason.SIGNATURE),
    (entry(2, signature=b""), SessionReason.SIGNATURE),
    (entry(2, name="c0002x"), SessionReason.SIGNATURE),
    (copied, SessionReason.KEYS),
    (entry(1, mask_key=b"\7" * 32), SessionReason.OWN_KEY),
    (left_out, SessionReason.OWN_KEY),
    (renamed, SessionReason.ROSTER),
    (lambda m: [replace(m, entries=m.entries[::-1])], SessionReason.ROSTER),
    (lambda m: [replace(m, entries=m.entries[:2])], SessionReason.COHORT),
    (lambda m: [replace(m, entries=(*m.entries, m.entries[-1]))], SessionReason.COHORT),
    (lambda m: [replace(m, context=bytes(32))], SessionReason.TERMS),
    (entry(2, channel_key=b"\xff" * 32), SessionReason.KEYS),
]


@pytest.mark.parametrize(("change", "reason"), ROSTERS)
def test_a_false_roster_gets_no_share(change, reason):
    played, found, said = attacked(KeyRoster, change)
    assert found is reason
    assert kinds(said) == [Advert, Quit] and said[1].reason == reason.name
    assert played.kept[VICTIM] == {}  # forgotten


@pytest.mark.parametrize(("cohort", "shown"), [(100, 13), (100, 55), (400, 45), (9, 5), (5, 3)])
def test_a_roster_far_shorter_than_the_cohort_gets_no_share(cohort, shown):
    """All who may collude of those invited may be in it: twelve of a hundred hide two."""

    def short(message):
        return [replace(message, entries=message.entries[:shown])]

    own = terms(cohort, size=2, colluders=cohort // 10 or 1)
    played, reason, said = attacked(KeyRoster, short, count=cohort, terms=own)
    assert reason is SessionReason.COHORT
    assert kinds(said) == [Advert, Quit] and played.kept[VICTIM] == {}


@pytest.mark.parametrize("field", ["mask_key", "channel_key"])
def test_a_point_of_low_order_gets_no_secret(field):
    change = entry(2, **{field: bytes(32)})
    _, reason, said = attacked(KeyRoster, change, verify=believe, server_verify=believe)
    assert reason is SessionReason.KEYS
    assert MaskedVector not in kinds(said)


# -- models --------------------------------------------------------------------------------------


def test_another_model_is_noticed_by_the_server():
    own = {VICTIM: replace(terms(COUNT), model=b"\2" * 32)}
    played = scene_of(own=own)
    result = played.run()
    assert (VICTIM, SessionReason.TERMS) in played.refused and VICTIM not in result.survivors


def inconsistent(**more):
    """A server that gave one client another model, and hides it as well as it can."""
    other = replace(terms(COUNT, size=5000), model=b"\2" * 32)
    played = scene_of(terms=terms(COUNT, size=5000), own={VICTIM: other}, **more)

    def up(name, message):
        if isinstance(message, Advert):
            return [replace(message, context=played.terms.context)]
        return [message]

    def down(name, message):
        if isinstance(message, KeyRoster) and name == VICTIM:
            return [replace(message, context=other.context)]
        return [message]

    played.up, played.down = up, down
    return played


def test_another_model_is_noticed_by_the_clients():
    played = inconsistent(server_verify=believe)
    with pytest.raises(Aborted):
        played.run()
    assert {played.reason(name) for name in named(COUNT)} == {SessionReason.SIGNATURE}
    assert not played.masked


def test_under_another_model_nothing_is_masked_together():
    """Even where nobody checks a signature: shares cannot be unsealed, so all complain of one."""
    played = inconsistent(server_verify=believe, verify=believe)
    result = played.run()
    assert [liar.name for liar in result.liars] == [VICTIM]
    assert VICTIM not in result.survivors and VICTIM not in played.masked
    assert result.total.tolist() == expected(played, result.survivors)


# -- sets ----------------------------------------------------------------------------------------


SETS = [
    (Delivery, lambda m: [replace(m, alive=only(0, 2, 3, 4))], SessionReason.SURVIVORS),
    (Delivery, lambda m: [replace(m, alive=only(0, 1))], SessionReason.COHORT),
    (Delivery, lambda m: [replace(m, alive=b"\xff")], SessionReason.MALFORMED),
    (Delivery, lambda m: [replace(m, pieces=m.pieces[:-1])], SessionReason.MALFORMED),
    (Members, lambda m: [replace(m, alive=only(0, 2, 3, 4))], SessionReason.SURVIVORS),
    (Members, lambda m: [replace(m, alive=only(0, 1))], SessionReason.COHORT),
    (Members, lambda m: [replace(m, alive=only(0, 1, 2))], SessionReason.THRESHOLD),
    (Members, lambda m: [replace(m, alive=b"\xff")], SessionReason.MALFORMED),
    (Survivors, lambda m: [replace(m, alive=only(0, 2, 3, 4))], SessionReason.SURVIVORS),
    (Survivors, lambda m: [replace(m, alive=only(1))], SessionReason.COHORT),
    (Survivors, lambda m: [replace(m, alive=b"")], SessionReason.MALFORMED),
    (Quorum, lambda m: [replace(m, alive=only(0, 2, 3, 4))], SessionReason.SURVIVORS),
    (
        Quorum,
        lambda m: [replace(m, alive=only(1, 2), signatures=m.signatures[:2])],
        SessionReason.COHORT,
    ),
    (Quorum, lambda m: [replace(m, signatures=m.signatures[:4])], SessionReason.MALFORMED),
]


@pytest.mark.parametrize(("kind", "change", "reason"), SETS)
def test_a_false_set_is_not_answered(kind, change, reason):
    _, found, said = attacked(kind, change)
    assert found is reason
    assert kinds(said)[-1] is Quit and Revealed not in kinds(said)


def test_a_dead_client_that_never_shared_is_not_named():
    """Survivors must be members: c0004 is none, and is called one."""
    change = lambda m: [replace(m, alive=only(0, 1, 2, 3, 4))]  # noqa: E731
    for absent in (1, 2):
        _, found, said = attacked(Survivors, change, absent={"c0004": absent})
        assert found is SessionReason.SURVIVORS and Consent not in kinds(said)


def test_too_few_around_a_client_is_the_threshold():
    change = lambda m: [replace(m, alive=only(1, 2, 3, count=9))]  # noqa: E731
    own = terms(9)
    played = Scene(own, vectors(own, 9), down=told(Survivors, change))
    played.run()
    assert played.reason(VICTIM) is SessionReason.THRESHOLD


def test_fewer_than_a_ring_is_made_for_are_no_story(rings):
    """The threshold around the victim holds; over all, more are gone than the ring bears."""
    own = terms(60, colluders=3, losses=3)
    gone = [i for i in range(60) if i != 1][-4:]

    def change(message):
        alive = only(*(i for i in range(60) if i not in gone), count=60)
        return [replace(message, alive=alive)]

    played = Scene(own, vectors(own, 60), down=told(Survivors, change))
    played.run()
    assert played.reason(VICTIM) is SessionReason.THRESHOLD
    assert "ring" in str(played.ended[VICTIM])


# -- input ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "vector",
    [
        np.zeros(6, "<u4"),
        np.zeros((1, 7), "<u4"),
        np.zeros(7, "<i8"),
        np.zeros(7, "<f4"),
        np.full(7, np.nan),
        np.full(7, 16, "<u4"),
    ],
)
def test_a_vector_that_does_not_fit_is_not_masked(vector):
    played = scene_of()
    played.vectors[VICTIM] = vector
    result = played.run()
    assert played.reason(VICTIM) is SessionReason.INPUT and VICTIM not in result.survivors
    assert result.total.tolist() == expected(played, result.survivors)


def test_both_sides_find_the_same_graph():
    own = terms(1000, colluders=100)
    graph = graph_for(own, 1000, b"s" * 32)
    assert (graph.degree, graph.threshold, graph.honest) == (142, 96, 48)
    assert graph.order != graph_for(own, 1000, b"t" * 32).order


def test_the_mark_of_a_missing_share_is_no_number_of_the_field():
    assert MISSING >= 65521


def test_a_broken_set_ends_the_session():
    def down(name, message):
        changed = type(message).__name__ == "Survivors" and name == "c0001"
        return [replace(message, alive=b"\xff\xff")] if changed else [message]

    scene = Scene(terms(5), {n: np.ones(7, "<u4") for n in named(5)}, down=down)
    scene.run()
    assert scene.reason("c0001") is SessionReason.MALFORMED
    assert isinstance(scene.ended["c0001"], Aborted)


# -- peers ---------------------------------------------------------------------------------------


def judging(refuses):
    """The victim looks at its peers; what it was asked, how it ended, what it said."""
    asked = []

    def judge(names):
        asked.append(names)
        return "too few of them are known here" if refuses(names) else ""

    played = scene_of(7, judges={VICTIM: judge}, absent={"c0005": 2, "c0006": 3})
    try:
        played.run()
    except Aborted:
        played.settle()
    said = [message for name, message in played.said if name == VICTIM]
    return asked, played.reason(VICTIM), kinds(said)


def test_peers_are_looked_at_before_anything_is_shared_masked_or_revealed():
    everybody = tuple(named(7))
    asked, reason, said = judging(lambda names: False)
    assert asked == [everybody, (*everybody[:5], "c0006"), everybody[:5]]
    assert reason is None and said[-1] is Revealed
    for count, last in ((7, Advert), (6, Compared), (5, MaskedVector)):
        asked, reason, said = judging(lambda names, count=count: len(names) == count)
        assert reason is SessionReason.PEERS and said[-2:] == [last, Quit]


# -- complaints ----------------------------------------------------------------------------------


def damaged(message):
    """A server that damages the first piece on its way."""
    return [replace(message, pieces=bytes(PIECE) + message.pieces[PIECE:])]


def test_a_piece_that_was_damaged_on_its_way_opens_nothing():
    """The holder complains about what it got; the server cannot show that its dealer sent that."""
    played, reason, said = attacked(Delivery, damaged)
    assert [one.dealer for one in said[2].complaints] == [0]
    assert (
        VICTIM,
        SessionReason.SIGNATURE,
    ) in played.refused  # the honest server knows what it sent
    assert reason is SessionReason.LATE
    assert not any(isinstance(message, OpenedShares) for _, message in played.said)


def complaining(change=None, opened=(), colluders=1, **more):
    """c0001 complains about c0000; what the dealer c0000 did."""

    def down(name, message):
        if name == VICTIM and isinstance(message, Delivery):
            return damaged(message)
        if name == "c0000" and isinstance(message, Members):
            own = [m for n, m in played.said if n == VICTIM and isinstance(m, Compared)]
            made = Complaints(message.session, own[0].complaints)
            return [change(made) if change else made]
        return [message]

    own = terms(COUNT, colluders=colluders)
    played = Scene(own, vectors(own, COUNT), down=down, server_verify=believe, **more)
    try:
        played.run()
    except Aborted:
        played.settle()
    said = [message for name, message in played.said if name == "c0000"]
    return played.reason("c0000"), kinds(said), str(played.ended["c0000"])


def test_a_dealer_opens_nothing_for_a_piece_that_a_server_changed():
    """The complaint is real, and about something else than what the dealer sent."""
    reason, said, text = complaining()
    assert reason is SessionReason.COMPLAINTS and OpenedShares not in said
    assert "did not complain about what this client sent it" in text


@pytest.mark.parametrize(
    "change",
    [
        lambda m: replace(m, complaints=()),
        lambda m: replace(m, complaints=m.complaints * 2),
        lambda m: replace(m, complaints=(replace(m.complaints[0], holder=0),)),
        lambda m: replace(m, complaints=(replace(m.complaints[0], holder=77),)),
        lambda m: replace(m, complaints=(replace(m.complaints[0], dealer=2),)),
        lambda m: replace(m, complaints=tuple(replace(m.complaints[0], holder=j) for j in (1, 2))),
    ],
    ids=["none", "twice", "its own", "no holder", "another dealer", "more than may lie"],
)
def test_made_up_complaints_open_nothing(change):
    reason, said, _ = complaining(change)
    assert reason is SessionReason.COMPLAINTS and OpenedShares not in said


@pytest.mark.parametrize(("liars", "opens"), [(1, True), (2, False), (3, False)])
def test_no_more_shares_are_opened_than_may_lie(liars, opens):
    """Each complaint is signed and about the very piece that was sent: those who lie work together.

    A server that had all their shares opened would be nearer to the dealer's secret.
    """
    holders = [f"c{i:04d}" for i in range(1, liars + 1)]

    def down(name, message):
        if name == "c0000" and isinstance(message, Members):
            made = [one for holder in holders for one in played.complaints(holder, [0])]
            return [Complaints(message.session, tuple(made))]
        return [message]

    own = terms(COUNT, colluders=1)
    played = Scene(own, vectors(own, COUNT), down=down)
    try:
        played.run()
    except Aborted:
        played.settle()
    said = kinds(message for name, message in played.said if name == "c0000")
    assert (OpenedShares in said) is opens
    refused = played.reason("c0000") is SessionReason.COMPLAINTS
    assert refused is not opens
    assert opens or f"{liars} holders complain about shares that fit" in str(played.ended["c0000"])
