# SPDX-License-Identifier: Apache-2.0
"""The store is bounded, chained, and whole after a kill at any instant."""

import threading
from datetime import timedelta

import pytest

pytest.importorskip("cryptography")

from tests.security.transcript.scene import NOW, filled, identity, transcript

from muster.errors import AuditError, IdentityError
from muster.security import pki
from muster.security.transcript import TranscriptStore, examine
from muster.security.transcript import store as stores
from muster.security.transcript.store import numbered


@pytest.fixture
def ann(tmp_path):
    return identity(tmp_path)


def rounds(folder):
    found = examine(folder)
    assert found.faults == ()
    return [one.transcript.round for one in found.whole]


def test_transcripts_are_numbered_and_chained_in_the_order_they_came(ann, tmp_path):
    store = TranscriptStore(tmp_path / "study" / "secure", "heart", ann)
    anchors = [store.record(transcript(round)) for round in (7, 3, 4)]
    assert [anchor.sequence for anchor in anchors] == [1, 2, 3]
    found = examine(store.folder)
    assert [(one.number, one.transcript) for one in found.whole] == [
        (number, transcript(round)) for number, round in enumerate((7, 3, 4), 1)
    ]
    assert [one.file_digest for one in found.whole] == [anchor.head for anchor in anchors]
    assert found.head.last == anchors[2].head and found.faults == ()


def test_an_assignment_that_is_added_again_after_a_kill_stands_as_it_was_added(ann, tmp_path):
    store = filled(tmp_path / "s", ann, 3)
    again = store.record(transcript(3, outcome="given up", reason="what a later life knew of it"))
    found = examine(store.folder)
    assert (again.sequence, again.head) == (3, found.head.last) and found.faults == ()
    assert found.whole[-1].transcript == transcript(3)
    assert store.record(transcript(3, attempt=2)).sequence == 4, "another attempt is another one"


@pytest.mark.parametrize("harm", [lambda path: path.unlink(), lambda path: path.write_bytes(b"x")])
def test_the_next_one_is_added_where_the_newest_was_altered(ann, tmp_path, harm):
    store = filled(tmp_path / "s", ann, 2)
    harm(store.folder / "00000002.json")
    assert store.record(transcript(2)).sequence == 3
    (fault,) = examine(store.folder).faults
    assert fault.startswith("00000002.json")


def test_the_oldest_go_and_are_counted(ann, tmp_path):
    store = filled(tmp_path / "s", ann, 7, keep=3)
    assert rounds(store.folder) == [5, 6, 7]
    assert sorted(numbered(store.folder)) == [5, 6, 7]
    head = examine(store.folder).head
    assert (head.gone, head.kept, head.count) == (4, 3, 7)
    store = TranscriptStore(store.folder, "heart", ann, keep=2)  # a smaller bound, later
    store.record(transcript(8))
    assert rounds(store.folder) == [7, 8]


def test_room_is_bounded_in_bytes_and_the_newest_always_stays(ann, tmp_path):
    store = filled(tmp_path / "s", ann, 1)
    size = numbered(store.folder)[1].stat().st_size
    store = TranscriptStore(store.folder, "heart", ann, room=int(2.5 * size))
    for round in range(2, 6):
        store.record(transcript(round))
        total = sum(path.stat().st_size for path in numbered(store.folder).values())
        assert total <= 2.5 * size
    assert rounds(store.folder) == [4, 5]
    TranscriptStore(store.folder, "heart", ann, room=1).record(transcript(6))
    assert rounds(store.folder) == [6]


def test_a_kill_at_any_write_loses_nothing_that_was_acknowledged(ann, tmp_path, monkeypatch):
    real = stores.write
    for step in range(2):
        store = filled(tmp_path / f"s{step}", ann, 4, keep=3)
        steps = iter(range(9))

        def write(*words, steps=steps, step=step):
            if next(steps) == step:
                raise KeyboardInterrupt
            real(*words)

        monkeypatch.setattr(stores, "write", write)
        with pytest.raises(KeyboardInterrupt):
            store.record(transcript(5))
        monkeypatch.setattr(stores, "write", real)
        assert set(rounds(store.folder)) >= {2, 3, 4}
        again = TranscriptStore(store.folder, "heart", ann, keep=3)
        again.record(transcript(6))
        assert rounds(store.folder) == ([3, 4, 6] if step == 0 else [4, 5, 6])


def test_a_kill_before_the_oldest_are_removed_leaves_them_for_the_next_record(
    ann, tmp_path, monkeypatch
):
    store = filled(tmp_path / "s", ann, 3, keep=3)

    def unlink(path, **_more):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stores.Path, "unlink", unlink)
        # a write removes its own part file as well; what counts is the first old transcript
        patch.setattr(stores, "write", lambda path, data, mode: path.write_bytes(data))
        with pytest.raises(KeyboardInterrupt):
            store.record(transcript(4))
    assert sorted(numbered(store.folder)) == [1, 2, 3, 4] and rounds(store.folder) == [2, 3, 4]
    store.record(transcript(5))
    assert sorted(numbered(store.folder)) == [3, 4, 5] and rounds(store.folder) == [3, 4, 5]


