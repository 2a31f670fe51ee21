# SPDX-License-Identifier: Apache-2.0
"""A vault loses nothing: an update and both versions of the memory, until their fate is heard."""

import errno
import os

import numpy as np
import pytest
from tests.federation.site.scene import Killed, spoil

from muster.errors import RunError
from muster.federation.protocol.message import TrainAssignment
from muster.federation.site.store import SiteStore, TrainingResult
from muster.ports import Disk
from muster.security.refusal import Refused
from muster.store.blobs import NoRoom

TASK = TrainAssignment("r1", 3, "0" * 64, 30.0)
TEMPLATE = (np.zeros(3),)
KEEP = ["site: before update kept", "site: in update kept", "site: after update kept"]
SETTLE = ["site: in settle", "site: after settle"]


def made(seed=1.0):
    return TrainingResult(
        {"payload": {"delta": np.full(4, seed)}}, 2.0, {"loss": 1.0}, (np.full(3, seed),)
    )


def opened(folder, **options):
    site_store = SiteStore(folder, disk=options.pop("disk", Disk(sync=int)), **options)
    site_store.enter("r1", "a")
    return site_store


def memory(site_store, **which):
    found = site_store.memory(TEMPLATE, **which)
    return None if found is None else found[0].tolist()


def test_the_accepted_memory_counts_and_the_refused_does_not(tmp_path):
    site_store = opened(tmp_path)
    assert memory(site_store) is None
    site_store.keep(TASK, made(1.0))
    assert memory(site_store) is None and memory(site_store, left=True) == [1.0] * 3
    assert site_store.settle(3, accepted=True) and memory(site_store) == [1.0] * 3
    site_store.keep(TrainAssignment("r1", 4, "0" * 64, 30.0), made(2.0))
    assert site_store.settle(4, accepted=False) and memory(site_store) == [1.0] * 3
    assert not site_store.settle(4, accepted=True) and not site_store.settle(3, accepted=False)
    assert memory(site_store) == [1.0] * 3 and site_store.settled == 4
    assert site_store.fate == (4, 1, False)
    site_store.close()
    again = opened(tmp_path)
    assert memory(again) == [1.0] * 3 and again.pending is None
    again.close()


@pytest.mark.parametrize("label", KEEP + SETTLE)
def test_a_kill_leaves_the_state_before_or_the_one_after(label, tmp_path):
    def trap(passed):
        if passed == label:
            raise Killed

    site_store = opened(tmp_path)
    site_store.keep(TrainAssignment("r1", 2, "0" * 64, 30.0), made(1.0))
    site_store.settle(2, accepted=True)
    site_store.at = trap
    with pytest.raises(Killed):
        site_store.keep(TASK, made(2.0))
        site_store.settle(3, accepted=True)
    site_store.close()
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
    site_store = opened(tmp_path)
    site_store.keep(TrainAssignment("r1", 2, "0" * 64, 30.0), made(1.0))
    site_store.settle(2, accepted=True)
    site_store.close()
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
    site_store = SiteStore(tmp_path, disk=Disk(sync=sync))
    with pytest.raises(RunError, match="repair the disk"):
        site_store.keep(TASK, made())
    assert site_store.pending is None
    site_store.close()


def test_everything_is_the_owners_alone(tmp_path):
    site_store = opened(tmp_path / "vault")
    site_store.keep(TASK, made())
    assert (tmp_path / "vault").stat().st_mode & 0o777 == 0o700
    for path in (tmp_path / "vault").iterdir():
        assert path.stat().st_mode & 0o777 == 0o600, path.name
    site_store.close()


def test_a_second_process_is_kept_out(tmp_path):
    site_store = opened(tmp_path)
    with pytest.raises(RunError, match="another process"):
        SiteStore(tmp_path)
    site_store.close()
    site_store.close()
    opened(tmp_path).close()


def test_a_damaged_memory_is_said(tmp_path):
    site_store = opened(tmp_path)
    site_store.keep(TASK, made())
    site_store.settle(3, accepted=True)
    (path,) = tmp_path.glob("memory-*")
    spoil(path)
    with pytest.raises(RunError, match="damaged"):
        memory(site_store)
    site_store.close()


def test_what_cannot_travel_is_refused_and_leaves_nothing(tmp_path):
    site_store = opened(tmp_path)
    with pytest.raises(Refused):
        site_store.keep(TASK, TrainingResult({"delta": np.ones(2)}, 1.0, {"loss": float("nan")}))
    assert site_store.pending is None
    site_store.close()


def test_another_client_is_refused_once_something_is_kept(tmp_path):
    site_store = opened(tmp_path)
    site_store.enter("r2", "a")
    site_store.enter("r1", "a")
    site_store.keep(TASK, made())
    with pytest.raises(RunError, match="'b' of the run r1"):
        site_store.enter("r1", "b")
    site_store.close()


def marked(name="default", record="r1", position=5):
    """The mark of a study's record, as it stands."""
    return lambda: (name, record, position)


def test_a_vault_goes_with_the_record_of_its_study_and_with_no_older_one(tmp_path):
    site_store = opened(tmp_path)
    site_store.bind(marked())
    site_store.keep(TASK, made())
    site_store.bind(marked(position=9))
    for other, said in (
        (marked(position=4), "put back to an older copy: it was written 4 times, and .* seen 5"),
        (marked(record="r2"), "another record of the study 'default', which is gone"),
        (marked("hearts", "r3"), "keeps what belongs to the study 'default'"),
    ):
        with pytest.raises(RunError, match=said):
            site_store.bind(other)
    site_store.settle(3, accepted=False)
    with pytest.raises(RunError, match="another record"):
        site_store.bind(marked(record="r2"))
    with pytest.raises(RunError, match="put back"):
        site_store.bind(marked(position=8))
    site_store.bind(marked("hearts", "r3", 0))
    site_store.close()


def test_the_secrets_of_a_run_do_not_outlive_it_in_a_vault(tmp_path):
    site_store = opened(tmp_path)
    site_store.blobs.append("noise-1-1-key", 0, bytes(32))
    site_store.blobs.finish("noise-1-1-key")
    site_store.enter("r1", "a")
    assert site_store.blobs.names("noise-")
    site_store.enter("r2", "a")
    assert not site_store.blobs.names("noise-")
    site_store.close()
