# SPDX-License-Identifier: Apache-2.0
"""The server is a function of its events, and takes in nothing that is not due."""

from dataclasses import replace

import numpy as np
import pytest
from tests.secagg.scene import Scene, believe, expected, named, terms, vectors, verify

from muster.secagg import (
    Aborted,
    Await,
    Closed,
    Heard,
    MessageRefused,
    SessionReason,
    SessionStep,
    Tell,
    server,
)
from muster.secagg.answers import graph_for
from muster.secagg.messages import (
    Advert,
    Compared,
    Complaint,
    Consent,
    KeyRoster,
    MaskedVector,
    OpenedShares,
    Quit,
    Revealed,
    SessionEnded,
    Shares,
)


@pytest.mark.parametrize("step", [s for s in list(SessionStep)[1:7] if s is not SessionStep.ANSWER])
def test_a_server_begun_again_between_two_steps(step):
    own = terms(5)
    absent = {"c0003": 3}
    played = Scene(own, vectors(own, 5), absent=absent, restarts={("server", step)})
    result = played.run()
    assert result.total.tolist() == expected(played, result.survivors)
    assert len(result.survivors) == 4


def test_a_server_is_a_function_of_its_events():
    """Given again in bytes and cut anywhere, they lead to the same effects."""
    own = terms(4)
    played = Scene(own, vectors(own, 4), absent={"c0003": 3}, in_bytes=True)
    result = played.run()
    effects = []
    for _ in range(2):
        side, seen = server(own, named(4), verify), []
        seen.append(next(side))
        try:
            for event in played.events:
                seen.append(side.send(event))
                while not isinstance(seen[-1], Await):
                    seen.append(next(side))
        except StopIteration as end:
            assert np.array_equal(end.value.total, result.total)
        effects.append(seen)
    assert effects[0] == effects[1]


# -- refusals -----------------------------------------------------------------------------------


def refused(up, count=4, **more):
    """Change c0000's words on their way; return what the server refused, and its sum."""

    def changed(name, message):
        return up(message) if name == "c0000" else [message]

    own = terms(count)
    played = Scene(own, vectors(own, count), up=changed, **more)
    result = played.run()
    assert result.total.tolist() == expected(played, result.survivors)
    return played.refused, result.survivors, played


def on(kind, change):
    return lambda message: change(message) if isinstance(message, kind) else [message]


def foreign(message):
    return [replace(message, context=bytes(32))]


def keyed(**changes):
    return lambda message: [replace(message, entry=replace(message.entry, **changes))]


def complaint(*dealers):
    """Complaints that nobody signed."""
    made = tuple(Complaint(dealer, 0, b"forged") for dealer in dealers)
    return lambda message: [replace(message, complaints=made)]


REFUSED = [
    (Advert, foreign, SessionReason.TERMS),
    (Advert, keyed(signature=b"forged"), SessionReason.SIGNATURE),
    (Advert, keyed(name="c0001"), SessionReason.SIGNATURE),
    (Advert, keyed(mask_key=b"\7" * 32), SessionReason.SIGNATURE),
    (Shares, lambda m: [replace(m, sealed=m.sealed[1:])], SessionReason.MALFORMED),
    (Shares, lambda m: [replace(m, session=bytes(32))], SessionReason.SESSION),
    (MaskedVector, lambda m: [replace(m, vector=m.vector[4:])], SessionReason.MALFORMED),
    (MaskedVector, lambda m: [replace(m, session=bytes(32))], SessionReason.SESSION),
    (Consent, lambda m: [replace(m, signature=b"forged")], SessionReason.SIGNATURE),
    (Shares, lambda m: [replace(m, leaves=m.leaves[1:])], SessionReason.SIGNATURE),
    (Shares, lambda m: [replace(m, proof=m.proof[2:])], SessionReason.SIGNATURE),
    (Shares, lambda m: [replace(m, signature=b"forged")], SessionReason.SIGNATURE),
    (Compared, lambda m: [replace(m, session=bytes(32))], SessionReason.SESSION),
    (Compared, complaint(0), SessionReason.MALFORMED),
    (Compared, complaint(9), SessionReason.MALFORMED),
    (Compared, complaint(1, 1), SessionReason.MALFORMED),
    (Compared, complaint(1), SessionReason.SIGNATURE),
    (Compared, lambda m: [OpenedShares(m.session, b"")], SessionReason.ORDER),
    (Revealed, lambda m: [replace(m, shares=m.shares[44:])], SessionReason.MALFORMED),
    (Shares, lambda m: [Revealed(m.session, b"")], SessionReason.ORDER),
    (MaskedVector, lambda m: [KeyRoster(bytes(32), ())], SessionReason.ORDER),
]


