# SPDX-License-Identifier: Apache-2.0
"""A client against a server that lies, repeats, mixes up or dies, and against its own death."""

from dataclasses import replace

import numpy as np
import pytest

from muster.secagg import Aborted, Await, Forget, Keep, Reason, Say, Step, client
from muster.secagg.agreement import Secrets
from muster.secagg.messages import (
    Advert,
    Consent,
    Delivery,
    Ended,
    Masked,
    Quit,
    Quorum,
    Revealed,
    Roster,
    Shares,
    Survivors,
)
from muster.secagg.session import bitmap
from muster.secagg.shamir import LIMBS, combine, joined, weights
from tests.secagg.scene import Scene, believe, expected, named, party, sign, terms, vectors

VICTIM = "c0001"
COUNT = 5


def scene(count=COUNT, **changes):
    own = changes.pop("terms", terms(count))
    return Scene(own, vectors(own, count), **changes)


def told(kind, change, name=VICTIM):
    """A server that says something else to one client (to all where name is None)."""

    def down(to, message):
        return change(message) if isinstance(message, kind) and name in (to, None) else [message]

    return down


def attacked(kind, change, **more):
    """Play an attack on the victim; how it ended for it, and what it said."""
    played = scene(down=told(kind, change), **more)
    try:
        played.run()
    except Aborted:
        played.settle()
    said = [message for name, message in played.said if name == VICTIM]
    return played, played.reason(VICTIM), said


def kinds(said):
    return [type(message) for message in said]


def only(*numbers, count=COUNT):
    alive = np.zeros(count, np.bool_)
    alive[list(numbers)] = True
    return bitmap(alive)


# -- both secrets of one client -----------------------------------------------------------------


def test_one_answer_holds_one_share_of_each_client():
    """Of the seed of who survived, of the mask key of who did not, and nothing else."""
    played, rows = scene(absent={"c0004": 2}), {}

    def up(name, message):
        if isinstance(message, Revealed):
            rows[int(name[1:])] = np.frombuffer(message.shares, "<u2").reshape(COUNT, LIMBS)
        elif isinstance(message, Advert):
            keys[name] = Secrets.read(played.kept[name]["advertise"][:96])
        return [message]

    keys, played.up = {}, up
    played.run()
    assert sorted(rows) == [0, 1, 2, 3]
    row = weights(np.array([[1, 2, 3]]))[0]
    for i, name in enumerate(named(COUNT)):
        shares = np.stack([rows[j][i] for j in range(3)]).astype(np.int64)
        (secret,) = joined(combine(shares, row)[None])
        assert secret == (keys[name].mask.data if i == 4 else keys[name].seed)


@pytest.mark.parametrize("before", [False, True])
def test_a_second_set_of_survivors_is_not_answered(before):
    """First alive, then dead: two requests in a row."""
    dead = [0, 1, 2, 3]

    def change(message):
        other = replace(message, alive=only(*dead))
        return [other, message] if before else [message, other]

    _, reason, said = attacked(Survivors, change)
    assert reason is Reason.ORDER
    assert kinds(said) == [Advert, Shares, Masked, Consent, Quit]


def test_a_second_request_after_the_answer_is_not_answered():
    def change(message):
        survivors = Survivors(message.session, only(0, 1, 2, 3))
        return [message, survivors, replace(message, alive=only(0, 1, 2, 3))]

    _, reason, said = attacked(Quorum, change)
    assert reason is Reason.ORDER
    assert kinds(said) == [Advert, Shares, Masked, Consent, Revealed, Quit]


@pytest.mark.parametrize("step", [Step.UNMASK, Step.OVER])
def test_a_request_after_a_restart_is_not_answered_twice(step):
    """Retry after reconnecting: what was kept decides, not what is asked now."""
    played = scene(restarts={(VICTIM, step)})
    twice = {Step.UNMASK: Survivors, Step.OVER: Quorum}[step]

    def down(name, message):
        if name == VICTIM and isinstance(message, twice):
            return [message, Survivors(message.session, only(0, 1, 2, 3))]
        return [message]

    played.down = down
    played.run()
    said = [message for name, message in played.said if name == VICTIM]
    assert played.reason(VICTIM) is Reason.ORDER
    assert len({m.to_bytes() for m in said if isinstance(m, Consent)}) == 1
    assert len({m.to_bytes() for m in said if isinstance(m, Revealed)}) == (step is Step.OVER)


