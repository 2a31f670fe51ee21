# SPDX-License-Identifier: Apache-2.0
"""A client against a server that asks twice, repeats and mixes up, and against its own death."""

from dataclasses import replace

import numpy as np
import pytest
from tests.secagg.scene import (
    COUNT,
    VICTIM,
    attacked,
    expected,
    kinds,
    named,
    only,
    party,
    scene_of,
    terms,
)

from muster.secagg import Aborted, Await, Forget, Persist, Say, SessionReason, SessionStep, client
from muster.secagg.agreement import Secrets
from muster.secagg.commitments import ROWS
from muster.secagg.messages import (
    Advert,
    Compared,
    Complaints,
    Consent,
    Delivery,
    KeyRoster,
    MaskedVector,
    Members,
    Quit,
    Quorum,
    Revealed,
    SessionEnded,
    Shares,
    Survivors,
)
from muster.secagg.shamir import LIMBS, combine, joined, weights

# -- both secrets of one client ------------------------------------------------------------------


def test_one_answer_holds_one_share_of_each_client():
    """Of the seed of who survived, of the mask key of who did not, and nothing else."""
    played, rows = scene_of(absent={"c0004": 3}), {}

    def up(name, message):
        if isinstance(message, Revealed):
            rows[int(name[1:])] = np.frombuffer(message.shares, "<u2").reshape(COUNT, ROWS)
        elif isinstance(message, Advert):
            keys[name] = Secrets.read(played.kept[name]["advertise"][:96])
        return [message]

    keys, played.up = {}, up
    played.run()
    assert sorted(rows) == [0, 1, 2, 3]
    row = weights(np.array([[1, 2, 3, 4]]))[0]
    for i, name in enumerate(named(COUNT)):
        shares = np.stack([rows[j][i, :LIMBS] for j in range(4)]).astype(np.int64)
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
    assert reason is SessionReason.ORDER
    assert kinds(said) == [Advert, Shares, Compared, MaskedVector, Consent, Quit]


def test_a_second_request_after_the_answer_is_not_answered():
    def change(message):
        survivors = Survivors(message.session, only(0, 1, 2, 3))
        return [message, survivors, replace(message, alive=only(0, 1, 2, 3))]

    _, reason, said = attacked(Quorum, change)
    assert reason is SessionReason.ORDER
    assert kinds(said) == [Advert, Shares, Compared, MaskedVector, Consent, Revealed, Quit]


@pytest.mark.parametrize("step", [SessionStep.UNMASK, SessionStep.OVER])
def test_a_request_after_a_restart_is_not_answered_twice(step):
    """Retry after reconnecting: what was kept decides, not what is asked now."""
    played = scene_of(restarts={(VICTIM, step)})
    twice = {SessionStep.UNMASK: Survivors, SessionStep.OVER: Quorum}[step]

    def down(name, message):
        if name == VICTIM and isinstance(message, twice):
            return [message, Survivors(message.session, only(0, 1, 2, 3))]
        return [message]

    played.down = down
    played.run()
    said = [message for name, message in played.said if name == VICTIM]
    assert played.reason(VICTIM) is SessionReason.ORDER
    assert len({m.to_bytes() for m in said if isinstance(m, Consent)}) == 1
    assert len({m.to_bytes() for m in said if isinstance(m, Revealed)}) == (
        step is SessionStep.OVER
    )


# -- order, replay, damage -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", [KeyRoster, Delivery, Members, Survivors, Quorum])
def test_a_repeated_message_changes_nothing(kind):
    _played, reason, said = attacked(kind, lambda m: [m, m, m])
    assert reason is None and kinds(said) == [
        Advert,
        Shares,
        Compared,
        MaskedVector,
        Consent,
        Revealed,
    ]


@pytest.mark.parametrize("kind", [Delivery, Members, Survivors, Quorum])
def test_a_message_of_another_session_ends_it(kind):
    _, reason, said = attacked(kind, lambda m: [replace(m, session=bytes(32))])
    assert reason is SessionReason.SESSION and type(said[-1]) is Quit


def test_starting_over_does_not_reset_a_client():
    """A new roster in the middle: the keys that masked the vector must not serve again."""
    for kind in (Delivery, Members, Survivors, Quorum):
        _, reason, _ = attacked(kind, lambda m: [KeyRoster(bytes(32), ()), m])
        assert reason is SessionReason.ORDER


def test_steps_out_of_order_end_it():
    for kind, early in [
        (KeyRoster, Survivors),
        (Delivery, Members),
        (Members, Survivors),
        (Survivors, Delivery),
        (Survivors, Complaints),
        (Quorum, Members),
    ]:
        more = {Delivery: (b"\x1f", b""), Complaints: ((),)}.get(early, (b"\x1f",))
        extra = early(bytes(32), *more)
        _, reason, said = attacked(kind, lambda m, extra=extra: [extra, m])
        assert reason is SessionReason.ORDER and Revealed not in kinds(said)


