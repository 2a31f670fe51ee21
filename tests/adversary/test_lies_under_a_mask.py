# SPDX-License-Identifier: Apache-2.0
"""A member that lies in a secure sum: about its weight, its vector, the shares that it deals."""

import threading
import time
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("sqlalchemy")

from tests.federation.coordinator.masked import NAMES, Federation, plan_of, population
from tests.store.scene import wanted

import muster
from muster.runs.replay import replay
from muster.secagg import answers
from muster.secagg.answers import MISSING
from muster.security.refusal import RefusalReason

LIAR = "site-3"
EQUAL = {"weighting": "equal", "cap": None}


@pytest.fixture
def lie(monkeypatch):
    """Let the masked words of one client of a session be others in some rounds."""
    honest = answers.masked

    def told(change, rounds=(1,), index=3):
        def masked(view, members, vector):
            if view.index != index or view.terms.round not in rounds:
                return honest(view, members, vector)
            given = np.asarray(vector()).astype(view.terms.ring.dtype)
            terms = replace(view.terms, most=(1 << view.terms.ring.bits) - 1)
            wide = replace(view, terms=terms)
            object.__setattr__(terms, "ring", view.terms.ring)
            object.__setattr__(wide, "binding", view.binding)
            changed = change(given, view.terms)
            view.terms.ring.reduce(changed)
            return honest(wide, members, lambda: changed)

        monkeypatch.setattr(answers, "masked", masked)

    return told


def weight_zero(vector, terms):
    """As much less than its weight as makes the sum of all weights nothing."""
    vector[-1] = (1 << terms.ring.bits) - (terms.cohort - 1)
    return vector


def far_away(vector, terms):
    """Every coordinate half a ring away from an honest one."""
    vector[:-1] += np.array(1 << terms.ring.bits - 1, terms.ring.dtype)
    return vector


def too_long(vector, terms):
    """Each coordinate as large as an honest one may be, and all of them at once."""
    vector[:-1] = terms.most
    return vector


LIES = {"weight": weight_zero, "coordinates": far_away, "norm": too_long}


def simulated(tmp_path, plan):
    people = population()
    return muster.simulate(plan, people, path=tmp_path / "run", engine="loop", workers=1)


@pytest.mark.parametrize("name", LIES)
def test_a_lie_in_one_round_costs_that_round_alone(tmp_path, lie, name):
    """Nobody is blamed, and the model is that of the rounds before and after."""
    lie(LIES[name], rounds=(2,))
    plan = plan_of(rounds=3, layers=(4, 40, 3), **EQUAL)
    run = simulated(tmp_path, plan)
    assert [record["abandoned"] for record in run.trained] == [False, True, False]
    (rejected,) = run.trained[1]["rejected"]
    assert rejected["clients"] == list(NAMES)
    what = {"weight": "its weight is", "coordinates": "a number of delta", "norm": "its norm is"}
    assert rejected["reason"].startswith(what[name])
    assert "failed" not in run.trained[1]
    assert np.isfinite(run.parameters).all()
    assert replay(tmp_path / "run", plan, population()).identical


def test_a_member_can_stop_rounds_and_nothing_is_poisoned_in_silence(tmp_path, lie):
    lie(weight_zero, rounds=range(1, 99))
    run = simulated(tmp_path, plan_of(rounds=8, **EQUAL))
    assert [record["abandoned"] for record in run.trained] == [True] * 3
    assert run.facts["halted"] and "3 rounds in a row were given up" in run.facts["stopped"]


def test_over_the_network_a_sum_that_cannot_be_is_given_up_and_blames_nobody(tmp_path, lie):
    lie(weight_zero, rounds=(1,))
    federation = Federation(tmp_path, plan_of(**EQUAL))
    records = federation.play()
    assert [record["abandoned"] for record in records] == [True, False]
    assert records[0]["rejected"][0]["clients"] == list(NAMES)
    assert {one["client"] for one in records[0]["late"]} == set(NAMES)
    assert not federation.round_state.volatile.failures and not federation.round_state.excluded
    ended = [d for _, action, d in federation.entries() if action == "secure sum ended"]
    assert [bool(d["refused"]) for d in ended] == [True, False]
    assert replay(tmp_path / "run", federation.plan, federation.people).identical


