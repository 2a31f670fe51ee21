# SPDX-License-Identifier: Apache-2.0
"""Odd records on a server's disk: an older version stored them, a disk or a person altered them.

The client whose record it is, is left out with a reason; the run goes on, and a restart too.
"""

import json

import pytest
from tests.adversary.liar import MEASURED, Server, history, in_parallel, tampered


def told(rows):
    """An honest member's sums as they are stored, but for the rows."""
    return json.dumps(MEASURED).replace('"rows": 12.0', f'"rows": {rows}', 1)


SEATS = {
    "metrics without rows": ("metrics", '{"loss": 1.0}'),
    "rows of nobody": ("metrics", told("0")),
    "negative rows": ("metrics", told("-3")),
    "2^50 rows": ("metrics", told("1125899906842624")),
    "a name that no plan has": ("metrics", '{"rows": 12, "wit": 1.0}'),
    "a number in words": ("metrics", told('"12"')),
    "nan": ("metrics", told("12").replace("13.0", "NaN")),
    "a list": ("metrics", "[1, 2]"),
    "null": ("metrics", "null"),
    "no JSON": ("metrics", '{"rows": 12, "lo'),
    "a standing that is none": ("standing", '"seated"'),
    "a client that is none": ("key", "evaluate eve"),
    "another client": ("key", 'evaluate "mallory"'),
}
TRAINED = {
    "metrics without rows": ("metrics", '{"loss": 1.0}'),
    "rows of nobody": ("metrics", '{"rows": 0, "loss": 1, "steps": 1, "drift": 0}'),
    "a name that no plan has": ("metrics", '{"rows": 12, "wit": 1.0}'),
    "no JSON": ("metrics", "{"),
    "no weight": ("weight", "0.0"),
    "a negative weight": ("weight", "-12.0"),
    "a weight in words": ("weight", '"much"'),
    "a weight without end": ("weight", "9e999"),
    "a weight beyond the plan": ("weight", "1e30"),
    "no digest": ("digest", '""'),
    "a digest that is none": ("digest", '"../../etc/passwd"'),
    "another digest": ("digest", f'"{"0" * 64}"'),
}
MEMBERS = {
    "no rows": ("rows", 0),
    "2^50 rows": ("rows", 1 << 50),
    "negative rows": ("rows", -1),
    "rows in words": ("rows", "many"),
}


@pytest.mark.parametrize(("column", "value"), SEATS.values(), ids=SEATS)
def test_an_odd_answer_leaves_out_whose_it_is(tmp_path, column, value):
    folder = tmp_path / "run"
    with Server(folder) as server, server.members() as members:
        in_parallel(*(one.trains for one in members))
        members[2].measures()
    assert tampered(folder, "decided", 'evaluate "eve"', column, value) == 1
    with Server(folder) as server, server.members() as (ann, bob, eve):
        in_parallel(ann.measures, bob.measures)
        in_parallel(ann.poll, bob.poll, eve.poll)
        assert server.ended() == "done"
    (record,) = history(folder)
    assert record["accepted"] == ["ann", "bob", "eve"]
    assert record["clients"]["count"] == 2
    assert record["clients"]["accuracy"]["mean"] == pytest.approx(4 / 12)
    assert not Server(folder).again()


@pytest.mark.parametrize(("column", "value"), TRAINED.values(), ids=TRAINED)
def test_an_odd_update_leaves_out_whose_it_is(tmp_path, column, value):
    folder = tmp_path / "run"
    with Server(folder) as server, server.members() as (ann, _, eve):
        in_parallel(ann.trains, eve.trains)
    assert tampered(folder, "decided", 'train "eve"', column, value) == 1
    _without_eve(folder)


@pytest.mark.parametrize("harm", ["gone", "cut", "bit", "empty"])
def test_an_update_that_was_harmed_on_the_disk_leaves_out_whose_it_is(tmp_path, harm):
    folder = tmp_path / "run"
    with Server(folder) as server, server.members() as (ann, _, eve):
        ann.trains()
        (others,) = folder.glob("blobs/update-*")
        eve.trains()
    (body,) = set(folder.glob("blobs/update-*")) - {others}
    data = bytearray(body.read_bytes())
    data[-1] ^= 1
    found = {"cut": bytes(data[:-9]), "bit": bytes(data), "empty": b""}
    body.unlink() if harm == "gone" else body.write_bytes(found[harm])
    _without_eve(folder)


def _without_eve(folder):
    with Server(folder) as server, server.members() as (ann, bob, eve):
        bob.trains()
        in_parallel(ann.measures, bob.measures, eve.measures)
        in_parallel(ann.poll, bob.poll, eve.poll)
        assert server.ended() == "done"
    (record,) = history(folder)
    assert record["accepted"] == ["ann", "bob"] and not record["abandoned"]
    (failed,) = record["failed"]
    assert failed["client"] == "eve" and "record" in json.dumps(failed)


@pytest.mark.parametrize(("column", "value"), MEMBERS.values(), ids=MEMBERS)
def test_an_odd_member_is_out_until_it_says_hello_again(tmp_path, column, value):
    folder = tmp_path / "run"
    with Server(folder) as server, server.members(hello=False) as (ann, _, eve):
        ann.hello(), eve.hello()
    assert tampered(folder, "enrolled", "eve", column, json.dumps(value)) == 1
    with Server(folder) as server, server.members(hello=False) as members:
        ann, bob, eve = members
        ann.hello(), bob.hello()
        eve.run = ann.run
        assert eve.poll(wait=0)["reason"] == "unenrolled"
        eve.hello()
        in_parallel(*(one.trains for one in members))
        in_parallel(*(one.measures for one in members))
        in_parallel(*(one.poll for one in members))
        assert server.ended() == "done"
    (record,) = history(folder)
    assert record["accepted"] == ["ann", "bob", "eve"]


@pytest.mark.parametrize("rows", [0, -1, 1 << 50, "many", None])
def test_odd_rows_of_an_open_round_end_nothing(tmp_path, rows):
    """An older version drew a cohort from what a member claimed."""
    folder = tmp_path / "run"
    with Server(folder) as server, server.members() as members:
        members[2].poll()
    roster = json.dumps([["ann", 12], ["bob", 12], ["eve", rows]])
    assert tampered(folder, "opened", "train", "roster", roster) == 1
    with Server(folder) as server, server.members() as members:
        in_parallel(*(one.trains for one in members))
        in_parallel(*(one.measures for one in members))
        in_parallel(*(one.poll for one in members))
        assert server.ended() == "done"
