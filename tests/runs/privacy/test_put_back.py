# SPDX-License-Identifier: Apache-2.0
"""Folders that were copied, or put back, and ledgers that are gone: nothing is released uncharged.

Each round is played here as `drive` plays it: charged, given out, committed, closed.
"""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from tests.runs.privacy.test_guard import DELTA, Kept, guard, plan

import muster
from muster import pipeline, sampling
from muster.errors import RunError
from muster.privacy import Budget, PrivacyLedger, spent
from muster.privacy.book import LedgerFile
from muster.privacy.gaussian import gaussian_epsilon
from muster.rounds import start
from muster.runs.privacy.facts import ledger_of
from muster.runs.privacy.guard import RunAccountant
from muster.runs.run import Run

__all__ = ["plan"]  # the fixture


@pytest.fixture
def wide(plan):
    """Return the plan with all clients in each round, and room for many."""
    return replace(plan, sampling=sampling.All(), budget=Budget(4000.0, DELTA), rounds=12)


def model(plan, mark=0):
    """Return a state that a round could have led to."""
    return start(plan)._replace(sampler=np.array([mark]))


def play(plan, store, *rounds, mark=0, **more):
    """Play these rounds, each by a server that has just begun; return the last one."""
    one = None
    for round in rounds:
        one = guard(plan, store, **more)
        assert one.charge_round(round) is None
        said = one.give_out(round, model(plan, mark))
        store.commit(round)
        one.close(round)
        store.said = said
    return one


def copied(store):
    return json.loads(json.dumps([store.facts, store.records]))


def put_back(store, old, **rollback):
    store.facts, store.records = json.loads(json.dumps(old))
    if rollback:
        store.facts |= {"secret": None}
        store.facts["rollbacks"] = [*(store.facts.get("rollbacks") or ()), rollback]


def ledger(store):
    return PrivacyLedger.from_json(store.facts["ledger"])


def places(found):
    return [(entry.charge.run.partition("/")[2], entry.round) for entry in found.entries]


# -- correlated noise --


def reach(c, first, again):
    """Return the L2 norm of what a client of unit updates in all rounds adds to all releases.

    Rounds 1 to `first` once; then rounds `again` another time, from the state after the round
    before them: the rows of noise of the rounds before are the same, so in terms of independent
    rows Z the second release of a round t is (C X)_t + Z'_t, which holds what was there before.
    """
    c = np.array(c)
    rows = [c[: min(len(c), t)].sum() for t in [*range(1, first + 1), *again]]
    return float(np.sqrt(np.square(rows).sum()))


@pytest.mark.parametrize("bands", [2, 4, 8])
def test_correlated_noise_of_rounds_that_were_lost_is_charged_in_full(wide, bands, tmp_path):
    """Of a copy that ended after round 7, where 9 was the last: 1-9, and then 8 and 9 again."""
    noise = (pipeline.Clip(0.5), pipeline.BandedNoise(8.0, bands=bands))
    wide, store = replace(wide, pipeline=noise), Kept(tmp_path)
    play(wide, store, *range(1, 8))
    c = wide.stages.releases()[0].coefficients
    assert ledger(store).epsilon == pytest.approx(gaussian_epsilon(DELTA, 8 / reach(c, 7, ())))
    put_back(store, copied(store), to=7, lost=9)
    play(wide, store, 8, 9)
    true = gaussian_epsilon(DELTA, 8 / reach(c, 9, (8, 9)))
    assert true * (1 - 1e-9) <= ledger(store).epsilon <= true * (1 + 1e-9)


def test_a_second_release_of_a_round_of_correlated_noise_is_charged_in_full(wide, tmp_path):
    noise = (pipeline.Clip(0.5), pipeline.BandedNoise(8.0, bands=4))
    wide, store, file = replace(wide, pipeline=noise), Kept(tmp_path), tmp_path / "people.json"
    play(wide, store, 1, 2, 3, 4, 5, file=file)
    guard(wide, store, file=file).charge_round(6)
    old = copied(store)
    killed_after_commit(wide, store, 6, file)
    put_back(store, old)
    play(wide, store, 6, mark=1, file=file)
    c = wide.stages.releases()[0].coefficients
    true = gaussian_epsilon(DELTA, 8 / reach(c, 6, (6,)))
    assert LedgerFile(file).read(DELTA).epsilon == pytest.approx(true, rel=1e-9)


