# SPDX-License-Identifier: Apache-2.0
"""The secrets of a secure sum: sealed on the disk, of one task, and gone when it is over."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("cryptography")

from tests.federation.coordinator.masked import Federation, plan_of
from tests.federation.coordinator.test_secagg import masked

from muster.errors import RunError
from muster.federation.protocol.message import TrainAssignment
from muster.federation.site.state import SealedSecrets
from muster.federation.site.store import SiteStore, TrainingResult
from muster.secagg.messages import Quit

TASK = TrainAssignment("run", 3, "0" * 64, 15.0, peers=5)
SECRET = b"this is 32 bytes of a private key"


@pytest.fixture
def site_store(tmp_path):
    found = SiteStore(tmp_path / "vault")
    found.enter("run", "ann")
    found.keep(TASK, TrainingResult({"w": np.ones(3)}, 1.0))
    yield found
    found.close()


def secrets(site_store):
    return sorted(path.name for path in site_store.folder.glob("secure-*"))


def test_what_is_kept_is_sealed_and_read_again(site_store):
    sealed = site_store.sealed(TASK)
    assert sealed.read() == {}
    sealed.keep("advertise", SECRET)
    sealed.keep("mask", bytes(1000))
    assert site_store.sealed(TASK).read() == {"advertise": SECRET, "mask": bytes(1000)}
    assert secrets(site_store) == [
        "secure-000003-advertise",
        "secure-000003-key",
        "secure-000003-mask",
    ]
    assert not any(
        SECRET in path.read_bytes() for path in site_store.folder.iterdir() if path.is_file()
    )
    assert {path.stat().st_mode & 0o777 for path in site_store.folder.glob("secure-*")} == {0o600}


@pytest.mark.parametrize("change", [{"run": "other"}, {"model": "1" * 64}, {"attempt": 2}])
def test_another_task_opens_nothing(site_store, change):
    site_store.sealed(TASK).keep("advertise", SECRET)
    with pytest.raises(RunError, match="of another task"):
        site_store.sealed(replace(TASK, **change)).read()


def test_a_damaged_secret_is_told(site_store):
    site_store.sealed(TASK).keep("advertise", SECRET)
    (site_store.folder / "secure-000003-advertise").write_bytes(bytes(60))
    with pytest.raises(RunError, match="damaged"):
        site_store.sealed(TASK).read()


@pytest.mark.parametrize("end", ["destroy", "settle", "forget"])
def test_secrets_end_with_the_session_the_round_or_the_update(site_store, end):
    site_store.sealed(TASK).keep("advertise", SECRET)
    {
        "destroy": site_store.destroy,
        "settle": lambda: site_store.settle(3, True),
        "forget": site_store.forget,
    }[end]()
    assert secrets(site_store) == []


def test_a_site_whose_secrets_are_damaged_leaves_and_has_no_second_session(tmp_path, monkeypatch):
    read = SealedSecrets.read

    def damaged(sealed):
        if sealed._folder.parent.name == "site-2":
            raise RunError("it is damaged")
        return read(sealed)

    monkeypatch.setattr(SealedSecrets, "read", damaged)
    federation = Federation(tmp_path, plan_of(rounds=1))
    (record,) = federation.play()
    assert record["accepted"] == ["site-0", "site-1", "site-3", "site-4"]
    assert [one["client"] for one in record["declined"]] == ["site-2"]
    assert {type(message) for name, message in masked(federation) if name == "site-2"} == {Quit}
    assert not list((tmp_path / "site-2" / "vault").glob("secure-*"))
