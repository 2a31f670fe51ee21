# SPDX-License-Identifier: Apache-2.0
"""Peers in a sum with this site: every rule alone, together, at its bounds, and mistyped."""

from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("cryptography")

from muster.errors import PlanError
from muster.federation.site.peers import PeerRules
from muster.security.pki.notary import Peer

LISTS = {"peers", "organisations"}


def peer(name, organisation=None):
    return Peer(name, organisation or name, f"5{name}", f"k{name}")


ME = peer("me", "Inserm")
CROWD = [
    peer("lyon", "Inserm"),
    peer("paris-1", "AP-HP"),
    peer("paris-2", "AP-HP"),
    peer("oslo", "OUS"),
]


def test_without_rules_two_others_are_enough_and_fewer_never():
    rules = PeerRules()
    assert rules.refusal(ME, [ME, *CROWD]) == rules.refusal(ME, [ME, *CROWD[:2]]) == ""
    for room, told in (
        ([], "0 are"),
        ([ME], "0 are"),
        ([ME, CROWD[0]], "1 (lyon) is in the sum beside this site, and a sum must have at least 2"),
    ):
        assert told in rules.refusal(ME, room)


@pytest.mark.parametrize("least", range(2, 7))
def test_least_peers_counts_the_others_and_not_this_site(least):
    for count in range(5):
        for room in (CROWD[:count], [ME, *CROWD[:count]]):
            said = PeerRules(least_peers=least).refusal(ME, room)
            assert (said == "") == (count >= least)
            if said and least > 2:
                assert f"least_peers = {least} in the site's policy asks for {least}" in said


def test_a_name_that_no_pattern_allows_is_a_stranger():
    rules = PeerRules(peers=("lyon", "paris-*"))
    assert rules.refusal(ME, [ME, *CROWD[:3]]) == ""  # this site need not be listed
    assert rules.refusal(ME, [ME, *CROWD]) == (
        "oslo (OUS) is in the sum and not among the peers of the site's policy"
    )
    odd = [peer(f"x{n}") for n in range(9)]
    said = rules.refusal(ME, [*CROWD[:3], *odd])
    assert "x4 (x4) and 4 more are in the sum" in said and len(said) < 300


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("lyon", ["lyon"], ["lyon2", "xlyon", "lyo"]),
        ("paris-*", ["paris-", "paris-1", "paris-a-b"], ["paris", "xparis-1"]),
        ("*-cardio", ["a-cardio", "-cardio"], ["cardio", "a-cardiology"]),
        ("a*b*c", ["abc", "axxbyyc"], ["acb", "ab"]),
        ("*", ["anything", "x"], []),
    ],
)
def test_a_star_stands_for_any_characters_and_all_else_for_itself(pattern, yes, no):
    rules = PeerRules(peers=(pattern, "zz*"))
    for name in yes:
        assert rules.refusal(ME, [peer(name), peer("zz1"), peer("zz2")]) == ""
    for name in no:
        assert "not among the peers" in rules.refusal(ME, [peer(name), peer("zz1"), peer("zz2")])


KEY, OTHER = "ab" * 32, "cd" * 32


def held(name, key):
    return Peer(name, name, f"5{name}", key)


def test_a_name_with_a_key_is_whoever_holds_that_key():
    rules = PeerRules(peers=(f"lyon={KEY}", "paris-*", "*"))
    rest = [peer("paris-1"), peer("oslo")]
    assert rules.refusal(ME, [held("lyon", KEY), *rest]) == ""
    assert rules.refusal(ME, [held("lyon", OTHER), *rest]) == (
        f"lyon is in the sum with the key {OTHER}, and the site's policy has lyon with the key "
        f"{KEY}: ask lyon itself, by telephone, which one it holds (muster pki show)"
    )
    assert rules.refusal(ME, [held("oslo", KEY), *rest[:1], peer("x")]) == "", "a key is no name"