def test_over_the_network_three_in_a_row_pause_the_run_until_somebody_has_looked(tmp_path, lie):
    lie(weight_zero, rounds=(1, 2, 3))
    federation = Federation(tmp_path, plan_of(rounds=4, **EQUAL))
    looked = []

    def look():
        """As an operator does: it sees the pause, and lets the run go on."""
        round_state = federation.round_state
        until = time.monotonic() + 200
        while (seen := round_state.news.count) is not None and round_state.wanted != "pause":
            assert time.monotonic() < until
            round_state.news.wait(seen, 200.0)
        looked.append((round_state.committed, wanted(federation.ledger)))
        round_state.order("run")

    operator = threading.Thread(target=look)
    federation.began = operator.start
    records = federation.play()
    operator.join()
    assert [record["abandoned"] for record in records] == [True] * 3 + [False]
    assert looked == [(3, "pause")]
    paused = [d for _, action, d in federation.entries() if action == "paused"]
    assert len(paused) == 1 and "3 rounds in a row" in paused[0]["why"]


# -- shares ----------------------------------------------------------------------------------------


def dealing(monkeypatch, change, rounds=(1,)):
    """One client deals other shares than its own."""
    honest = answers.shared

    def shared(view, party, entropy):
        said, own = honest(view, party, entropy)
        if view.index != 3 or view.terms.round not in rounds:
            return said, own
        return change(said), own

    monkeypatch.setattr(answers, "shared", shared)


def test_a_dealer_of_nonsense_is_named_left_out_and_costs_no_round(tmp_path, monkeypatch):
    dealing(monkeypatch, lambda said: replace(said, sealed=bytes(len(said.sealed))))
    federation = Federation(tmp_path, plan_of(rounds=3))
    federation.mute = {LIAR}
    records = federation.play()
    honest = [name for name in NAMES if name != LIAR]
    assert [record["accepted"] for record in records] == [honest] * 3
    assert [LIAR in record["invited"] for record in records] == [True, False, False]
    ended = [d for _, action, d in federation.entries() if action == "secure sum ended"]
    assert [d["liars"] for d in ended] == [[LIAR], [], []]
    left = [(who, d["reason"]) for who, action, d in federation.entries() if action == "left out"]
    assert [who for who, _ in left] == [LIAR] and "complained about it" in left[0][1]
    assert federation.round_state.excluded == {LIAR: left[0][1]}
    assert federation.round_state.refusals[RefusalReason.LEFT_OUT] >= 1


def wrong(words):
    """Other shares than it holds."""
    words[words != MISSING] ^= 1


def none(words):
    """That no share ever came to it."""
    words[:] = MISSING


@pytest.mark.parametrize("change", [wrong, none])
def test_a_holder_that_opens_wrong_shares_costs_a_round_at_most_and_is_named(
    tmp_path, monkeypatch, change
):
    """Five sites, one of whom may collude: the four others are enough to open the sum."""
    honest = answers.revealed

    def revealed(view, held, sets):
        said = honest(view, held, sets)
        if view.index != 0 or view.terms.round != 1:
            return said
        words = np.frombuffer(said.shares, "<u2").copy()
        change(words)
        return replace(said, shares=words.tobytes())

    monkeypatch.setattr(answers, "revealed", revealed)
    federation = Federation(tmp_path, plan_of(rounds=2))
    federation.mute = {"site-0"}
    records = federation.play()
    assert records[0]["accepted"] == list(NAMES)  # its vector is in the sum, which is exact
    assert records[1]["accepted"] == list(NAMES[1:])
    ended = [d for _, action, d in federation.entries() if action == "secure sum ended"]
    assert ended[0]["liars"] == ["site-0"]
