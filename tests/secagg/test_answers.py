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

from muster.secagg import Aborted, Reason
from muster.secagg.answers import MISSING, graph_for
from muster.secagg.messages import (
    Advert,
    Consent,
    Delivery,
    Masked,
    Quit,
    Quorum,
    Revealed,
    Roster,
    Survivors,
)

# -- split view ----------------------------------------------------------------------------------


def split(malicious, *dissenters):
    """Some are told that c0000 is dead, the others that it is alive; each gets the signatures of
    those who were told the same, and the server takes any."""
    own = terms(6, malicious=malicious, corrupt=0.3)
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
    played, result, answered = split(False, "c0003", "c0004")
    assert answered == {"c0000", "c0001", "c0002", "c0005"}
    assert {played.reason(name) for name in ("c0003", "c0004")} == {Reason.QUORUM}
    assert result.total.tolist() == expected(played, named(6))


def test_a_split_view_against_the_larger_threshold_is_answered_by_nobody():
    played, result, answered = split(True, "c0003", "c0004")
    assert (answered, result) == (set(), None)
    assert {played.reason(name) for name in named(6)} == {Reason.QUORUM}


def test_an_even_split_is_answered_by_nobody():
    played, result, answered = split(False, "c0003", "c0004", "c0005")
    assert (answered, result) == (set(), None)
    assert {played.reason(name) for name in named(6)} == {Reason.QUORUM}


def test_forged_signatures_are_no_quorum():
    def change(message):
        return [replace(message, signatures=tuple(bytes(32) for _ in message.signatures))]

    _, reason, said = attacked(Quorum, change)
    assert reason is Reason.QUORUM and Revealed not in kinds(said)


def test_signatures_of_others_do_not_count_twice():
    def change(message):
        return [replace(message, signatures=message.signatures[:1] * COUNT)]

    _, reason, said = attacked(Quorum, change)
    assert reason is Reason.QUORUM and Revealed not in kinds(said)


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
    (entry(2, mask_key=b"\7" * 32), Reason.SIGNATURE),
    (entry(2, channel_key=b"\7" * 32), Reason.SIGNATURE),
    (entry(2, commitment=b"\7" * 32), Reason.SIGNATURE),
    (entry(2, signature=b""), Reason.SIGNATURE),
    (entry(2, name="c0002x"), Reason.SIGNATURE),
    (copied, Reason.KEYS),
    (entry(1, mask_key=b"\7" * 32), Reason.OWN_KEY),
    (left_out, Reason.OWN_KEY),
    (renamed, Reason.ROSTER),
    (lambda m: [replace(m, entries=m.entries[::-1])], Reason.ROSTER),
    (lambda m: [replace(m, entries=m.entries[:2])], Reason.COHORT),
    (lambda m: [replace(m, entries=(*m.entries, m.entries[-1]))], Reason.COHORT),
    (lambda m: [replace(m, context=bytes(32))], Reason.TERMS),
]


@pytest.mark.parametrize(("change", "reason"), ROSTERS)
def test_a_false_roster_gets_no_share(change, reason):
    played, found, said = attacked(Roster, change)
    assert found is reason
    assert kinds(said) == [Advert, Quit] and said[1].reason == reason.name
    assert played.kept[VICTIM] == {}  # forgotten


@pytest.mark.parametrize("field", ["mask_key", "channel_key"])
def test_a_point_of_low_order_gets_no_secret(field):
    change = entry(2, **{field: bytes(32)})
    _, reason, said = attacked(Roster, change, verify=believe, server_verify=believe)
    assert reason is Reason.KEYS
    assert Masked not in kinds(said)


# -- models --------------------------------------------------------------------------------------


def test_another_model_is_noticed_by_the_server():
    own = {VICTIM: replace(terms(COUNT), model=b"\2" * 32)}
    played = scene_of(own=own)
    result = played.run()
    assert (VICTIM, Reason.TERMS) in played.refused and VICTIM not in result.survivors


def inconsistent(**more):
    """A server that gave one client another model, and hides it as well as it can."""
    other = replace(terms(COUNT, size=5000), model=b"\2" * 32)
    played = scene_of(terms=terms(COUNT, size=5000), own={VICTIM: other}, **more)

    def up(name, message):
        if isinstance(message, Advert):
            return [replace(message, context=played.terms.context)]
        return [message]

    def down(name, message):
        if isinstance(message, Roster) and name == VICTIM:
            return [replace(message, context=other.context)]
        return [message]

    played.up, played.down = up, down
    return played