def test_a_name_may_have_several_keys_and_is_one_peer():
    rules = PeerRules(peers=(f"lyon={KEY}", f"lyon={OTHER}", "oslo"))
    for key in (KEY, OTHER):
        assert rules.refusal(ME, [held("lyon", key), peer("oslo")]) == ""
    said = rules.refusal(ME, [held("lyon", "00" * 32), peer("oslo")])
    assert f"lyon with the key {KEY} or {OTHER}" in said
    with pytest.raises(PlanError, match="name more peers, or ask for fewer"):
        PeerRules(peers=(f"lyon={KEY}", f"lyon={OTHER}"))
    assert "oslo2 (oslo2) is in the sum and not among" in rules.refusal(ME, [peer("oslo2")])


@pytest.mark.parametrize("spelled", [KEY, KEY.upper(), ":".join(["AB"] * 32)])
def test_a_key_is_compared_by_its_digits_alone(spelled):
    rules = PeerRules(peers=(f"lyon={spelled}", "*"))
    assert rules.refusal(ME, [held("lyon", KEY), peer("oslo")]) == ""
    assert rules.peers[0] == f"lyon={KEY}"


@pytest.mark.parametrize(
    "peers",
    [
        f"lyon={KEY[:63]}",
        f"lyon={KEY[:16]}",
        f"lyon={KEY}0",
        "lyon=",
        f"paris-*={KEY}",
        f"={KEY}",
        f"lyon=sha256:{KEY}",
        f"lyon ={KEY}",
        f"lyon={KEY}\n",
        f"lyon==={KEY}",
        f"Lyon={KEY}",
        "lyon=" + "g" * 64,
    ],
)
def test_a_key_is_given_whole_and_for_one_name(peers):
    """The first digits of a key are found by trying."""
    with pytest.raises(PlanError, match="all 64 digits that muster pki show prints"):
        PeerRules(peers=(peers, "*"))


def test_peers_that_say_two_things_are_refused():
    with pytest.raises(PlanError, match="lyon among its peers with a key and without one"):
        PeerRules(peers=("lyon", f"lyon={KEY}", "oslo", "nice"))
    with pytest.raises(PlanError, match="lyon and oslo with one key"):
        PeerRules(peers=(f"lyon={KEY}", f"oslo={KEY.upper()}", "nice"))


def test_many_stars_are_answered_at_once():
    rules = PeerRules(peers=("*a" * 30 + "*b",))
    assert "not among" in rules.refusal(ME, [peer("a" * 63), peer("a" * 62)])


def test_each_organisation_must_be_there_by_somebody_else():
    rules = PeerRules(organisations=("Inserm", "OUS"))
    assert rules.refusal(ME, [ME, *CROWD]) == ""
    assert rules.refusal(ME, [ME, *CROWD[:3]]) == (
        "nobody else in the sum speaks for OUS, and the site's policy asks for that; those in it "
        "speak for AP-HP, Inserm"
    )
    said = rules.refusal(ME, [ME, *CROWD[1:]])  # this site itself speaks for Inserm
    assert "nobody else in the sum speaks for Inserm" in said


def test_an_organisation_is_compared_letter_by_letter_in_one_spelling():
    rules = PeerRules(organisations=("Ho\u0302pital",))
    assert rules.organisations == ("Hôpital",)
    assert rules.refusal(ME, [peer("a", "Hôpital"), peer("b")]) == ""
    for near in ("hôpital", "Hopital", "Hôpital 2"):
        assert "Hôpital" in rules.refusal(ME, [peer("a", near), peer("b")])


def test_two_names_with_one_key_are_one_holder():
    twin = Peer("oslo2", "Acme", "9", CROWD[3].key)
    assert "oslo and oslo2 are in the sum with one key" in PeerRules().refusal(ME, [*CROWD, twin])
    own = Peer("me2", "Acme", "9", ME.key)
    assert "me and me2 are in the sum with one key" in PeerRules().refusal(ME, [*CROWD, own])
    same = Peer("oslo2", "Acme", CROWD[3].serial, "other")
    assert "with one serial" in PeerRules().refusal(ME, [*CROWD, same])


