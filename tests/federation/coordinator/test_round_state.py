# SPDX-License-Identifier: Apache-2.0
"""Presence: whoever spoke within two leases, or within two turns of a crowd at its pace."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from muster.federation.coordinator.commands import ShowBytes
from muster.federation.coordinator.events import MemberEnrolled, row_of
from muster.federation.coordinator.facts import FederationFacts
from muster.federation.coordinator.round_state import RoundState
from muster.store.records import Member


@pytest.mark.parametrize(("members", "seconds"), [(3, 30.0), (1000, 400.0)])
def test_presence_lasts_for_two_leases_or_two_of_the_longest_turns_of_all(members, seconds):
    now, everybody = [0.0], {str(i): Member(str(i), i, 1) for i in range(members)}
    rows = [row_of(MemberEnrolled(one)) for one in everybody.values()]
    ledger = SimpleNamespace(
        rows=lambda after: [replace(row, position=i) for i, row in enumerate(rows, 1)][after:],
        shared=False,
    )
    facts = FederationFacts(
        "run", "f" * 64, {}, lambda rows, times: 1.0, None, 8, lease=15.0, pace=10.0
    )
    round_state = RoundState(ledger, facts, clock=lambda: now[0])
    now[0] = seconds
    round_state.ask(ShowBytes("1", 0, 0))
    assert len(round_state.present()) == members
    now[0] += 1
    assert [member.client for member in round_state.present()] == [1]
