# SPDX-License-Identifier: Apache-2.0
"""An organisation's name has one spelling, and is what it looks like."""

import sys
import unicodedata
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.errors import IdentityError
from muster.security.organisation import check_organisation

GOOD = [
    "St Mary's Hospital",
    "Inserm",
    "Charité – Universitätsmedizin Berlin",
    "Hospital Nº 5 “12 de Octubre”",
    "Städt. Klinikum [Nord] & Söhne, GmbH",
    "東京大学医学部附属病院",
    "בית חולים הדסה",
    "مستشفى الملك فيصل",
    "โรงพยาบาลศิริราช",
    "НИИ Кардиологии",
    "ΑΧΕΠΑ",
    "Cardio Кардио",  # two words, each of one alphabet
    "7",
    "é" * 64,
]
TRICKS = {
    "": "use 1 to 64",
    " ": "space",
    " Inserm": "space",
    "Inserm ": "space",
    "In  serm": "two in a row",
    "a" * 65: "65 characters",
    "a" * 100_000: "at most 64",
    "Inserm\n": "not seen",
    "Ins\x00erm": "not seen",
    "Ins\x1b[31merm": "not seen",
    "Ins\x7ferm": "not seen",
    "Ins\x9berm": "not seen",
    "\u202emresnI": "not seen",  # read from the right
    "Ins\u2066erm\u2069": "not seen",
    "Ins\u200ferm": "not seen",
    "Ins\u061cerm": "not seen",
    "Ins\u200berm": "not seen",  # a space without width
    "Ins\u00aderm": "not seen",  # a soft hyphen
    "Ins\u2028erm": "not seen",
    "St\u00a0Mary": "not seen",  # a space that is not one
    "St\u3000Mary": "not seen",
    "Ins\ufeffrm": "not seen",
    "Ins\ufe0ferm": "not seen",
    "Ins\u034ferm": "not seen",
    "\u3164Inserm": "not seen",
    "\u115f": "not seen",
    "Ins\u2800erm": "not seen",
    "Ins\U000e0041erm": "not seen",
    "Ins\U000e0100erm": "not seen",
    "Ins\ue000erm": "not seen",  # private
    "Ins\ud800erm": "not seen",
    "Ins\uffffrm": "not seen",
    "...": "no letter",
    "\u0301Inserm": "without a letter",
    "I" + "\u0335\u0336\u0337\u0338" + "nserm": "more than 3",
    "Ｉｎｓｅｒｍ": "another dress",
    "𝐈nserm": "another dress",
    "ﬁrst": "another dress",
    "µ-Lab": "another dress",
    "\u0406nserm": "mixes cyrillic and latin",
    "Inserm \u041darvard": "mixes cyrillic and latin",
    "Insеrm": "mixes cyrillic and latin",
    "Νovartis": "mixes greek and latin",
}


@pytest.mark.parametrize("name", GOOD)
def test_names_of_the_world_are_allowed_as_they_are(name):
    assert check_organisation(name) == name


@pytest.mark.parametrize("name", TRICKS)
def test_a_trick_is_refused_in_one_line_of_plain_letters(name):
    with pytest.raises(IdentityError, match=TRICKS[name]) as caught:
        check_organisation(name)
    told = str(caught.value)
    assert len(told) < 300 and told.isprintable()
    assert told.replace("…", "").isascii() or "another dress" in told


def test_what_is_no_text_is_refused():
    for value in (None, 7, b"Inserm", ["Inserm"]):
        with pytest.raises(IdentityError, match="must be text"):
            check_organisation(value)


def test_one_name_has_one_spelling():
    apart = unicodedata.normalize("NFD", "Hôpital Général")
    assert apart != "Hôpital Général" == check_organisation(apart)


def test_no_character_that_is_not_printable_gets_in_anywhere():
    planes = range(0x11000), range(0xE0000, 0xE1000), range(sys.maxunicode - 9, sys.maxunicode + 1)
    for code in chain(*planes):
        letter = chr(code)
        if not letter.isprintable() or unicodedata.category(letter) in ("Cf", "Zl", "Zp"):
            with pytest.raises(IdentityError):
                check_organisation(f"In{letter}serm")


@given(st.text(max_size=80))
def test_a_name_that_is_allowed_is_allowed_again_as_it_is(name):
    try:
        found = check_organisation(name)
    except IdentityError:
        return
    assert check_organisation(found) == found and 1 <= len(found) <= 64