# -- split view ---------------------------------------------------------------------------------


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


# -- keys ---------------------------------------------------------------------------------------


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
    (lambda m: [replace(m, entries=m.entries + (m.entries[-1],))], Reason.COHORT),
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


# -- models -------------------------------------------------------------------------------------


def test_another_model_is_noticed_by_the_server():
    own = {VICTIM: replace(terms(COUNT), model=b"\2" * 32)}
    played = scene(own=own)
    result = played.run()
    assert (VICTIM, Reason.TERMS) in played.refused and VICTIM not in result.survivors


def inconsistent(**more):
    """A server that gave one client another model, and hides it as well as it can."""
    other = replace(terms(COUNT, size=5000), model=b"\2" * 32)
    played = scene(terms=terms(COUNT, size=5000), own={VICTIM: other}, **more)

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


# -- order, replay, damage ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Roster, Delivery, Survivors, Quorum])
def test_a_repeated_message_changes_nothing(kind):
    played, reason, said = attacked(kind, lambda m: [m, m, m])
    assert reason is None and kinds(said) == [Advert, Shares, Masked, Consent, Revealed]


@pytest.mark.parametrize("kind", [Delivery, Survivors, Quorum])
def test_a_message_of_another_session_ends_it(kind):
    _, reason, said = attacked(kind, lambda m: [replace(m, session=bytes(32))])
    assert reason is Reason.SESSION and type(said[-1]) is Quit


def test_starting_over_does_not_reset_a_client():
    """A new roster in the middle: the keys that masked the vector must not serve again."""
    for kind in (Delivery, Survivors, Quorum):
        _, reason, _ = attacked(kind, lambda m: [Roster(bytes(32), ()), m])
        assert reason is Reason.ORDER


def test_steps_out_of_order_end_it():
    for kind, early in [(Roster, Survivors), (Delivery, Survivors), (Survivors, Delivery)]:
        extra = early(bytes(32), b"\x1f", b"") if early is Delivery else early(bytes(32), b"\x1f")
        _, reason, said = attacked(kind, lambda m, extra=extra: [extra, m])
        assert reason is Reason.ORDER and Revealed not in kinds(said)


def test_bytes_that_are_no_message_end_it():
    side = client(terms(3), party("c0000"), list, np.random.default_rng(0).bytes)
    assert [type(next(side)) for _ in range(3)] == [Keep, Say, Await]
    assert side.send(b"noise") == Say(Quit("MALFORMED"))
    assert isinstance(next(side), Forget)
    with pytest.raises(Aborted) as caught:
        next(side)
    assert caught.value.reason is Reason.MALFORMED and not caught.value.remote


def test_nothing_that_came_is_waited_for():
    side = client(terms(3), party("c0000"), list, np.random.default_rng(0).bytes)
    assert [type(next(side)) for _ in range(3)] == [Keep, Say, Await]
    assert side.send(None) == Await(Step.SHARE)


# -- sets ---------------------------------------------------------------------------------------

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

    played, reason, said = attacked(Delivery, change)
    assert reason is None and Revealed in kinds(said)


# -- input --------------------------------------------------------------------------------------


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
    played = scene()
    played.vectors[VICTIM] = vector
    result = played.run()
    assert played.reason(VICTIM) is Reason.INPUT and VICTIM not in result.survivors
    assert result.total.tolist() == expected(played, result.survivors)