@pytest.mark.parametrize(("kind", "change", "reason"), REFUSED)
def test_a_false_message_counts_as_none(kind, change, reason):
    found, survivors, _ = refused(on(kind, change))
    assert found == [("c0000", reason)]
    assert ("c0000" in survivors) == (kind in (Consent, Revealed))


@pytest.mark.parametrize("change", [{"mask_key": bytes(32)}, {"channel_key": bytes(32)}])
def test_a_point_of_low_order_is_refused(change):
    found, _, _ = refused(on(Advert, keyed(**change)), server_verify=believe, verify=believe)
    assert found == [("c0000", SessionReason.KEYS)]


@pytest.mark.parametrize("field", ["mask_key", "channel_key", "commitment"])
def test_a_key_that_another_client_has_is_refused(field):
    seen = {}

    def up(name, message):
        if isinstance(message, Advert):
            seen[name] = message.entry
            if name == "c0003":
                copied = replace(message.entry, **{field: getattr(seen["c0000"], field)})
                return [replace(message, entry=copied)]
        return [message]

    own = terms(4)
    played = Scene(own, vectors(own, 4), up=up, verify=believe, server_verify=believe)
    assert played.run().survivors == tuple(named(3))
    assert played.refused == [("c0003", SessionReason.KEYS)]


def test_one_key_for_two_purposes_is_refused():
    def change(message):
        return keyed(channel_key=message.entry.mask_key)(message)

    found, _, _ = refused(on(Advert, change), server_verify=believe, verify=believe)
    assert found == [("c0000", SessionReason.KEYS)]


@pytest.mark.parametrize("kind", [Advert, Shares, Compared, MaskedVector, Consent])
def test_a_message_sent_twice_counts_once(kind):
    found, survivors, played = refused(on(kind, lambda m: [m, m]))
    assert set(found) == {("c0000", SessionReason.DUPLICATE)} and len(survivors) == 4
    assert played.reason("c0000") is None


def test_a_second_masked_vector_does_not_count():
    def change(message):
        return [message, replace(message, vector=bytes(len(message.vector)))]

    found, survivors, _ = refused(on(MaskedVector, change))
    assert found == [("c0000", SessionReason.DUPLICATE)] and "c0000" in survivors


def test_who_quits_is_not_waited_for():
    found, survivors, played = refused(on(MaskedVector, lambda m: [Quit("INPUT")]))
    assert found == [] and survivors == tuple(named(4)[1:])
    assert Closed(SessionStep.MASK) not in played.events


def replies(side, event):
    effects = [side.send(event)]
    while not isinstance(effects[-1], Await):
        effects.append(next(side))
    return effects


def test_strangers_noise_and_stale_timers():
    side = server(terms(3), named(3), verify)
    due = Await(SessionStep.ADVERTISE, frozenset(named(3)))
    assert next(side) == due
    assert replies(side, Heard("eve", Quit("DONE")))[0] == MessageRefused(
        "eve", SessionReason.UNKNOWN
    )
    assert replies(side, Heard("c0000", b"noise"))[0] == MessageRefused(
        "c0000", SessionReason.MALFORMED
    )
    assert replies(side, Closed(SessionStep.UNMASK)) == [due]
    assert replies(side, None) == [due]


def test_who_is_late_is_told_so_as_often_as_it_asks():
    seen = {}

    def up(name, message):
        if isinstance(message, MaskedVector) and name == "c0003":
            seen["late"] = message
            return []
        if isinstance(message, Consent) and name == "c0000":
            played.queue.append(Heard("c0003", seen["late"]))
        return [message]

    own = terms(4)
    played = Scene(own, vectors(own, 4), up=up)
    told = []
    played.down = lambda name, message: told.append((name, message)) or [message]
    result = played.run()
    assert result.survivors == tuple(named(3))
    assert played.refused == [("c0003", SessionReason.LATE)]
    assert told.count(("c0003", SessionEnded("LATE"))) == 2
    assert played.reason("c0003") is SessionReason.LATE


