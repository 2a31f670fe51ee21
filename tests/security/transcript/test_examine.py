# SPDX-License-Identifier: Apache-2.0
"""An auditor finds whatever was altered, reordered, cut or left out, by the name of its file."""

import shutil
from dataclasses import replace

import pytest

pytest.importorskip("cryptography")

from tests.security.transcript.scene import CROWD, NOW, filled, identity, transcript

from muster.errors import AuditError
from muster.security import pki
from muster.security.chain import Anchor
from muster.security.transcript import TranscriptStore, examine
from muster.security.transcript.examine import KeyChange, stores
from muster.security.transcript.store import HEAD, named

# A changed byte may make a serial negative, at which cryptography warns before it is refused.
pytestmark = pytest.mark.filterwarnings("ignore:Parsed a serial number which wasn't positive")


@pytest.fixture
def ann(tmp_path):
    return identity(tmp_path)


@pytest.fixture
def folder(ann, tmp_path):
    """Five transcripts."""
    return filled(tmp_path / "study" / "secure", ann).folder


def faults(folder, **more):
    return list(examine(folder, **more).faults)


def test_what_is_whole_is_found_whole(folder, ann):
    found = examine(folder, pki.fingerprint(ann.authority)[:20])
    assert found.faults == () and [one.number for one in found.whole] == [1, 2, 3, 4, 5]
    assert found.authority == pki.fingerprint(ann.authority)


def test_a_change_of_any_byte_of_any_file_is_found_in_that_file(folder):
    for path in sorted(folder.glob("*.json")):
        whole = path.read_bytes()
        for place in range(0, len(whole), 23):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            found = faults(folder)
            assert found and all(fault.startswith(path.name) for fault in found), (path, place)
        path.write_bytes(whole)
    assert faults(folder) == []


@pytest.mark.parametrize("number", range(1, 6))
def test_a_transcript_that_is_left_out_is_missed(folder, number):
    (folder / named(number)).unlink()
    assert faults(folder) == [f"{named(number)} is missing"]


@pytest.mark.parametrize("gone", [(1, 2), (4, 5), (2, 3, 4), (1, 2, 3, 4, 5)])
def test_a_cut_at_either_end_or_in_the_middle_is_missed(folder, gone):
    for number in gone:
        (folder / named(number)).unlink()
    assert faults(folder) == [f"{named(gone[0])} to {named(gone[-1])} are missing"]


@pytest.mark.parametrize(("one", "other"), [(1, 2), (2, 4), (1, 5)])
def test_two_that_were_exchanged_are_found(folder, one, other):
    first, second = (folder / named(number) for number in (one, other))
    kept = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(kept)
    found = faults(folder)
    assert f"{named(one)}: it holds the transcript number {other}: they were exchanged" in found
    assert f"{named(other)}: it holds the transcript number {one}: they were exchanged" in found


def test_those_behind_a_gap_that_were_moved_up_are_found(folder):
    """Left out, and renumbered by name: the numbers within are signed."""
    for number in range(2, 5):
        (folder / named(number + 1)).replace(folder / named(number))
    found = faults(folder)
    assert f"{named(5)} is missing" in found and len(found) == 4


def test_one_that_its_own_site_signed_in_place_of_another_does_not_follow(folder, ann, tmp_path):
    """The key is there, and so is a story that is nicer; what came after it knows better."""
    nicer = TranscriptStore(tmp_path / "nicer", "heart", ann)
    for round in (1, 2, 30):
        nicer.record(transcript(round))
    shutil.copy(nicer.folder / named(3), folder / named(3))
    found = faults(folder)
    assert any(fault.startswith(f"{named(3)}: it does not follow") for fault in found)
    assert any(fault.startswith(f"{named(4)}: it does not follow") for fault in found)


def test_the_last_one_replaced_is_not_the_one_that_the_head_names(folder, ann, tmp_path):
    shutil.copytree(folder, tmp_path / "twin")
    twin = tmp_path / "twin"
    (twin / named(5)).unlink()
    shutil.copy(twin / HEAD, tmp_path / "kept")
    short = filled(tmp_path / "short", ann, 4)  # the same story but for its end and its signatures
    for number in range(1, 5):
        shutil.copy(short.folder / named(number), twin / named(number))
    short.record(transcript(6))
    shutil.copy(short.folder / named(5), twin / named(5))
    assert faults(twin) == [f"{named(5)} is not the one that {HEAD} names; it was replaced"]


def test_a_head_that_was_put_back_does_not_count_those_after_it(folder, ann):
    kept = (folder / HEAD).read_bytes()
    store = TranscriptStore(folder, "heart", ann)
    store.record(transcript(6))
    (folder / HEAD).write_bytes(kept)
    assert faults(folder) == []  # as a kill leaves it: one more, which follows
    (folder / HEAD).write_bytes(kept)
    store.record(transcript(7))
    (folder / HEAD).write_bytes(kept)
    assert faults(folder) == [f"{named(7)} is not counted by {HEAD}, which was put back"]


def test_a_folder_put_back_as_a_whole_is_found_by_whoever_noted_a_head(folder, ann, tmp_path):
    store = TranscriptStore(folder, "heart", ann)
    shutil.copytree(folder, tmp_path / "copy")
    noted = store.record(transcript(6))
    assert faults(folder, expect=noted) == []
    shutil.rmtree(folder)
    (tmp_path / "copy").rename(folder)
    assert faults(folder) == []
    found = faults(folder, expect=noted)
    assert found == [
        "the transcript number 6 was noted, and the last one here has number 5: the end was cut"
    ]
    store.record(transcript(66))  # and another one in its place
    (fault,) = faults(folder, expect=noted)
    assert fault.startswith(f"{named(6)} is not the one whose digest {noted.head[:16]}… was noted")