def test_whoever_is_left_is_asked_for_anew():
    rules = PeerRules(least_peers=3, organisations=("OUS",))
    assert rules.refusal(ME, [ME, *CROWD]) == ""
    assert "speaks for OUS" in rules.refusal(ME, [ME, *CROWD[:3]])
    assert "asks for 3" in rules.refusal(ME, [ME, *CROWD[2:]])


@given(
    names=st.sets(st.sampled_from([one.name for one in CROWD])),
    least=st.none() | st.integers(2, 5),
    allowed=st.none() | st.sampled_from([("*",), ("paris-*",), ("lyon", "oslo", "paris-*")]),
    wanted=st.none() | st.sampled_from([("AP-HP",), ("OUS", "Inserm")]),
)
def test_a_set_is_refused_exactly_where_a_rule_is_broken(names, least, allowed, wanted):
    room = [one for one in CROWD if one.name in names]
    broken = len(room) < (least or 2)
    if allowed == ("paris-*",):
        broken |= bool(names - {"paris-1", "paris-2"})
    if wanted:
        broken |= not set(wanted) <= {one.organisation for one in room}
    said = PeerRules(least, allowed, wanted).refusal(ME, [ME, *room])
    assert bool(said) == broken
    assert "\n" not in said and not said.endswith(".")


@pytest.mark.parametrize(
    ("rule", "value", "told"),
    [
        ("least_peers", 1, "a whole number from 2 to 100000: two clients are never a sum"),
        ("least_peers", 0, "two clients are never a sum"),
        ("least_peers", -3, "a whole number"),
        ("least_peers", 100_001, "a whole number"),
        ("least_peers", True, "a whole number"),
        ("least_peers", 4.0, "a whole number"),
        ("least_peers", "4", "a whole number"),
        ("peers", [], "a list of 1 to 1000 names"),
        ("peers", "lyon", "a list of 1 to 1000 names"),
        ("peers", ["Lyon"], "a list of 1 to 1000 names"),
        ("peers", ["lyon\n"], "a list of 1 to 1000 names"),
        ("peers", ["paris-?"], "a list of 1 to 1000 names"),
        ("peers", ["[a-z]*"], "a list of 1 to 1000 names"),
        ("peers", ["a" * 64], "a list of 1 to 1000 names"),
        ("peers", [""], "a list of 1 to 1000 names"),
        ("peers", [7], "a list of 1 to 1000 names"),
        ("peers", ["a"] * 1001, "a list of 1 to 1000 names"),
        ("peers", {"a": 1}, "a list of 1 to 1000 names"),
        ("peers", ["lyon"], "asks for 2 others: name more peers"),
        ("organisations", [], "a list of 1 to 100 names"),
        ("organisations", "Inserm", "a list of 1 to 100 names"),
        ("organisations", [7], "a list of 1 to 100 names"),
        ("organisations", ["x"] * 101, "a list of 1 to 100 names"),
        ("organisations", ["In\u202eserm"], "in the organisations of the site's policy"),
        ("organisations", ["Insеrm"], "mixes cyrillic and latin"),
        ("organisations", ["x" * 65], "65 characters"),
        ("organisations", [""], "0 characters"),
    ],
)
def test_a_rule_that_is_none_is_refused_in_one_short_line(rule, value, told):
    with pytest.raises(PlanError) as caught:
        PeerRules(**{rule: value})
    said = str(caught.value)
    assert told in said and rule in said and said.isprintable() and len(said) < 400


def test_names_that_cannot_be_enough_are_refused():
    with pytest.raises(PlanError, match="asks for 4 others"):
        PeerRules(least_peers=4, peers=("a", "b", "c", "c"))
    assert PeerRules(least_peers=4, peers=("a", "b", "c", "d")).least == 4
    assert PeerRules(least_peers=4, peers=("a*",)).least == 4


def test_lists_as_toml_gives_them_become_values_that_compare():
    rules = PeerRules(peers=["a*"], organisations=["Inserm"])
    assert rules == PeerRules(peers=("a*",), organisations=("Inserm",)) and hash(rules)
    assert {part.name for part in fields(PeerRules)} == LISTS | {"least_peers"}
