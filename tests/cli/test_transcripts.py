# SPDX-License-Identifier: Apache-2.0
"""`muster audit secure` as a site's auditor reads it."""

import pytest

pytest.importorskip("cryptography")

from tests.security.transcript.scene import CROWD, filled, identity, transcript

from muster.security import pki
from muster.security.pki.notary import Peer
from muster.security.transcript import TranscriptStore


@pytest.fixture
def ann(shell):
    return identity(shell.folder)


@pytest.fixture
def study(shell, ann):
    filled(shell.folder / "ann" / "heart" / "secure", ann)
    return "ann/heart"


def test_a_table_shows_with_whom_and_what_to_compare(shell, study, ann):
    told = shell("audit", "secure", study)
    assert "Hôpital Nord, Inserm, eve" in told and "opened" in told
    assert "5 of 5 transcripts of the study heart at ann are whole" in told
    assert pki.fingerprint(ann.authority) in told
    assert shell("audit", "secure", "ann").count("run-1") == 5  # the site's folder
    assert shell("audit", "secure", study, "--last", "2").count("run-1") == 2


def test_a_table_says_of_how_many_a_site_has_verified_fewer(shell, ann):
    """In a ring it verifies its neighbours, and names these."""
    store = TranscriptStore(shell.folder / "ann" / "heart" / "secure", "heart", ann)
    store.record(transcript(1, counts=(("share", 700), ("mask", 690))))
    assert "4 of 700" in shell("audit", "secure", "ann/heart")
    assert shell.json("audit", "secure", "ann/heart")[0]["counts"] == [
        ["share", 700],
        ["mask", 690],
    ]


def test_json_has_every_field_and_a_line_of_what_was_found(shell, study, ann):
    *lines, summary = shell.json("audit", "secure", study)
    assert [line["number"] for line in lines] == [1, 2, 3, 4, 5]
    assert lines[0]["roster"][1]["organisation"] == "Hôpital Nord"
    assert lines[0]["left"][1] == ["mask", ["ann", "bob", "zoe"]]
    assert lines[0]["signed_by"] == ann.me.serial
    assert summary["faults"] == [] and summary["kept"] == 5 and summary["gone"] == 0
    assert summary["head"] == f"5:{lines[-1]['sha256']}"
    assert summary["authority"] == pki.fingerprint(ann.authority)


def test_a_fault_is_named_and_the_command_fails(shell, study, ann):
    folder = shell.folder / study / "secure"
    whole = (folder / "00000002.json").read_bytes()
    (folder / "00000002.json").write_bytes(whole.replace(b'"opened"', b'"openes"'))
    (folder / "00000004.json").unlink()
    said = shell.fails("audit", "secure", study)
    assert "00000002.json: it was altered" in said and "and 1 more" in said
    told = shell("audit", "secure", study, code=1)
    assert "✗ 00000002.json: it was altered" in told and "✗ 00000004.json is missing" in told
    assert "3 of 5 transcripts" in told
    summary = shell.json("audit", "secure", study, code=1)[-1]
    assert len(summary["faults"]) == 2


def test_a_head_that_was_noted_and_the_authority_are_compared(shell, study, ann):
    head = shell.json("audit", "secure", study)[-1]["head"]
    mark = pki.fingerprint(ann.authority)
    assert "whole" in shell("audit", "secure", study, "--head", head, "--authority", mark[:16])
    assert "was signed under the authority" in shell.fails(
        "audit", "secure", study, "--authority", "beef"
    )
    assert "the end was cut" in shell.fails("audit", "secure", study, "--head", f"6:{'0' * 64}")
    assert "written anew" in shell.fails("audit", "secure", study, "--head", f"5:{'0' * 64}")
    assert "has no number; give N:HEX" in shell.fails("audit", "secure", study, "--head", "0" * 64)
    assert "is no head" in shell.fails("audit", "secure", study, "--head", "5:beef")


def test_what_a_list_revokes_is_a_fault(shell, study, ann):
    words = ("audit", "secure", study, "--revoked", "authority/revoked.pem")
    assert "whole" in shell(*words)
    shell("pki", "revoke", "authority", "ann", "--reason", "compromised")
    assert "was revoked on" in shell.fails(*words)
    assert "No such file" in shell.fails(*words[:3], "--revoked", "nowhere.pem")


def test_words_from_elsewhere_are_printed_as_they_are(shell, ann):
    store = TranscriptStore(shell.folder / "s", "[red]heart[/]", ann)
    crowd = (*CROWD[:3], Peer("zoe", "[blue]Z[/] :hospital:", "f", "0" * 64))
    reason = "[bold]too few[/] :hospital:"
    store.record(transcript(study="[red]heart[/]", roster=crowd, outcome="given up", reason=reason))
    told = shell("audit", "secure", "s")
    assert "[red]heart[/]" in told and "[blue]Z[/] :hospital:" in told
    assert "given up: [bold]too few[/] :hospital:" in told


def test_a_place_without_transcripts(shell, ann):
    assert "holds no transcripts of secure sums" in shell.fails("audit", "secure", ".")
    assert "holds no transcripts of secure sums" in shell.fails("audit", "secure", "nowhere")


def test_a_peer_with_another_key_is_told_and_is_no_fault(shell, study, ann):
    store = TranscriptStore(shell.folder / study / "secure", "heart", ann)
    me, bob, *rest = CROWD
    store.record(transcript(6, roster=(me, Peer("bob", bob.organisation, "9", "b" * 64), *rest)))
    told = shell("audit", "secure", study)
    assert f"! 6: bob has the key {'b' * 64}, and had {bob.key} before" in told
    summary = shell.json("audit", "secure", study)[-1]
    assert summary["key_changes"] == [
        {"number": 6, "name": "bob", "key": "b" * 64, "before": bob.key}
    ]
