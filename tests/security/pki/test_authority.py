# SPDX-License-Identifier: Apache-2.0
"""An authority never signs two lists of one number, whatever befalls its folder."""

import json
import shutil
from datetime import UTC, datetime, timedelta

import pytest

pytest.importorskip("cryptography")

from muster.errors import IdentityError
from muster.security import pki
from muster.security.pki import authority as authorities
from muster.security.pki import highwater
from muster.security.pki.highwater import seen
from muster.security.pki.revocation import read_list

NOW = datetime.now(UTC)
SERVER = "https://hub:8443"


@pytest.fixture
def hq(tmp_path):
    """An authority with four sites."""
    folder = tmp_path / "hq"
    pki.init(folder, "Heart study", NOW)
    for name in ("ann", "bob", "eve", "zoe"):
        join(folder, name)
    return folder


def join(hq, name):
    asked, _ = pki.ask(hq.parent / name, name)
    bundle = pki.approve(hq, asked, pki.Grant(SERVER), NOW).bundle
    return pki.accept(bundle, hq.parent / name, NOW)


def listed(hq):
    return read_list((hq / "revoked.pem").read_bytes(), (hq / "authority.pem").read_bytes())


def test_only_a_revocation_makes_a_new_list_so_a_new_member_needs_none_carried(hq):
    assert listed(hq).number == 0
    pki.revoke(hq, "eve", "left", NOW)
    before = listed(hq)
    join(hq, "mia")
    assert before.number == 1 and listed(hq) == before
    assert (hq.parent / "mia/revoked.pem").read_bytes() == before.pem


def test_numbers_rise_by_one_with_each_revocation_that_changes_something(hq):
    asked, _ = pki.renew(hq.parent / "eve")
    pki.approve(hq, asked, pki.Grant(SERVER), NOW, renewal=True)
    for who, number, count in (("eve", 1, 2), ("eve", 1, 2), ("bob", 2, 3)):
        pki.revoke(hq, who, "left", NOW)
        assert (listed(hq).number, len(listed(hq).serials)) == (number, count)
    assert [entry.number for entry in pki.entries(hq)] == [0, 2, 1, 0, 1]


@pytest.mark.parametrize(("module", "step"), [(authorities, 0), (highwater, 0), (highwater, 1)])
def test_a_revocation_that_was_killed_is_finished_with_the_same_list(hq, monkeypatch, module, step):
    real, steps = module.write, iter(range(3))

    def write(*words):
        if next(steps) == step:
            raise KeyboardInterrupt
        real(*words)

    monkeypatch.setattr(module, "write", write)
    with pytest.raises(KeyboardInterrupt):
        pki.revoke(hq, "bob", "left", NOW)
    monkeypatch.setattr(module, "write", real)
    kept = [entry.when for entry in pki.entries(hq) if entry.state == "revoked"]
    pki.revoke(hq, "bob", "left", NOW + timedelta(hours=1))
    assert listed(hq).number == 1 and listed(hq).mark == seen(hq)
    after = [entry.when for entry in pki.entries(hq) if entry.state == "revoked"]
    assert after == kept or not kept  # said once, it is not said again
    assert len(pki.revoked(hq)) == 1


@pytest.mark.parametrize("harm", ["older", "cut", "gone"])
def test_a_list_that_was_destroyed_at_the_authority_follows_from_its_ledger(hq, harm):
    first = (hq / "revoked.pem").read_bytes()
    pki.revoke(hq, "eve", "left", NOW)
    before = listed(hq)
    if harm == "gone":
        (hq / "revoked.pem").unlink()
    else:
        (hq / "revoked.pem").write_bytes(first if harm == "older" else first[:99])
    with pytest.raises(IdentityError, match="number 1"):
        pki.revoked(hq)
    pki.revoke(hq, "eve", "left", NOW + timedelta(hours=1))
    assert listed(hq).mark == before.mark
    pki.revoke(hq, "bob", "left", NOW)
    assert listed(hq).number == 2


def test_a_ledger_put_back_alone_signs_nothing_that_its_list_contradicts(hq):
    pki.revoke(hq, "eve", "left", NOW)
    copy = (hq / "ledger.jsonl").read_bytes()
    pki.revoke(hq, "bob", "left", NOW)
    before, ledger = listed(hq), (hq / "ledger.jsonl").read_bytes()
    (hq / "ledger.jsonl").write_bytes(copy)
    (hq / "revoked.pem").write_bytes(b"")  # else it gives the ledger back what it lost
    with pytest.raises(IdentityError, match=r"ledger.jsonl is the .* number 1, and number 2"):
        join(hq, "mia")
    assert (hq / "ledger.jsonl").read_bytes() == copy
    (hq / "ledger.jsonl").write_bytes(ledger)
    pki.revoke(hq, "bob", "left", NOW)
    assert listed(hq).mark == before.mark


def test_an_authority_restored_from_a_backup_goes_on_from_the_newest_list_of_any_member(hq):
    backup = hq.parent / "backup"
    shutil.copytree(hq, backup)
    join(hq, "mia")
    for name in ("eve", "mia"):
        pki.revoke(hq, name, "compromised", NOW + timedelta(hours=1))
    newest = listed(hq)
    shutil.rmtree(hq)
    backup.rename(hq)
    (hq / "revoked.pem").write_bytes(newest.pem)  # the server has it
    pki.revoke(hq, "bob", "left", NOW)
    assert listed(hq).number == 3 and listed(hq).serials > newest.serials
    states = {entry.name: (entry.state, entry.reason) for entry in pki.entries(hq)}
    assert states["eve"] == states["lost"] == ("revoked", "compromised")  # mia is not in the backup
    assert states["ann"] == ("valid", None)


def test_a_ledger_of_an_earlier_muster_goes_on_with_its_numbers_and_names_stand_in(hq):
    path = hq / "ledger.jsonl"
    pki.revoke(hq, "eve", "left", NOW)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        for field in ("format", "organisation", "number"):
            del line[field]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name in ("revoked.pem", "revoked.seen"):
        (hq / name).unlink()
    assert [entry.organisation for entry in pki.entries(hq)] == ["ann", "bob", "eve", "zoe"]
    pki.revoke(hq, "bob", "left", NOW)
    assert listed(hq).number == 6  # five lines had five lists
    assert len(listed(hq).serials) == 2


def test_a_ledger_of_a_later_muster_is_refused(hq):
    path = hq / "ledger.jsonl"
    path.write_text(path.read_text().replace('"format": 2', '"format": 3', 1))
    with pytest.raises(IdentityError, match=r"ledger.jsonl is damaged"):
        pki.entries(hq)
