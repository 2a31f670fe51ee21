# SPDX-License-Identifier: Apache-2.0
"""The facts of a vault are replaced as a whole, and read strictly."""

import errno
import json
import os

import pytest

from muster.errors import RunError
from muster.federation.protocol.message import TrainAssignment, UpdateHeader
from muster.federation.site.state import PartialTraining, PendingUpdate, SiteState
from muster.ports import Disk
from muster.store.blobs import NoRoom

TASK = TrainAssignment("r", 3, "0" * 64, 30.0, 2)
UPDATE = UpdateHeader("r", 3, "1" * 64, 99, 4.0, {"loss": 0.5})
DISK = Disk(sync=int)


def test_what_is_written_is_read(tmp_path):
    state = SiteState(tmp_path, DISK)
    pending, step = (
        PendingUpdate(TASK, UPDATE, "update", None),
        PartialTraining(TASK, 7, "step", "float32"),
    )
    state.write(pending=pending, step=step, run="r", client=4)
    state.close()
    again = SiteState(tmp_path, DISK)
    assert (again.pending, again.step) == (pending, step)
    assert again["client"] == 4 and again.named == {"update", "step"}
    again.close()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 2}', "7"])
def test_a_damaged_file_is_said(text, tmp_path):
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(RunError, match="empty folder"):
        SiteState(tmp_path, DISK)


def test_a_newer_file_is_said_with_both_versions(tmp_path):
    state = SiteState(tmp_path, DISK)
    state.write(run="r")
    state.close()
    path = tmp_path / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 3}))
    with pytest.raises(RunError, match="version 3, but this muster knows 2"):
        SiteState(tmp_path, DISK)


def test_an_older_file_is_refused_and_what_was_spent_is_not_forgotten(tmp_path):
    (tmp_path / "state.json").write_text('{"version": 1, "spent": 0}')
    with pytest.raises(RunError, match=r"version 1, but this muster knows 2; .* an empty folder$"):
        SiteState(tmp_path, DISK)
    (tmp_path / "privacy.json").write_text("{}")
    with pytest.raises(RunError, match=r"move what was spent, .*privacy.json, into the study's"):
        SiteState(tmp_path, DISK)


@pytest.mark.parametrize("place", ["write", "replace"])
def test_a_fault_leaves_the_old(place, tmp_path):
    state = SiteState(tmp_path, DISK)
    state.write(run="old")
    state.close()

    def fault(*given):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    state = SiteState(tmp_path, Disk(sync=int, **{place: fault}))
    with pytest.raises(NoRoom):
        state.write(run="new")
    assert state["run"] == "old"
    state.close()
    again = SiteState(tmp_path, DISK)
    assert again["run"] == "old" and sorted(os.listdir(tmp_path)) == ["lock", "state.json"]
    again.close()