# -- a ledger that is gone --


def test_a_run_whose_ledger_is_gone_is_not_charged_in_an_empty_one(wide, tmp_path):
    """The disk of --ledger is not mounted: what other runs have spent is not forgotten."""
    file = tmp_path / "mnt" / "people.json"
    first, second = Kept(tmp_path / "first"), Kept(tmp_path / "second")
    play(wide, second, 1, file=file)
    play(wide, first, *range(1, 6), file=file)
    assert len(LedgerFile(file).read(DELTA).entries) == 6
    shutil.move(tmp_path / "mnt", tmp_path / "away")
    with pytest.raises(RunError, match=r"people\.json is gone: of 1 releases .* 1 are not there"):
        guard(wide, second).charge_round(2)
    assert not file.exists()
    shutil.move(tmp_path / "away", tmp_path / "mnt")
    play(wide, second, 2)
    assert len(LedgerFile(file).read(DELTA).entries) == 7


def test_a_ledger_that_was_put_back_is_not_charged(wide, tmp_path):
    """Also where another run has filled it up with as many entries."""
    file, store = tmp_path / "people.json", Kept(tmp_path / "one")
    play(wide, store, 1, 2, file=file)
    old = file.read_text()
    play(wide, store, 3, 4)
    file.write_text(old)
    play(wide, Kept(tmp_path / "two"), 1, 2, 3, file=file)
    before = file.read_text()
    with pytest.raises(RunError, match=r"put back to an older copy: of 4 releases .* 2 are not"):
        guard(wide, store).charge_round(5)
    assert file.read_text() == before


def test_a_ledger_that_goes_while_a_round_is_open_is_not_begun_anew(wide, tmp_path):
    file, store = tmp_path / "people.json", Kept(tmp_path / "one")
    one = guard(wide, store, file=file)
    one.charge_round(1)
    file.unlink()
    with pytest.raises(RunError, match="is gone"):
        one.give_out(1, model(wide))
    store.commit(1)
    with pytest.raises(RunError, match="is gone"):
        one.close(1)
    assert not file.exists()


def test_a_ledger_that_was_named_before_a_death_is_known_without_its_name(wide, tmp_path):
    """A run that named none at first: its file is noted before the first charge in it."""
    file, store = tmp_path / "people.json", Kept(tmp_path / "one")
    play(wide, store, 1)
    store.note, keep = dies_at(store, 3), store.note  # the secret, the file, and then the charge
    with pytest.raises(Killed):
        guard(wide, store, file=file).charge_round(2)
    store.note = keep
    assert places(LedgerFile(file).read(DELTA)) == [("", 1), ("", 2)]
    play(wide, store, 2)
    assert LedgerFile(file).read(DELTA).released(store.facts["privacy"]["run"], 2)


# -- two servers, and two lives of one folder --


class Killed(BaseException):
    """A kill that no code that cleans up expects."""


def dies_at(store, count):
    left, note = count, store.note

    def noted(**facts):
        nonlocal left
        left -= 1
        if not left:
            raise Killed
        note(**facts)

    return noted


def killed_after_commit(plan, store, round, file):
    """Play a round whose model is given out, by a server that dies before it is counted."""
    one = guard(plan, store, file=file)
    assert one.charge_round(round) is None
    one.give_out(round, model(plan))
    store.commit(round)


def test_the_second_of_two_servers_with_one_open_round_gives_nothing_out(wide, tmp_path):
    """Both were admitted before either had committed; other sums lead to other models."""
    file, store = tmp_path / "people.json", Kept(tmp_path / "one")
    one = guard(wide, store, file=file)
    assert one.charge_round(1) is None
    copy = Kept(tmp_path / "two")
    put_back(copy, copied(store))
    two = guard(wide, copy, file=file)
    assert two.charge_round(1) is None
    assert one.source() == two.source()
    assert one.give_out(1, model(wide)) is None
    store.commit(1)
    one.close(1)
    with pytest.raises(RunError, match=r"another model came of round 1 .* given out"):
        two.give_out(1, model(wide, 1))
    assert two.give_out(1, model(wide)) is None, "the very same model is no other release"
    assert len(LedgerFile(file).read(DELTA).entries) == 1


