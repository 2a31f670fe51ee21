# SPDX-License-Identifier: Apache-2.0
"""Wrong shares are noticed, done without where enough others came, and named; the honest never."""

from dataclasses import replace

import numpy as np
import pytest
from tests.secagg.scene import Scene, expected, named, sign, terms, vectors

from muster.secagg import Aborted, Heard, SessionReason, SessionStep
from muster.secagg.agreement import Binding, Secrets
from muster.secagg.answers import MISSING, graph_for
from muster.secagg.client import _parts
from muster.secagg.commitments import ROWS, SHARE, deal, root
from muster.secagg.messages import (
    Compared,
    Complaints,
    KeyRoster,
    MaskedVector,
    OpenedShares,
    Revealed,
    Shares,
)
from muster.secagg.pieces import SEALED
from muster.secagg.shamir import PRIME


def lying(count, liars, dealers=None, absent=(), **changes):
    """Some holders open wrong shares at the end, of some dealers or of all."""
    own = terms(count, **changes)

    def up(name, message):
        if name in liars and isinstance(message, Revealed):
            rows = np.frombuffer(message.shares, "<u2").reshape(-1, ROWS).copy()
            for i in range(len(rows)) if dealers is None else dealers:
                rows[i, 3] = (int(rows[i, 3]) + 1 + int(name[1:])) % PRIME
            return [replace(message, shares=rows.tobytes())]
        return [message]

    return Scene(own, vectors(own, count), up=up, absent=dict(absent))


def caught(result):
    return {liar.name for liar in result.liars}


# -- holders that lie at the end -------------------------------------------------------------------


@pytest.mark.parametrize("absent", [{}, {"c0006": 3}])
@pytest.mark.parametrize("liar", ["c0000", "c0003", "c0005"])
def test_one_liar_is_done_without_and_named(liar, absent):
    played = lying(7, {liar}, absent=absent, colluders=1)
    result = played.run()
    assert result.total.tolist() == expected(played, result.survivors)
    used = liar < "c0005"  # the first five shares are used, the others not looked at
    assert caught(result) == ({liar} if used else set())


def test_a_lie_about_one_client_is_named_as_such():
    (liar,) = lying(7, {"c0001"}, dealers=[4], colluders=1).run().liars
    assert liar.name == "c0001" and "'c0004'" in liar.why


def test_as_many_liars_as_may_collude_among_twenty():
    liars = set(named(20)[:6])
    played = lying(20, liars)
    result = played.run()
    assert result.total.tolist() == expected(played, named(20)) and caught(result) == liars


def test_liars_on_a_ring(rings):
    played = lying(100, {"c0010", "c0055"}, absent={"c0011": 3}, colluders=10)
    result = played.run()
    assert result.total.tolist() == expected(played, result.survivors)
    assert caught(result) == {"c0010", "c0055"}


