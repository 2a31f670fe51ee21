# SPDX-License-Identifier: Apache-2.0
"""The threat table: each reader has a line in every setting, and each line a test that exists."""

import ast
from itertools import product
from pathlib import Path

import pytest

from muster.privacy.mask import Sums
from muster.privacy.statement import Statement
from muster.privacy.threats import READERS, Peers, Setting, threats

ROOT = Path(__file__).parents[2]
CLAIM = Statement(True, "With epsilon 1 the models hide a client.", (), {})
NONE = Statement(False, "No privacy is claimed.", ("the noise is drawn from the seed",), {})
SUMS = (None, Sums(9, 6, 3, 3), Sums(500, 90, 20, 166, ring=True))
PEERS = (
    None,
    Peers(),
    Peers(4),
    Peers(4, organisations=True),
    Peers(4, True, True),
    Peers(4, True, False, True),
)
SETTINGS = [
    Setting(carrier, sums, made, frozenset(trust), rows, public, peers, own)
    for carrier, sums, made, trust, rows, public, peers, own in product(
        ("one machine", "TLS", "plain"),
        SUMS,
        ((), (CLAIM,), (NONE,)),
        ((), ("central",), ("distributed",), ("local",)),
        (False, True),
        (False, True),
        PEERS,
        (None, 8),
    )
]


def names_in(file):
    """The names of a file's tests."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_line_names_a_test_that_exists():
    named = {line.test for setting in SETTINGS for line in threats(setting)}
    assert len(named) > 10
    for file, _, test in (name.partition("::") for name in named):
        assert test.startswith("test_") and test in names_in(file), f"{file}::{test}"


def test_every_reader_has_one_line_and_it_says_something():
    for setting in SETTINGS:
        lines = threats(setting)
        assert tuple(line.reader for line in lines) == READERS
        assert all(line.learns and line.rests_on for line in lines)


def line(reader, **setting):
    """Return one reader's line, all of it."""
    (found,) = [one for one in threats(Setting(**setting)) if one.reader == reader]
    return f"{found.learns} | {found.rests_on}"


@pytest.mark.parametrize(
    ("reader", "setting", "words"),
    [
        ("the network", {"carrier": "plain"}, "all that is sent: models, and each client's update"),
        ("the network", {"carrier": "plain", "sums": SUMS[1]}, "masked updates"),
        ("the network", {"carrier": "TLS"}, "no content"),
        ("the server", {"carrier": "TLS"}, "each client's update by itself"),
        ("the server", {"carrier": "TLS", "sums": SUMS[1]}, "sums of at least 3 honest clients"),
        ("the server", {"carrier": "TLS", "sums": SUMS[2], "public": True}, "metrics='public'"),
        (
            "the server",
            {"carrier": "TLS", "trust": frozenset({"local"})},
            "that client's own noise",
        ),
        ("the server", {"carrier": "TLS", "rows": True}, "in which noise hides single rows"),
        (
            "the server with k clients",
            {"carrier": "TLS", "sums": SUMS[2]},
            "in a ring it may choose",
        ),
        (
            "the server with k clients",
            {"carrier": "TLS", "sums": SUMS[1], "own": 8},
            "chooses whom it invites needs k = 8 of its own beside one other",
        ),
        (
            "the server with k clients",
            {"carrier": "TLS", "sums": SUMS[1], "own": 8, "peers": PEERS[4]},
            "k = 8 of the peers that site.toml names",
        ),
        (
            "the server with k clients",
            {"carrier": "TLS", "sums": SUMS[1], "peers": PEERS[3]},
            "least_peers = 4 and organisations, somebody of each of whom is among them in "
            "its site.toml",
        ),
        (
            "the server with k clients",
            {"carrier": "TLS", "sums": SUMS[1], "peers": PEERS[1]},
            "no rule of its site.toml",
        ),
        ("the authority", {"carrier": "TLS", "sums": SUMS[1]}, "make up all other members"),
        (
            "the authority",
            {"carrier": "TLS", "sums": SUMS[1], "peers": PEERS[4]},
            "keys of its own",
        ),
        (
            "the authority",
            {"carrier": "TLS", "sums": SUMS[1], "peers": PEERS[5]},
            "cannot put keys",
        ),
        ("the authority", {"carrier": "TLS", "sums": SUMS[1], "peers": PEERS[2]}, "can invent"),
        ("a reader of the model", {"carrier": "TLS", "statements": (CLAIM,)}, "epsilon 1"),
        ("a reader of the model", {"carrier": "TLS", "statements": (NONE,)}, "nothing bounds it"),
    ],
)
def test_what_a_line_says_is_of_its_setting(reader, setting, words):
    assert words in line(reader, **setting)


def test_a_ring_says_how_many_neighbours_may_collude():
    said = line("the server with k clients", carrier="TLS", sums=SUMS[2])
    assert "From k" not in said and "more than 71 of them stand beside one client" in said


def test_two_stories_need_as_many_colluders_as_two_quorums_share():
    """Two sets of t of n holders meet in 2t - n: so many who answer to both open both."""
    for t, n in ((6, 9), (5, 7), (96, 142)):
        said = line("the server with k clients", carrier="TLS", sums=Sums(n, t, 1, 2 * t - n - 1))
        assert f"From k = {2 * t - n} on" in said