@pytest.mark.parametrize("second", ["is counted first", "is counted last"])
def test_two_models_of_one_open_round_are_two_charges(wide, tmp_path, second):
    """Nobody knows whether the first was given out: it is not counted yet."""
    file, store = tmp_path / "people.json", Kept(tmp_path / "one")
    one = guard(wide, store, file=file)
    one.charge_round(1)
    copy = Kept(tmp_path / "two")
    put_back(copy, copied(store))
    two = guard(wide, copy, file=file)
    two.charge_round(1)
    assert one.give_out(1, model(wide)) is None
    said = two.give_out(1, model(wide, 1))
    assert said is not None and "both are charged" in said
    for side, kept in [(two, copy), (one, store)][:: 1 if second.endswith("first") else -1]:
        kept.commit(1)
        side.close(1)
    found = LedgerFile(file).read(DELTA)
    (charge, other), total = found.charges, found.epsilon
    assert charge.origin == other.origin and charge.release == other.release
    assert total == spent([charge] * 2, DELTA).epsilon
    assert two.record()["privacy"]["epsilon"] == total
    assert all(entry.accepted == 1 for entry in found.entries)


def test_a_death_before_it_is_counted_and_a_copy_of_the_open_round_are_two_charges(wide, tmp_path):
    """The model is given out, the ledger has no count of it yet, the folder goes back."""
    file, store = tmp_path / "people.json", Kept(tmp_path)
    guard(wide, store, file=file).charge_round(1)
    old = copied(store)
    killed_after_commit(wide, store, 1, file)
    put_back(store, old)
    play(wide, store, 1, mark=1, file=file)
    assert "both are charged" in store.said
    assert len(LedgerFile(file).read(DELTA).entries) == 2
    play(wide, store, 2)
    assert len(LedgerFile(file).read(DELTA).entries) == 3


def test_a_death_before_the_commit_costs_nothing_where_the_same_model_comes_of_it(wide, tmp_path):
    file, store = tmp_path / "people.json", Kept(tmp_path)
    one = guard(wide, store, file=file)
    one.charge_round(1)
    one.give_out(1, model(wide))
    play(wide, store, 1, file=file)  # killed, and back, with the replies that it had
    assert store.said is None
    assert len(LedgerFile(file).read(DELTA).entries) == 1


def test_a_second_model_that_the_budget_has_no_room_for_is_not_given_out(wide, tmp_path):
    file, store = tmp_path / "people.json", Kept(tmp_path)
    play(wide, store, 1, file=file)
    tight = replace(wide, budget=Budget(spent(ledger(store).charges * 2, DELTA).epsilon, DELTA))
    guard(tight, store, file=file).charge_round(2)
    old = copied(store)
    killed_after_commit(tight, store, 2, file)
    put_back(store, old)
    again = guard(tight, store, file=file)
    assert again.charge_round(2) is None
    with pytest.raises(RunError, match="is not given out: the next release would bring epsilon"):
        again.give_out(2, model(tight, 1))
    assert len(LedgerFile(file).read(DELTA).entries) == 2


def test_two_copies_that_begin_a_round_at_one_instant_are_not_both_admitted(wide, tmp_path):
    """The ledger is read, the secret drawn, the charge granted: in between comes the other."""
    file, store, copy = tmp_path / "people.json", Kept(tmp_path / "one"), Kept(tmp_path / "two")
    one = play(wide, store, 1, file=file)
    put_back(copy, copied(store))
    admitted = []

    def entropy(n):  # of the copy: the other server is just a little faster
        admitted.append(one.charge_round(2))
        return b"9" * n

    two = guard(wide, copy, file=file, entropy=entropy)
    for _ in range(2):  # also when it is started again, with the secret that it keeps
        with pytest.raises(RunError, match=r"round 2 of run .* was begun with another secret"):
            two.charge_round(2)
        two = guard(wide, copy, file=file)
    assert admitted == [None]
    assert len(LedgerFile(file).read(DELTA).entries) == 2
    put_back(copy, copied(copy), to=1, lost=2)
    play(wide, copy, 2)
    assert places(LedgerFile(file).read(DELTA)) == [("", 1), ("", 2), ("2", 2)]