def test_bytes_that_are_no_message_end_it():
    side = client(terms(3), party("c0000"), list, np.random.default_rng(0).bytes)
    assert [type(next(side)) for _ in range(3)] == [Persist, Say, Await]
    assert side.send(b"noise") == Say(Quit("MALFORMED"))
    assert isinstance(next(side), Forget)
    with pytest.raises(Aborted) as caught:
        next(side)
    assert caught.value.reason is SessionReason.MALFORMED and not caught.value.remote


def test_nothing_that_came_is_waited_for():
    side = client(terms(3), party("c0000"), list, np.random.default_rng(0).bytes)
    assert [type(next(side)) for _ in range(3)] == [Persist, Say, Await]
    assert side.send(None) == Await(SessionStep.SHARE)


# -- death and return ----------------------------------------------------------------------------


def test_an_error_of_the_callers_vector_is_the_callers():
    class Failing(dict):
        def __getitem__(self, name):
            raise ZeroDivisionError

    played = scene_of()
    played.vectors = Failing(played.vectors)
    with pytest.raises(ZeroDivisionError):
        played.run()


@pytest.mark.parametrize("in_bytes", [False, True])
@pytest.mark.parametrize(
    "step", [s for s in SessionStep if s not in (SessionStep.ADVERTISE, SessionStep.ANSWER)]
)
def test_a_client_begun_again_between_two_steps(step, in_bytes):
    played = scene_of(restarts={(VICTIM, step)}, in_bytes=in_bytes, absent={"c0004": 3})
    result = played.run()
    assert result.survivors == tuple(named(4))
    assert result.total.tolist() == expected(played, result.survivors)
    assert played.reason(VICTIM) is None and played.calls[VICTIM] == 1
    masked = [m for name, m in played.said if name == VICTIM and isinstance(m, MaskedVector)]
    assert len({m.to_bytes() for m in masked}) == 1


@pytest.mark.parametrize(
    "step", [s for s in SessionStep if s not in (SessionStep.ANSWER, SessionStep.OVER)]
)
def test_a_client_that_dies_between_keeping_and_saying(step):
    played = scene_of(crashes={(VICTIM, step)})
    result = played.run()
    assert result.total.tolist() == expected(played, named(COUNT))
    assert played.calls[VICTIM] == 1 and not played.crashes


def test_all_clients_begun_again_at_every_step():
    restarts = {(name, step) for name in named(COUNT) for step in list(SessionStep)[1:]}
    played = scene_of(restarts=restarts | {("server", step) for step in list(SessionStep)[1:7]})
    result = played.run()
    assert result.total.tolist() == expected(played, named(COUNT))
    assert set(played.calls.values()) == {1}


def test_everything_is_kept_before_it_is_said():
    played = scene_of()
    order = []
    for name in named(COUNT):
        pump = client(played.terms, party(name), list, np.random.default_rng(1).bytes)
        order.append([type(next(pump)) for _ in range(3)])
    assert order == [[Persist, Say, Await]] * COUNT
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
        forgotten = next(again)
        assert isinstance(forgotten, Forget) and forgotten.reason is SessionReason.TERMS
        with pytest.raises(Aborted):
            next(again)


def test_the_server_ends_it():
    side = client(terms(3), party("c0000"), list, np.random.default_rng(0).bytes)
    for _ in range(3):
        next(side)
    forgotten = side.send(SessionEnded("COHORT"))  # nothing is said to a server that is gone
    assert isinstance(forgotten, Forget) and forgotten.reason is SessionReason.COHORT
    with pytest.raises(Aborted) as caught:
        next(side)
    assert caught.value.reason is SessionReason.COHORT and caught.value.remote


@pytest.mark.parametrize(
    ("said", "reason"), [("NONSENSE", SessionReason.STOPPED), ("LATE", SessionReason.LATE)]
)
def test_the_server_ends_it_for_whatever_reason(said, reason):
    played, found, _ = attacked(Delivery, lambda m: [SessionEnded(said)])
    assert found is reason and played.kept[VICTIM] == {}


def test_a_sum_without_my_shares_is_an_end_as_well():
    played, _, said = attacked(Quorum, lambda m: [])
    assert VICTIM in played.ended and played.reason(VICTIM) is None
    assert Revealed not in kinds(said)


def test_a_client_that_is_stopped_says_so_and_forgets():
    side = client(terms(3), party("c0000"), list, np.random.default_rng(0).bytes)
    for _ in range(3):
        next(side)
    assert side.throw(Aborted(SessionReason.STOPPED, "the site's operator")) == Say(Quit("STOPPED"))
    assert next(side) == Forget(SessionReason.STOPPED, "the site's operator")
