# SPDX-License-Identifier: Apache-2.0
"""Server, holder and dealer mean the same by a piece, and no other piece is taken for it."""

from dataclasses import dataclass

import numpy as np
import pytest
from tests.secagg.scene import named

from muster.secagg.agreement import Binding, Secrets
from muster.secagg.commitments import LEAVES, VALUES, Dealt, deal, root
from muster.secagg.dealing import Dealing, SessionMembers
from muster.secagg.graph import Graph, Odds, graph_of
from muster.secagg.messages import Shares
from muster.secagg.pieces import PIECE, SEALED, assembled, opened, sent, values_in

DEALER = 2


@dataclass
class Dealer:
    """One client that dealt, and the server that heard it."""

    graph: Graph
    binding: Binding
    keys: list[Secrets]
    dealt: Dealt
    said: Shares
    dealing: Dealing

    def key(self, holder):
        return self.keys[holder].channel.agree(self.keys[DEALER].channel.public)

    def at(self, place):
        """The holder at a place, and its piece as the dealer knows it."""
        holders = self.graph.holders(DEALER)
        piece = sent(self.said, DEALER, holders, place, self.graph.threshold)
        return int(holders[place]), piece


def dealer_in(graph):
    draws, binding = np.random.default_rng(1).bytes, Binding(bytes(32), bytes([1]) * 32)
    keys = [Secrets.drawn(draws) for _ in range(graph.count)]
    holders, own = graph.holders(DEALER), keys[DEALER]
    dealt = deal(binding, DEALER, (own.mask.data, own.seed), holders, graph.threshold, draws)
    sealed = b"".join(
        binding.seal(own.channel.agree(keys[j].channel.public), DEALER, j, row.tobytes())
        for j, row in zip(holders.tolist(), dealt.shares, strict=True)
        if j != DEALER
    )
    said = Shares(binding.session, sealed, dealt.leaves, dealt.proof, b"")
    entries = tuple(named(graph.count))
    dealing = Dealing(
        SessionMembers(None, entries, graph, {n: i for i, n in enumerate(entries)}, binding)
    )
    assert dealing.take(DEALER, said) is None
    return Dealer(graph, binding, keys, dealt, said, dealing)


@pytest.fixture(scope="module", params=["complete", "ring"])
def dealer(request):
    if request.param == "complete":
        return dealer_in(graph_of(7, Odds(2, 1), bytes(32)))
    return dealer_in(Graph(12, 6, 4, order=(5, 2, 9, 0, 11, 7, 1, 3, 10, 4, 8, 6)))


def test_the_dealer_the_server_and_the_holder_mean_the_same(dealer):
    for place, holder in enumerate(dealer.graph.holders(DEALER).tolist()):
        if holder == DEALER:
            continue
        _, piece = dealer.at(place)
        assert len(piece) == PIECE and piece == dealer.dealing.piece(DEALER, holder)
        assert piece == dealer.dealing.pieces(holder)  # nobody else has dealt
        share = opened(dealer.binding, dealer.key(holder), (DEALER, holder), piece)
        assert np.array_equal(share, dealer.dealt.shares[place])


def test_a_piece_with_one_bit_changed_is_none(dealer):
    holder, piece = dealer.at(0)
    for at in range(PIECE):
        other = piece[:at] + bytes([piece[at] ^ 1]) + piece[at + 1 :]
        assert opened(dealer.binding, dealer.key(holder), (DEALER, holder), other) is None, at


def test_a_piece_of_another_holder_is_none(dealer):
    (one, first), (other, second) = dealer.at(0), dealer.at(1)
    assert opened(dealer.binding, dealer.key(other), (DEALER, other), first) is None
    assert opened(dealer.binding, dealer.key(one), (DEALER, one), second) is None


def test_the_parts_lie_where_they_are_read(dealer):
    _, piece = dealer.at(0)
    parts = [
        np.frombuffer(part, np.uint8)[None]
        for part in (
            piece[:SEALED],
            root(dealer.dealt.leaves),
            dealer.dealt.leaves[:LEAVES],
        )
    ]
    values = np.frombuffer(values_in(piece), "<u2")[None]
    assert values.shape == (1, VALUES // 2) and assembled(*parts, values).tobytes() == piece