def test_a_run_writes_its_model_down_before_it_is_given_out(
    train, plan, people, tmp_path, monkeypatch
):
    """A real run: killed behind a commit, put back, and played again with other replies."""
    fields = {name: getattr(plan, name) for name in plan.__dataclass_fields__}
    file, told = tmp_path / "people.json", []
    options = {"ledger": file, "entropy": lambda n: b"s" * n, "engine": "loop", "workers": 1}
    charge, close = RunAccountant.charge_round, RunAccountant.close

    def charged(self, round, sampler=None):
        found = charge(self, round, sampler)
        if round == 3:
            shutil.copytree(tmp_path / "run", tmp_path / "copy")
        return found

    def closed(self, done):
        if done == 3:
            raise Killed
        close(self, done)

    monkeypatch.setattr(RunAccountant, "charge_round", charged)
    monkeypatch.setattr(RunAccountant, "close", closed)
    with pytest.raises(Killed):
        train(options=options, **fields)
    monkeypatch.undo()
    counts = [entry.accepted for entry in LedgerFile(file).read(DELTA).entries]
    assert [count is None for count in counts] == [False, False, True]
    shutil.rmtree(tmp_path / "run")
    (tmp_path / "copy").rename(tmp_path / "run")
    options |= {"tell": told.append, "path": tmp_path / "run", "resume": True}
    muster.simulate(plan, others(people), people.pooled(), **options)
    assert [event["event"] for event in told] == ["charged again"]
    found = LedgerFile(file).read(DELTA)
    assert [entry.round for entry in found.entries] == [1, 2, 3, 3, 4, 5]
    assert found == ledger_of(Run(tmp_path / "run")).witnessed({found.entries[3].place: 10})


def others(people):
    """Return people of the same names with other rows."""
    pairs = {client: people[client] for client in people.clients}
    return muster.Population.from_arrays({client: (x + 1, y) for client, (x, y) in pairs.items()})


# -- a copy that is older than a rollback --


@pytest.mark.parametrize("noise", [pipeline.Noise(1.0), pipeline.BandedNoise(8.0, bands=4)])
def test_a_copy_from_before_a_rollback_has_all_that_was_lost_charged(wide, tmp_path, noise):
    """Rounds 1-4; copied; back to 2; 3, 4 and 5; put back to the copy: three plays are lost."""
    wide, store = replace(wide, pipeline=(pipeline.Clip(0.5), noise)), Kept(tmp_path)
    play(wide, store, 1, 2, 3, 4)
    old = copied(store)
    store.facts["rollbacks"] = [{"to": 2}]
    del store.records[2:]
    play(wide, store, 3, 4, 5)
    true = ledger(store)
    assert len(true.entries) == 7
    put_back(store, old, to=4, lost=5, played=3)
    play(wide, store, 5)
    found = ledger(store)
    assert len(found.entries) == 8
    assert found.epsilon > true.epsilon
    assert len({entry.charge.part for entry in found.entries[4:]}) == 4, "each may be any round"


def test_what_was_lost_is_in_the_file_also_where_no_further_round_is_played(wide, tmp_path):
    file, store = tmp_path / "people.json", Kept(tmp_path)
    play(wide, store, 1, file=file)
    tight = replace(wide, budget=Budget(spent(ledger(store).charges * 3, DELTA).epsilon, DELTA))
    put_back(store, copied(store), to=1, lost=4)
    for _ in range(2):
        assert "past the budget" in guard(tight, store).charge_round(2)
    assert places(LedgerFile(file).read(DELTA)) == [("", 1), ("", 2), ("", 3), ("", 4)]
    assert LedgerFile(file).read(DELTA) == ledger(store)
