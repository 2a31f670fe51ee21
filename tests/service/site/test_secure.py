# SPDX-License-Identifier: Apache-2.0
"""The secrets of a secure sum: sealed on the disk, of one task, and gone when it is over."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("cryptography")

from tests.service.round.masked import Federation, plan_of
from tests.service.round.test_secure import masked

from muster.errors import RunError
from muster.secagg.messages import Quit
from muster.service.message import Task
from muster.service.site.state import Chest
from muster.service.site.vault import Made, Vault

TASK = Task("run", 3, "0" * 64, 15.0, peers=5)
SECRET = b"this is 32 bytes of a private key"


@pytest.fixture
def vault(tmp_path):
    found = Vault(tmp_path / "vault")
    found.enter("run", "ann")
    found.keep(TASK, Made({"w": np.ones(3)}, 1.0))
    yield found
    found.close()


def secrets(vault):
    return sorted(path.name for path in vault.folder.glob("secure-*"))


def test_what_is_kept_is_sealed_and_read_again(vault):
    chest = vault.chest(TASK)
    assert chest.read() == {}
    chest.keep("advertise", SECRET)
    chest.keep("mask", bytes(1000))
    assert vault.chest(TASK).read() == {"advertise": SECRET, "mask": bytes(1000)}
    assert secrets(vault) == ["secure-000003-advertise", "secure-000003-key", "secure-000003-mask"]
    assert not any(SECRET in path.read_bytes() for path in vault.folder.iterdir() if path.is_file())
    assert {path.stat().st_mode & 0o777 for path in vault.folder.glob("secure-*")} == {0o600}


@pytest.mark.parametrize("change", [{"run": "other"}, {"model": "1" * 64}, {"attempt": 2}])
def test_another_task_opens_nothing(vault, change):
    vault.chest(TASK).keep("advertise", SECRET)
    with pytest.raises(RunError, match="of another task"):
        vault.chest(replace(TASK, **change)).read()


def test_a_damaged_secret_is_told(vault):
    vault.chest(TASK).keep("advertise", SECRET)
    (vault.folder / "secure-000003-advertise").write_bytes(bytes(60))
    with pytest.raises(RunError, match="damaged"):
        vault.chest(TASK).read()


@pytest.mark.parametrize("end", ["destroy", "settle", "forget"])
def test_secrets_end_with_the_session_the_round_or_the_update(vault, end):
    vault.chest(TASK).keep("advertise", SECRET)
    {"destroy": vault.destroy, "settle": lambda: vault.settle(3, True),
     "forget": vault.forget}[end]()  # fmt: skip
    assert secrets(vault) == []


def test_a_site_whose_secrets_are_damaged_leaves_and_has_no_second_session(tmp_path, monkeypatch):
    read = Chest.read

    def damaged(chest):
        if chest._folder.parent.name == "site-2":
            raise RunError("it is damaged")
        return read(chest)

    monkeypatch.setattr(Chest, "read", damaged)
    federation = Federation(tmp_path, plan_of(rounds=1))
    (record,) = federation.play()
    assert record["accepted"] == ["site-0", "site-1", "site-3", "site-4"]
    assert [one["client"] for one in record["declined"]] == ["site-2"]
    assert {type(message) for name, message in masked(federation) if name == "site-2"} == {Quit}
    assert not list((tmp_path / "site-2" / "vault").glob("secure-*"))
