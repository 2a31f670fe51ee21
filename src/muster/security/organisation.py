# SPDX-License-Identifier: Apache-2.0
"""The name of an organisation as a certificate may state it: what people see is what is compared.

People approve a name by eye and rules compare it letter by letter, so two names that look alike
must be one, and one name must have one spelling. Hence Unicode's form C (UAX 15), and none of what
cannot be seen, steers a terminal, or passes for another letter.
"""

from __future__ import annotations

import re
import unicodedata
from itertools import groupby

from muster.errors import IdentityError

__all__ = ["LONGEST_ORGANISATION", "check_organisation"]

LONGEST_ORGANISATION = 64  # characters: ub-organization-name of RFC 5280, appendix A
MARKS = 3  # accents on one letter: enough for every script, too few to run over other lines
# Printable for Unicode, and yet nothing is seen: fillers, selectors, a blank Braille cell.
UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u2800\u3164\ufe00-\ufe0f\uffa0"
    "\U000e0000-\U000e0fff]"
)


def check_organisation(name: str) -> str:
    """Check the name of an organisation, and return it in form C.

    It has 1 to 64 characters, all of them seen: no controls, no marks of direction, no unassigned
    characters, single spaces inside only; a letter or digit somewhere; no letter that is another
    one in disguise (full width, mathematical), and no word with letters of two alphabets, such as
    a Cyrillic "а" among Latin letters. Whole words of one alphabet that look like those of another
    pass: compare fingerprints. Raises `IdentityError`.

    >>> check_organisation("Ho\u0302pital Saint-Louis")
    'Hôpital Saint-Louis'
    """
    if not isinstance(name, str) or len(name) > 4 * LONGEST_ORGANISATION:
        raise _refusal(name, f"it must be text of at most {LONGEST_ORGANISATION} characters")
    found = unicodedata.normalize("NFC", name)
    why = _fault(found)
    if why:
        raise _refusal(name, why)
    return found


def _fault(name: str) -> str:
    """Say why a name is not allowed, or ""."""
    if not 1 <= len(name) <= LONGEST_ORGANISATION:
        return f"it has {len(name)} characters; use 1 to {LONGEST_ORGANISATION}"
    if not name.isprintable() or UNSEEN.search(name):
        return "it holds characters that are not seen or that steer a terminal; leave them out"
    if name != " ".join(name.split(" ")).strip() or "  " in name:
        return "it has a space at an end, or two in a row; use single spaces between words"
    if not any(letter.isalnum() for letter in name):
        return "it has no letter and no digit; use its name"
    kinds = [unicodedata.category(letter)[0] for letter in name]
    runs = [len(list(run)) for kind, run in groupby(kinds) if kind == "M"]
    if kinds[0] == "M" or max(runs, default=0) > MARKS:
        return f"it has accents without a letter, or more than {MARKS} on one; leave them out"
    disguised = [letter for letter in name if _disguised(letter)]
    if disguised:
        plain = unicodedata.normalize("NFKC", disguised[0])
        return f"{disguised[0]!a} is {plain!r} in another dress; use the plain letter"
    return _mixed(name)


def _disguised(letter: str) -> bool:
    cased = unicodedata.category(letter) in ("Lu", "Ll", "Lt", "Lm")
    return cased and unicodedata.normalize("NFKC", letter) != letter


def _mixed(name: str) -> str:
    """Say which word mixes alphabets, or ""; only those with capitals pass for one another."""
    for word in re.findall(r"[^\W\d_]+", name):
        letters = [part for part in word if unicodedata.category(part) in ("Lu", "Ll", "Lt")]
        scripts = {unicodedata.name(part, "").split(" ")[0].lower() for part in letters}
        if len(scripts) > 1:
            return f"the word {word!a} mixes {' and '.join(sorted(scripts))} letters; use one"
    return ""


def _refusal(name: object, why: str) -> IdentityError:
    said = ascii(name)
    said = said if len(said) <= 100 else f"{said[:100]}…"
    return IdentityError(f"the organisation {said} is not allowed: {why}")