@pytest.mark.parametrize("count", [3, 4, 6, 9])
def test_a_holder_that_ends_a_session_is_named_and_no_honest_dealer(count):
    """A third colluding, all holders may be needed: then the session is lost, its liars known."""
    liars = set(named(count)[: count // 3])
    played = lying(count, liars)
    if count == 4:  # three of the four shares suffice
        result = played.run()
        assert result.total.tolist() == expected(played, named(4)) and caught(result) == liars
        return
    with pytest.raises(Aborted) as stop:
        played.run()
    assert stop.value.reason is SessionReason.SHARES and caught(stop.value) == liars
    assert {played.reason(name) for name in named(count)} == {SessionReason.SHARES}


def opening(count, change, absent=(), own=None):
    """Return an opening in which some say `change(name, rows)`, shares `(dealers, 22)`, or None."""
    own = own or terms(count)

    def up(name, message):
        if isinstance(message, Revealed):
            rows = np.frombuffer(message.shares, "<u2").reshape(-1, ROWS).copy()
            if change(name, rows) is not None:
                return [replace(message, shares=rows.tobytes())]
        return [message]

    return Scene(own, vectors(own, count), up=up, absent=dict(absent))


def saying(number, liars, dealers=slice(None)):
    """Some say this number in the place of shares."""

    def change(name, rows):
        if name not in liars:
            return None
        rows[dealers] = number
        return rows

    return change


@pytest.mark.parametrize("number", [MISSING, PRIME])
def test_who_opens_no_share_that_it_was_given_is_named_though_enough_others_came(number):
    played = opening(5, saying(number, {"c0000"}))
    result = played.run()
    assert result.total.tolist() == expected(played, named(5)) and caught(result) == {"c0000"}


@pytest.mark.parametrize("count", [3, 5, 6, 9])
def test_who_ends_a_session_by_opening_no_share_is_named(count):
    liars = set(named(count)[-(count // 3) - (count == 5) :])
    played = opening(count, saying(MISSING, liars, dealers=[0]))
    with pytest.raises(Aborted) as stop:
        played.run()
    assert stop.value.reason is SessionReason.SHARES and caught(stop.value) == liars
    assert all("'c0000'" in liar.why for liar in stop.value.liars)


def test_no_share_and_another_share_are_lies_of_one_session():
    def change(name, rows):
        if name == "c0004":
            rows[0, 3] ^= 1
        return saying(MISSING, {"c0000", "c0001"})(name, rows) if name < "c0002" else rows

    with pytest.raises(Aborted) as stop:
        opening(5, change).run()
    assert caught(stop.value) == {"c0000", "c0001", "c0004"}


def test_on_a_ring_who_opens_no_share_of_a_neighbour_is_named_with_it(rings):
    own = terms(100, colluders=10)
    played = opening(100, saying(MISSING, {"c0010"}, dealers=[3]), own=own)
    result = played.run()
    session = next(m.session for _, m in played.said if isinstance(m, MaskedVector))
    neighbour = graph_for(own, 100, session).holders(10)[3]
    (liar,) = result.liars
    assert liar.name == "c0010" and f"'c{neighbour:04}'" in liar.why


def test_who_is_silent_in_the_last_step_is_not_named_where_others_end_it():
    played = opening(7, saying(MISSING, {"c0001", "c0002"}), absent={"c0006": 5})
    with pytest.raises(Aborted) as stop:
        played.run()
    assert caught(stop.value) == {"c0001", "c0002"}


# -- dealers ---------------------------------------------------------------------------------------


def dealing(change, count=7, liar="c0002", **more):
    """One client deals as `change(message, scene)` says."""
    own = terms(count)

    def up(name, message):
        if name == liar and isinstance(message, Shares):
            return [change(message, played)]
        return [message]

    played = Scene(own, vectors(own, count), up=up, **more)
    return played


def resigned(message, played, **changes):
    """Other shares, under the liar's own signature."""
    from_liar = replace(message, **changes)
    binding = Binding(message.session, played.terms.context)
    statement = binding.dealing(root(from_liar.leaves), from_liar.proof)
    return replace(from_liar, signature=sign("c0002", statement))


def some(message, played):
    """To two of six, nothing that can be unsealed."""
    return replace(message, sealed=bytes(2 * SEALED) + message.sealed[2 * SEALED :])


def answering(played, change=lambda shares: shares):
    """The liar opens what it is asked for, from its own shares."""

    def down(name, message):
        if not isinstance(message, Complaints):
            return [message]
        _, _, own = _parts(played.kept[name]["share"])
        size = 2 * SHARE
        shares = [own[size * c.holder : size * (c.holder + 1)] for c in message.complaints]
        opened = OpenedShares(message.session, change(b"".join(shares)))
        played.said.append((name, opened))
        played.queue.append(Heard(name, opened))
        return []

    played.down = down
    return played


def nonsense(message, played):
    return replace(message, sealed=bytes(len(message.sealed)))


@pytest.mark.parametrize("count", [4, 5, 7, 20])
def test_a_dealer_of_nonsense_is_out_before_anything_is_masked(count):
    played = dealing(nonsense, count)
    result = played.run()
    assert caught(result) == {"c0002"} and "c0002" not in result.survivors
    assert result.total.tolist() == expected(played, [n for n in named(count) if n != "c0002"])
    assert "c0002" not in played.masked and played.reason("c0002") is SessionReason.LIED


def test_a_dealer_of_nonsense_to_a_few_answers_and_stays():
    """It opens the shares that did not come, they fit, and nobody is blamed."""
    played = answering(dealing(some, absent={"c0006": 3}))
    result = played.run()
    assert result.liars == () and result.survivors == tuple(named(6))
    assert result.total.tolist() == expected(played, result.survivors)
    assert [name for name, m in played.said if isinstance(m, OpenedShares)] == ["c0002"]


def test_shares_that_were_opened_open_the_secret_of_a_client_that_fell_silent():
    played = answering(dealing(some, absent={"c0002": 3, "c0006": 3}))
    result = played.run()
    assert result.survivors == ("c0000", "c0001", "c0003", "c0004", "c0005")
    assert result.total.tolist() == expected(played, result.survivors)


@pytest.mark.parametrize("where", [None, *SessionStep])
def test_who_complained_about_a_share_lacks_it_and_is_not_named(where):
    """Its dealer has opened it; a liar ends the session, and the holders begin again anywhere."""
    played = answering(dealing(some, restarts={(f"c000{i}", where) for i in (0, 1)}))
    lie = opening(7, saying(MISSING, {"c0003", "c0005", "c0006"})).up
    played.up, deal_ = lambda n, m: [x for y in deal_(n, m) for x in lie(n, y)], played.up
    with pytest.raises(Aborted) as stop:
        played.run()
    assert caught(stop.value) == {"c0003", "c0005", "c0006"}
    opened = {name: m for name, m in played.said if isinstance(m, Revealed)}
    assert all(opened[name].shares[2 * SHARE :][:2] == b"\xff\xff" for name in ("c0000", "c0001"))


def test_a_dealer_that_does_not_answer_is_late_and_no_liar():
    played = dealing(some)
    played.down = lambda name, m: [] if isinstance(m, Complaints) else [m]
    result = played.run()
    assert result.liars == () and "c0002" not in result.survivors
    assert played.reason("c0002") is SessionReason.LATE
    assert result.total.tolist() == expected(played, result.survivors)


def test_a_dealer_that_opens_something_else_lied():
    played = answering(dealing(some), lambda shares: bytes(len(shares)))
    result = played.run()
    assert caught(result) == {"c0002"} and "c0002" not in result.survivors
    assert result.total.tolist() == expected(played, result.survivors)


def test_shares_on_no_polynomial_are_found_before_anything_is_masked():
    """Each share is sealed and fits its leaf; together they give no secret."""

    def crooked(message, played):
        secrets = Secrets.read(played.kept["c0002"]["advertise"][:96])
        binding = Binding(message.session, played.terms.context)
        holders, draws = np.arange(7), np.random.default_rng(5).bytes
        own = (secrets.mask.data, secrets.seed)
        steep = deal(binding, 2, own, holders, 7, draws)  # of degree six, where four is due
        keys = played.channels(2)
        sealed = b"".join(
            binding.seal(keys[j], 2, j, steep.shares[j].tobytes()) for j in range(7) if j != 2
        )
        return resigned(message, played, sealed=sealed, leaves=steep.leaves)

    played = dealing(crooked)
    result = played.run()
    assert caught(result) == {"c0002"} and "c0002" not in played.masked
    assert result.total.tolist() == expected(played, result.survivors)


def test_a_dealer_of_another_secret_is_named_at_the_end():
    """Its shares fit one another, so nothing shows before; it costs this session, and no other."""

    def other(message, played):
        binding, draws = Binding(message.session, played.terms.context), np.random.default_rng(5)
        made = deal(binding, 2, (bytes(32), bytes(32)), np.arange(7), 5, draws.bytes)
        keys = played.channels(2)
        sealed = b"".join(
            binding.seal(keys[j], 2, j, made.shares[j].tobytes()) for j in range(7) if j != 2
        )
        return resigned(message, played, sealed=sealed, leaves=made.leaves, proof=made.proof)

    for absent in ({}, {"c0002": 3}):
        played = dealing(other, absent=absent)
        with pytest.raises(Aborted) as stop:
            played.run()
        assert stop.value.reason is SessionReason.SHARES and caught(stop.value) == {"c0002"}


# -- holders that complain -------------------------------------------------------------------------


def complaining(liar, about, count=7):
    """A holder complains about pieces that it was truly given, and that fit."""
    own = terms(count)

    def up(name, message):
        if name == liar and isinstance(message, Compared):
            return [replace(message, complaints=played.complaints(liar, about))]
        return [message]

    played = Scene(own, vectors(own, count), up=up)
    return played


def test_a_false_complaint_is_answered_and_nobody_is_lost():
    played = complaining("c0003", [0, 1])
    result = played.run()
    assert result.liars == () and result.survivors == tuple(named(7))
    assert result.total.tolist() == expected(played, named(7))
    assert sorted(name for name, m in played.said if isinstance(m, OpenedShares)) == [
        "c0000",
        "c0001",
    ]


def test_who_complains_about_more_than_may_lie_is_out():
    played = complaining("c0003", [0, 1, 2])
    result = played.run()
    assert caught(result) == {"c0003"} and "c0003" not in result.survivors
    assert not any(isinstance(message, OpenedShares) for _, message in played.said)
    assert result.total.tolist() == expected(played, result.survivors)


def test_nobody_masks_before_complaints_are_answered():
    played = complaining("c0003", [0])
    played.run()
    kinds = [type(message) for _, message in played.said]
    assert kinds.index(OpenedShares) < kinds.index(MaskedVector)
    assert kinds.index(OpenedShares) > max(i for i, kind in enumerate(kinds) if kind is Compared)
    assert KeyRoster not in kinds