def test_who_fell_out_does_not_come_back():
    def up(name, message):
        if isinstance(message, Shares) and name == "c0003":
            return []
        if isinstance(message, MaskedVector) and name == "c0000":
            played.queue.append(Heard("c0003", message))
        return [message]

    own = terms(4)
    played = Scene(own, vectors(own, 4), up=up, shuffle=np.random.default_rng(0))
    result = played.run()
    assert result.total.tolist() == expected(played, named(3))
    assert played.refused == [("c0003", SessionReason.LATE)]


# -- ends ---------------------------------------------------------------------------------------


def test_a_larger_minimum():
    own = terms(6, minimum=5, colluders=1)
    rows = vectors(own, 6)
    assert len(Scene(own, rows, absent={"c0000": 3}).run().survivors) == 5
    played = Scene(own, rows, absent={"c0000": 3, "c0001": 3})
    with pytest.raises(Aborted) as caught:
        played.run()
    assert caught.value.reason is SessionReason.COHORT
    assert {played.reason(name) for name in named(6)[2:]} == {SessionReason.COHORT}
    assert not any(isinstance(message, Revealed) for _, message in played.said)


def test_more_clients_than_the_ring_was_made_for():
    own = replace(terms(3), cohort=3)
    with pytest.raises(Aborted) as caught:
        Scene(own, vectors(own, 4)).run()
    assert caught.value.reason is SessionReason.COHORT


def test_all_are_told_how_it_ended():
    own = terms(4)
    told = []
    played = Scene(own, vectors(own, 4), absent={"c0003": 1})
    played.down = lambda name, message: told.append((name, message)) or [message]
    played.run()
    ends = [(name, message.reason) for name, message in told if isinstance(message, SessionEnded)]
    assert ends == [("c0003", "LATE"), *((name, "DONE") for name in named(3))]


def test_a_server_that_is_stopped_tells_everybody():
    side = server(terms(3), named(3), verify)
    next(side)
    effects = [side.throw(Aborted(SessionReason.STOPPED, "the operator stopped the run"))]
    effects += [next(side), next(side)]
    assert effects == [Tell(name, SessionEnded("STOPPED")) for name in named(3)]
    with pytest.raises(Aborted, match="operator"):
        next(side)


# -- what honest clients would refuse, an honest server ends before it tells them ------------------


def left_of_themselves(played):
    """Return those who ended the session themselves, and were not told that it is over."""
    return {name for name, end in played.ended.items() if end is not None and not end.remote}


@pytest.mark.parametrize("count", range(4, 10))
def test_what_no_graph_bears_is_ended_before_anybody_is_told_of_it(count):
    """One is silent, and those who are left would hide nobody: that is no failure of theirs."""
    own = terms(count, colluders=count - 2)
    played = Scene(own, vectors(own, count), absent={"c0001": 0})
    with pytest.raises(Aborted) as caught:
        played.run()
    assert caught.value.reason is SessionReason.COHORT and "hide nobody" in str(caught.value)
    assert left_of_themselves(played) == set()
    assert not any(isinstance(message, KeyRoster) for _, message in played.heard)


@pytest.mark.parametrize("step", range(1, 5))
def test_more_losses_than_a_ring_bears_are_ended_before_anybody_is_told_of_them(rings, step):
    """Around everybody enough are left; over all, one more is gone than the ring is made for."""
    own = terms(60, colluders=3, losses=6)
    first = Scene(own, vectors(own, 60))
    first.run()
    roster = next(message for _, message in first.heard if isinstance(message, KeyRoster))
    graph = graph_for(own, 60, roster.session(*own.place))
    apart = [named(60)[i] for i in graph.order[::8]][:7]
    for count in (6, 7):
        played = Scene(own, vectors(own, 60), absent=dict.fromkeys(apart[:count], step))
        if count == 6:
            assert played.run().total.tolist() == expected(played, played_on(played, step))
            continue
        with pytest.raises(Aborted) as caught:
            played.run()
        assert caught.value.reason is SessionReason.THRESHOLD and "ring" in str(caught.value)
        assert left_of_themselves(played) == set()


def played_on(played, step):
    """Return those whose vectors came: some of them may be silent afterwards."""
    return [name for name in played.vectors if step > 3 or name not in played.absent]


def test_losses_after_consent_are_borne_by_a_ring_while_shares_are_enough(rings):
    """Nobody is told of another set any more, so nobody has anything to refuse."""
    own = terms(60, colluders=3, losses=6)
    lost = dict.fromkeys(named(60)[::8], 5)
    played = Scene(own, vectors(own, 60), absent=lost)
    assert len(lost) > own.losses
    assert played.run().total.tolist() == expected(played, named(60))