def test_an_error_of_the_callers_vector_is_the_callers():
    def failing():
        raise ZeroDivisionError

    own = terms(3)
    played = Scene(own, vectors(own, 3))
    side = client(own, party("c0000"), failing, np.random.default_rng(0).bytes)
    played.clients, said = {}, []
    actions = [next(side) for _ in range(3)]
    adverts = [actions[1].message]
    for name in ("c0001", "c0002"):
        other = client(own, party(name), list, np.random.default_rng(int(name[1:])).bytes)
        adverts.append([next(other) for _ in range(2)][1].message)
    roster = Roster(own.context, tuple(advert.entry for advert in adverts))
    side.send(roster)
    said = next(side).message
    assert next(side) == Await(Step.MASK)
    with pytest.raises(ZeroDivisionError):
        side.send(Delivery(said.session, only(0, 1, 2, count=3), bytes(176)))


# -- death and return ---------------------------------------------------------------------------


@pytest.mark.parametrize("in_bytes", [False, True])
@pytest.mark.parametrize("step", list(Step)[1:])
def test_a_client_begun_again_between_two_steps(step, in_bytes):
    played = scene(restarts={(VICTIM, step)}, in_bytes=in_bytes, absent={"c0004": 2})
    result = played.run()
    assert result.survivors == tuple(named(4))
    assert result.total.tolist() == expected(played, result.survivors)
    assert played.reason(VICTIM) is None and played.calls[VICTIM] == 1
    masked = [m for name, m in played.said if name == VICTIM and isinstance(m, Masked)]
    assert len({m.to_bytes() for m in masked}) == 1


@pytest.mark.parametrize("step", list(Step)[:5])
def test_a_client_that_dies_between_keeping_and_saying(step):
    played = scene(crashes={(VICTIM, step)})
    result = played.run()
    assert result.total.tolist() == expected(played, named(COUNT))
    assert played.calls[VICTIM] == 1 and not played.crashes


def test_all_clients_begun_again_at_every_step():
    restarts = {(name, step) for name in named(COUNT) for step in list(Step)[1:]}
    played = scene(restarts=restarts | {("server", step) for step in list(Step)[1:5]})
    result = played.run()
    assert result.total.tolist() == expected(played, named(COUNT))
    assert set(played.calls.values()) == {1}


def test_everything_is_kept_before_it_is_said():
    played = scene()
    order = []
    for name in named(COUNT):
        pump = client(played.terms, party(name), list, np.random.default_rng(1).bytes)
        order.append([type(next(pump)) for _ in range(3)])
    assert order == [[Keep, Say, Await]] * COUNT
    played.run()
    assert all(kept == {} for kept in played.kept.values())  # forgotten when done


def test_what_was_kept_of_another_session_is_not_used():
    kept = {}
    side = client(terms(3), party("c0000"), list, np.random.default_rng(0).bytes)
    action = next(side)
    kept[action.name] = action.data
    for own, who in ((terms(3, round=2), "c0000"), (terms(3), "c0001")):
        again = client(own, party(who), list, np.random.default_rng(1).bytes, kept)
        assert next(again) == Say(Quit("TERMS"))
        assert next(again) == Forget()
        with pytest.raises(Aborted):
            next(again)


def test_the_server_ends_it():
    side = client(terms(3), party("c0000"), list, np.random.default_rng(0).bytes)
    for _ in range(3):
        next(side)
    assert side.send(Ended("COHORT")) == Forget()  # nothing is said to a server that is gone
    with pytest.raises(Aborted) as caught:
        next(side)
    assert caught.value.reason is Reason.COHORT and caught.value.remote


@pytest.mark.parametrize(("said", "reason"), [("NONSENSE", Reason.STOPPED), ("LATE", Reason.LATE)])
def test_the_server_ends_it_for_whatever_reason(said, reason):
    played, found, _ = attacked(Delivery, lambda m: [Ended(said)])
    assert found is reason and played.kept[VICTIM] == {}


def test_a_sum_without_my_shares_is_an_end_as_well():
    played, _, said = attacked(Quorum, lambda m: [])
    assert VICTIM in played.ended and played.reason(VICTIM) is None
    assert Revealed not in kinds(said)


def test_signing_is_left_to_the_party():
    assert sign("a", b"x") != sign("b", b"x")
