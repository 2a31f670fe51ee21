# SPDX-License-Identifier: Apache-2.0
"""A vault loses nothing: an update and both versions of the memory, until their fate is heard."""

import errno
import os

import numpy as np
import pytest
from tests.service.site.scene import Killed, spoil

from muster.errors import RunError
from muster.service.message import Task
from muster.service.refusal import Refused
from muster.service.site.vault import Made, Vault
from muster.store.blobs import Disk, NoRoom

TASK = Task("r1", 3, "0" * 64, 30.0)
TEMPLATE = (np.zeros(3),)
KEEP = ["site: before update kept", "site: in update kept", "site: after update kept"]
SETTLE = ["site: in settle", "site: after settle"]


def made(seed=1.0):
    return Made({"payload": {"delta": np.full(4, seed)}}, 2.0, {"loss": 1.0}, (np.full(3, seed),))


def opened(folder, **options):
    vault = Vault(folder, disk=options.pop("disk", Disk(sync=int)), **options)
    vault.enter("r1", "a")
    return vault


def memory(vault, **which):
    found = vault.memory(TEMPLATE, **which)
    return None if found is None else found[0].tolist()


def test_the_accepted_memory_counts_and_the_refused_does_not(tmp_path):
    vault = opened(tmp_path)
    assert memory(vault) is None
    vault.keep(TASK, made(1.0))
    assert memory(vault) is None and memory(vault, left=True) == [1.0] * 3
    assert vault.settle(3, accepted=True) and memory(vault) == [1.0] * 3
    vault.keep(Task("r1", 4, "0" * 64, 30.0), made(2.0))
    assert vault.settle(4, accepted=False) and memory(vault) == [1.0] * 3
    assert not vault.settle(4, accepted=True) and not vault.settle(3, accepted=False)
    assert memory(vault) == [1.0] * 3 and vault.settled == 4
    assert vault.fate == (4, 1, False)
    vault.close()
    again = opened(tmp_path)
    assert memory(again) == [1.0] * 3 and again.pending is None
    again.close()


@pytest.mark.parametrize("label", KEEP + SETTLE)
def test_a_kill_leaves_the_state_before_or_the_one_after(label, tmp_path):
    def trap(passed):
        if passed == label:
            raise Killed

    vault = opened(tmp_path)
    vault.keep(Task("r1", 2, "0" * 64, 30.0), made(1.0))
    vault.settle(2, accepted=True)
    vault.at = trap
    with pytest.raises(Killed):
        vault.keep(TASK, made(2.0))
        vault.settle(3, accepted=True)
    vault.close()
    again = opened(tmp_path)
    kept, settled = label not in KEEP[:2], label == SETTLE[1]
    assert (again.pending is not None) == (kept and not settled)
    assert memory(again) == [2.0 if settled else 1.0] * 3
    if not settled:
        again.keep(TASK, made(2.0))
        again.settle(3, accepted=True)
        assert memory(again) == [2.0] * 3
    left = {p.name.split("-")[0] for p in tmp_path.iterdir()}
    assert left == {"lock", "memory", "state.json"}
    again.close()


@pytest.mark.parametrize("number", range(8))
def test_a_full_disk_loses_nothing(number, tmp_path):
    vault = opened(tmp_path)
    vault.keep(Task("r1", 2, "0" * 64, 30.0), made(1.0))
    vault.settle(2, accepted=True)
    vault.close()
    left = number

    def write(file, data, at):
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return os.pwrite(file, data, at)

    full = opened(tmp_path, disk=Disk(write=write, sync=int))
    try:
        full.keep(TASK, made(2.0))
    except NoRoom as error:
        assert "make room" in str(error)
        assert full.pending is None and memory(full) == [1.0] * 3
    else:
        assert number >= 5
    left = 99
    full.keep(TASK, made(2.0))
    assert full.sound(full.pending) and memory(full, left=True) == [2.0] * 3
    full.close()


def test_a_failed_sync_is_said_and_loses_nothing(tmp_path):
    def sync(file):
        raise OSError(errno.EIO, "Input/output error")

    opened(tmp_path).close()
    vault = Vault(tmp_path, disk=Disk(sync=sync))
    with pytest.raises(RunError, match="repair the disk"):
        vault.keep(TASK, made())
    assert vault.pending is None
    vault.close()


def test_everything_is_the_owners_alone(tmp_path):
    vault = opened(tmp_path / "vault")
    vault.keep(TASK, made())
    assert (tmp_path / "vault").stat().st_mode & 0o777 == 0o700
    for path in (tmp_path / "vault").iterdir():
        assert path.stat().st_mode & 0o777 == 0o600, path.name
    vault.close()


def test_a_second_process_is_kept_out(tmp_path):
    vault = opened(tmp_path)
    with pytest.raises(RunError, match="another process"):
        Vault(tmp_path)
    vault.close()
    vault.close()
    opened(tmp_path).close()


def test_a_damaged_memory_is_said(tmp_path):
    vault = opened(tmp_path)
    vault.keep(TASK, made())
    vault.settle(3, accepted=True)
    (path,) = tmp_path.glob("memory-*")
    spoil(path)
    with pytest.raises(RunError, match="damaged"):
        memory(vault)
    vault.close()


def test_what_cannot_travel_is_refused_and_leaves_nothing(tmp_path):
    vault = opened(tmp_path)
    with pytest.raises(Refused):
        vault.keep(TASK, Made({"delta": np.ones(2)}, 1.0, {"loss": float("nan")}))
    assert vault.pending is None
    vault.close()


def test_another_client_is_refused_once_something_is_kept(tmp_path):
    vault = opened(tmp_path)
    vault.enter("r2", "a")
    vault.enter("r1", "a")
    vault.keep(TASK, made())
    with pytest.raises(RunError, match="'b' of the run r1"):
        vault.enter("r1", "b")
    vault.close()


def marked(name="default", record="r1", position=5):
    """The mark of a study's record, as it stands."""
    return lambda: (name, record, position)


def test_a_vault_goes_with_the_record_of_its_study_and_with_no_older_one(tmp_path):
    vault = opened(tmp_path)
    vault.bind(marked())
    vault.keep(TASK, made())
    vault.bind(marked(position=9))
    for other, said in (
        (marked(position=4), "put back to an older copy: it was written 4 times, and .* seen 5"),
        (marked(record="r2"), "another record of the study 'default', which is gone"),
        (marked("hearts", "r3"), "keeps what belongs to the study 'default'"),
    ):
        with pytest.raises(RunError, match=said):
            vault.bind(other)
    vault.settle(3, accepted=False)
    with pytest.raises(RunError, match="another record"):
        vault.bind(marked(record="r2"))
    with pytest.raises(RunError, match="put back"):
        vault.bind(marked(position=8))
    vault.bind(marked("hearts", "r3", 0))
    vault.close()


def test_the_secrets_of_a_run_do_not_outlive_it_in_a_vault(tmp_path):
    vault = opened(tmp_path)
    vault.blobs.append("noise-1-1-key", 0, bytes(32))
    vault.blobs.finish("noise-1-1-key")
    vault.enter("r1", "a")
    assert vault.blobs.names("noise-")
    vault.enter("r2", "a")
    assert not vault.blobs.names("noise-")
    vault.close()