def test_a_head_that_was_noted_and_is_gone_by_now_is_no_proof(ann, tmp_path):
    store = TranscriptStore(tmp_path / "s", "heart", ann, keep=2)
    noted = store.record(transcript(1))
    for round in range(2, 5):
        store.record(transcript(round))
    assert faults(store.folder) == []
    (fault,) = faults(store.folder, expect=noted)
    assert fault.endswith("is not here to compare with: note a newer one")


@pytest.mark.parametrize("harm", ["gone", "cut", "another's"])
def test_without_its_head_the_rest_is_looked_at_all_the_same(folder, ann, tmp_path, harm):
    head = folder / HEAD
    if harm == "gone":
        head.unlink()
    elif harm == "cut":
        head.write_bytes(head.read_bytes()[:50])
    else:
        other = filled(tmp_path / "s", identity(tmp_path / "other", "bob"))
        shutil.copy(other.folder / HEAD, head)
    (folder / named(3)).write_bytes(b"{}\n")
    found = examine(folder, pki.fingerprint(ann.authority))
    names = {fault.split(":")[0].split(" ")[0] for fault in found.faults}
    assert names == {HEAD, named(3)}
    assert [one.number for one in found.whole] == [1, 2, 4, 5]


def test_a_whole_folder_made_anew_by_another_authority_is_told_by_its_fingerprint(ann, tmp_path):
    strange = identity(tmp_path / "other", "ann")
    forged = filled(tmp_path / "s", strange).folder
    found = examine(forged)
    assert found.faults == () and found.authority != pki.fingerprint(ann.authority)
    found = examine(forged, pki.fingerprint(ann.authority))
    assert len(found.faults) == 6 and not found.whole
    assert "signed under the authority" in found.faults[0]


def test_a_transcript_of_another_study_site_or_authority_does_not_belong(folder, ann, tmp_path):
    bob, strange = identity(tmp_path, "bob"), identity(tmp_path / "other", "ann")
    for place, signer, study in ((2, bob, "heart"), (3, ann, "lung"), (4, strange, "heart")):
        store = TranscriptStore(tmp_path / f"s{place}", study, signer)
        for number in range(1, place + 1):
            store.record(transcript(number, study=study))
        shutil.copy(store.folder / named(place), folder / named(place))
    found = "\n".join(faults(folder))
    assert f"{named(2)}: it is of the study 'heart' at 'bob', not of 'heart' at 'ann'" in found
    assert f"{named(3)}: it is of the study 'lung' at 'ann', not of 'heart' at 'ann'" in found
    assert f"{named(4)}: it was signed under the authority" in found


def test_by_a_revocation_list_a_stolen_key_proves_nothing(folder, tmp_path):
    hq = tmp_path / "authority"
    assert faults(folder, listed=(hq / "revoked.pem").read_bytes()) == []
    pki.revoke(hq, "ann", "compromised", NOW)
    found = faults(folder, listed=(hq / "revoked.pem").read_bytes())
    assert len(found) == 6 and all("which was revoked" in fault for fault in found)
    other = identity(tmp_path / "other", "ann")
    found = faults(folder, listed=(tmp_path / "other/authority/revoked.pem").read_bytes())
    assert len(found) == 6 and all("does not fit" in fault for fault in found)
    assert other.name == "ann"


def test_a_planted_number_is_answered_at_once(folder):
    (folder / named(99_999_999)).write_bytes(b"{}\n")
    assert len(faults(folder)) == 2  # no transcript, and not counted
    (folder / HEAD).unlink()
    found = faults(folder)
    assert f"{named(6)} to {named(99_999_998)} are missing" in found and len(found) == 3


def test_other_files_are_left_alone(folder):
    (folder / "notes.txt").write_text("x")
    (folder / ".00000009.json.beef").write_text("x")  # what a killed write leaves
    assert faults(folder) == []


def test_the_folders_of_several_studies_are_found_below_a_site(folder, ann, tmp_path):
    filled(tmp_path / "lung" / "secure", ann)
    (tmp_path / "empty" / "secure").mkdir(parents=True)
    assert stores(tmp_path) == [tmp_path / "lung/secure", folder]
    assert stores(folder) == stores(folder.parent) == [folder]
    for nothing in (tmp_path / "empty", tmp_path / "nowhere"):
        with pytest.raises(AuditError, match="holds no transcripts of secure sums"):
            stores(nothing)


def test_what_was_noted_may_be_in_capitals(folder):
    found = examine(folder)
    last = found.whole[-1]
    assert faults(folder, expect=Anchor(5, last.file_digest.upper())) == []


def test_a_peer_with_another_key_than_in_an_earlier_transcript_is_named(tmp_path):
    ann = identity(tmp_path)
    store = filled(tmp_path / "secure", ann, 2)
    me, bob, *rest = CROWD
    other = replace(bob, key="b" * 64)
    store.record(transcript(3, roster=(replace(me, key="a" * 64), other, *rest)))
    store.record(transcript(4, roster=(me, *rest), left=()))
    store.record(transcript(5, roster=(me, bob, *rest)))
    found = examine(tmp_path / "secure")
    assert found.faults == (), "a renewal is no fault"
    assert found.key_changes == (
        KeyChange(3, "bob", other.key, bob.key),
        KeyChange(5, "bob", bob.key, other.key),
    )
