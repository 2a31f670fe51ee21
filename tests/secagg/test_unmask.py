# SPDX-License-Identifier: Apache-2.0
"""Wrong shares are noticed, done without where enough others came, and named."""

from dataclasses import replace

import numpy as np
import pytest
from tests.secagg.scene import Scene, expected, named, terms, vectors

from muster.secagg import Aborted, Reason
from muster.secagg.messages import Revealed, Shares
from muster.secagg.shamir import PRIME


def lying(count, liars, dealers=None, absent=(), **changes):
    """Some holders answer with wrong shares, of some dealers or of all."""
    own = terms(count, **changes)

    def up(name, message):
        if name in liars and isinstance(message, Revealed):
            rows = np.frombuffer(message.shares, "<u2").reshape(-1, 18).copy()
            for i in range(len(rows)) if dealers is None else dealers:
                rows[i, 3] = (int(rows[i, 3]) + 1 + int(name[1:])) % PRIME
            return [replace(message, shares=rows.tobytes())]
        return [message]

    return Scene(own, vectors(own, count), up=up, absent=dict(absent))


@pytest.mark.parametrize("absent", [{}, {"c0006": 2}])
@pytest.mark.parametrize("liar", ["c0000", "c0003", "c0005"])
def test_one_liar_is_done_without_and_named(liar, absent):
    played = lying(7, {liar}, absent=absent)
    result = played.run()
    assert result.total.tolist() == expected(played, result.survivors)
    used = liar < "c0004"  # the first four shares are used, the others not looked at
    assert {holder for _, holder in result.disputes} == ({liar} if used else set())


def test_a_lie_about_one_client_is_named_as_such():
    result = lying(7, {"c0001"}, dealers=[4]).run()
    assert result.disputes == (("c0004", "c0001"),)


def test_two_liars_among_nine():
    played = lying(9, {"c0000", "c0001"})
    result = played.run()
    assert result.total.tolist() == expected(played, named(9))
    assert {holder for _, holder in result.disputes} == {"c0000", "c0001"}


def test_liars_on_a_sparse_graph():
    played = lying(100, {"c0010", "c0055"}, absent={"c0011": 2}, corrupt=0.1)
    result = played.run()
    assert result.total.tolist() == expected(played, result.survivors)
    assert {holder for _, holder in result.disputes} == {"c0010", "c0055"}


@pytest.mark.parametrize("liars", [{"c0000"}, {"c0000", "c0001"}])
def test_too_many_liars_end_it_without_a_sum(liars):
    played = lying(4, liars)
    with pytest.raises(Aborted) as caught:
        played.run()
    assert caught.value.reason is Reason.SHARES
    assert {played.reason(name) for name in named(4)} == {Reason.SHARES}


def test_numbers_outside_the_field_count_as_none():
    def up(name, message):
        if name == "c0000" and isinstance(message, Revealed):
            return [replace(message, shares=b"\xf5\xff" * (len(message.shares) // 2))]
        return [message]

    own = terms(5)
    played = Scene(own, vectors(own, 5), up=up)
    result = played.run()
    assert result.total.tolist() == expected(played, named(5)) and result.disputes == ()


def test_missing_shares_are_too_few():
    def up(name, message):
        if name in ("c0000", "c0001", "c0002") and isinstance(message, Revealed):
            return [replace(message, shares=b"\xff" * len(message.shares))]
        return [message]

    own = terms(5)
    with pytest.raises(Aborted) as caught:
        Scene(own, vectors(own, 5), up=up).run()
    assert caught.value.reason is Reason.SHARES


@pytest.mark.parametrize("late", [2, 9])
def test_a_dealer_of_nonsense(late):
    """Its shares cannot be unsealed. No sum; no client's secret is opened for it either."""

    def up(name, message):
        if name == "c0002" and isinstance(message, Shares):
            return [replace(message, sealed=bytes(len(message.sealed)))]
        return [message]

    own = terms(5)
    played = Scene(own, vectors(own, 5), up=up, absent={"c0002": late})
    with pytest.raises(Aborted) as caught:
        played.run()
    assert caught.value.reason is Reason.SHARES and "c0002" in str(caught.value)


def test_a_dealer_of_some_nonsense_is_borne():
    """Two of its four receivers have nothing; three holders, itself among them, are enough."""

    def up(name, message):
        if name == "c0002" and isinstance(message, Shares):
            return [replace(message, sealed=bytes(176) + message.sealed[176:])]
        return [message]

    own = terms(5)
    played = Scene(own, vectors(own, 5), up=up)
    assert played.run().total.tolist() == expected(played, named(5))


def test_disputes_are_of_two_different_clients():
    for dealer, holder in lying(7, {"c0003"}, dealers=[0, 1, 2, 4, 5, 6]).run().disputes:
        assert dealer != holder == "c0003"