def test_another_model_is_noticed_by_the_clients():
    played = inconsistent(server_verify=believe)
    with pytest.raises(Aborted):
        played.run()
    assert {played.reason(name) for name in named(COUNT)} == {Reason.SIGNATURE}
    assert not played.masked


def test_under_another_model_the_sum_is_noise():
    """Even where nobody checks a signature: masks differ, and shares cannot be unsealed."""
    played = inconsistent(server_verify=believe, verify=believe)
    with pytest.raises(Aborted) as caught:
        played.run()
    assert caught.value.reason is Reason.SHARES
    ring, total = played.terms.ring, np.zeros(5000, np.uint64)
    for message in played.masked.values():
        total += ring.unpack(message.vector, 5000)
    assert len(played.masked) == COUNT
    counts = np.bincount(total & np.uint64((1 << ring.bits) - 1), minlength=1 << ring.bits)
    mean = 5000 / (1 << ring.bits)
    assert ((counts - mean) ** 2 / mean).sum() < 1.6 * (1 << ring.bits)


# -- sets ----------------------------------------------------------------------------------------


SETS = [
    (Delivery, lambda m: [replace(m, alive=only(0, 2, 3, 4))], Reason.SURVIVORS),
    (Delivery, lambda m: [replace(m, alive=only(0, 1))], Reason.COHORT),
    (Delivery, lambda m: [replace(m, alive=b"\xff")], Reason.MALFORMED),
    (Delivery, lambda m: [replace(m, sealed=m.sealed[:-1])], Reason.MALFORMED),
    (Survivors, lambda m: [replace(m, alive=only(0, 2, 3, 4))], Reason.SURVIVORS),
    (Survivors, lambda m: [replace(m, alive=only(1))], Reason.COHORT),
    (Survivors, lambda m: [replace(m, alive=b"")], Reason.MALFORMED),
    (Quorum, lambda m: [replace(m, alive=only(0, 2, 3, 4))], Reason.SURVIVORS),
    (Quorum, lambda m: [replace(m, alive=only(1, 2), signatures=m.signatures[:2])], Reason.COHORT),
    (Quorum, lambda m: [replace(m, signatures=m.signatures[:4])], Reason.MALFORMED),
]


@pytest.mark.parametrize(("kind", "change", "reason"), SETS)
def test_a_false_set_is_not_answered(kind, change, reason):
    _, found, said = attacked(kind, change)
    assert found is reason
    assert kinds(said)[-1] is Quit and Revealed not in kinds(said)


def test_a_dead_client_that_never_shared_is_not_named():
    """Survivors must have shared: c0004 did not, and is called a survivor."""
    change = lambda m: [replace(m, alive=only(0, 1, 2, 3, 4))]  # noqa: E731
    _, found, said = attacked(Survivors, change, absent={"c0004": 1})
    assert found is Reason.SURVIVORS and Consent not in kinds(said)


def test_too_few_around_a_client_is_the_threshold():
    change = lambda m: [replace(m, alive=only(1, 2, 3, count=9))]  # noqa: E731
    own = terms(9)
    played = Scene(own, vectors(own, 9), down=told(Survivors, change))
    played.run()
    assert played.reason(VICTIM) is Reason.THRESHOLD


def test_altered_shares_are_as_if_they_had_not_come():
    def change(message):
        return [replace(message, sealed=b"\0" * 88 + message.sealed[88:])]

    _played, reason, said = attacked(Delivery, change)
    assert reason is None and Revealed in kinds(said)


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
    assert played.reason(VICTIM) is Reason.INPUT and VICTIM not in result.survivors
    assert result.total.tolist() == expected(played, result.survivors)


def test_both_sides_find_the_same_graph():
    own = terms(1000, corrupt=0.1)
    graph = graph_for(own, 1000, b"s" * 32)
    assert (graph.degree, graph.threshold) == (48, 27)
    assert graph.order != graph_for(own, 1000, b"t" * 32).order


def test_the_mark_of_a_missing_share_is_no_number_of_the_field():
    assert MISSING >= 65521


def test_a_broken_set_ends_the_session():
    def down(name, message):
        changed = type(message).__name__ == "Survivors" and name == "c0001"
        return [replace(message, alive=b"\xff\xff")] if changed else [message]

    scene = Scene(terms(5), {n: np.ones(7, "<u4") for n in named(5)}, down=down)
    scene.run()
    assert scene.reason("c0001") is Reason.MALFORMED
    assert isinstance(scene.ended["c0001"], Aborted)