def test_the_first_record_may_be_killed_too(ann, tmp_path, monkeypatch):
    store = TranscriptStore(tmp_path / "s", "heart", ann)
    real = stores.write

    def write(path, *words):
        if path.name == "head.json":
            raise KeyboardInterrupt
        real(path, *words)

    with monkeypatch.context() as patch:
        patch.setattr(stores, "write", write)
        with pytest.raises(KeyboardInterrupt):
            store.record(transcript(1))
    store.record(transcript(2))
    assert rounds(store.folder) == [1, 2]


def test_a_disk_that_is_full_is_named_and_nothing_is_lost(ann, tmp_path, monkeypatch):
    store = filled(tmp_path / "s", ann, 2)

    def full(path, *_words):
        raise IdentityError(f"{path}: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(stores, "write", full)
        with pytest.raises(AuditError, match=r"cannot be kept: .*No space left"):
            store.record(transcript(3))
    assert rounds(store.folder) == [1, 2]


def test_a_renewed_key_goes_on_with_the_chain(ann, tmp_path):
    store = filled(tmp_path / "s", ann, 2)
    asked, _ = pki.renew(tmp_path / "ann")
    grant = pki.Grant("https://hub:8443")
    done = pki.approve(tmp_path / "authority", asked, grant, NOW, renewal=True)
    pki.accept(done.bundle, tmp_path / "ann", NOW)
    renewed = pki.Notary(tmp_path / "ann")
    TranscriptStore(store.folder, "heart", renewed).record(transcript(3))
    assert rounds(store.folder) == [1, 2, 3]
    serials = [one.serial for one in examine(store.folder).whole]
    assert serials[0] == serials[1] == ann.me.serial != serials[2] == renewed.me.serial


def test_a_clock_that_jumps_stops_no_record(ann, tmp_path):
    clock = [NOW]
    store = TranscriptStore(tmp_path / "s", "heart", ann, lambda: clock[0])
    for number, days in enumerate((0, 900, -900, 0), 1):
        clock[0] = NOW + timedelta(days=days)
        store.record(transcript(number))
    assert len(numbered(store.folder)) == 4


def test_a_folder_of_something_else_is_not_written_into(ann, tmp_path):
    store = filled(tmp_path / "s", ann, 2)
    bob, strange = identity(tmp_path, "bob"), identity(tmp_path / "other")
    before = {path.name: path.read_bytes() for path in store.folder.iterdir()}
    with pytest.raises(AuditError, match="is that of 'heart'; record it there"):
        store.record(transcript(study="lung"))
    for signer, study in ((bob, "heart"), (strange, "heart"), (ann, "lung")):
        other = TranscriptStore(store.folder, study, signer)
        with pytest.raises(AuditError, match=r"is of the study 'heart' at 'ann'.*move the folder"):
            other.record(transcript(study=study))
    assert {path.name: path.read_bytes() for path in store.folder.iterdir()} == before


@pytest.mark.parametrize("harm", ["head cut", "head gone", "foreign tail", "tail of before"])
def test_a_folder_that_was_altered_at_its_end_is_not_written_into(ann, tmp_path, harm):
    store = filled(tmp_path / "s", ann, 3)
    head = store.folder / "head.json"
    if harm == "head cut":
        head.write_bytes(head.read_bytes()[:100])
    elif harm == "head gone":
        head.unlink()
    else:
        tail = store.folder / "00000004.json"
        if harm == "foreign tail":
            tail.write_bytes(b"{}")
        else:
            tail.write_bytes((store.folder / "00000003.json").read_bytes())
    with pytest.raises(AuditError, match="move the folder away, and keep it for the audit"):
        store.record(transcript(4))


def test_bounds_that_are_none_are_refused(ann, tmp_path):
    for more in ({"keep": 0}, {"room": 0}):
        with pytest.raises(AuditError, match="keep at least one"):
            TranscriptStore(tmp_path, "heart", ann, **more)


def test_threads_and_processes_may_record_at_once(ann, tmp_path):
    faults = []

    def act(place):
        try:
            store = TranscriptStore(tmp_path / "s", "heart", ann)  # as a process has its own
            for turn in range(5):
                store.record(transcript(1 + 5 * place + turn))
        except BaseException as error:
            faults.append(error)

    crowd = [threading.Thread(target=act, args=(place,)) for place in range(4)]
    for one in crowd:
        one.start()
    for one in crowd:
        one.join()
    assert faults == [] and sorted(rounds(tmp_path / "s")) == list(range(1, 21))
