# SPDX-License-Identifier: Apache-2.0
"""Where the numbers of a text come from: two questions that a typed-in number cannot answer.

Moving: a number that a record is the source of is another one for another record. The same
document is made of several records; a number that stands in the same words in all of them, and
never moved, was typed in. This needs no list of what may be shown, and none of exceptions.

Deriving: what a number shows is in the record, or is a sum, a count, the middle, a share or a
difference of what is there, to the last digit
shown. This finds the number of another quantity.

What letters are joined to names something and counts nothing: p10, SHA-256, L2, pipeline[1].
So does a year in brackets behind the name of an author.
"""

import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from itertools import accumulate
from statistics import median

NUMBER = re.compile(
    r"(?<![\w.])(?<![A-Za-z]-)(?<![A-Za-z]\[)\d+(?:,\d{3})*(?:\.\d+)*(?:e[+-]?\d+)?"
)
CITATION = re.compile(r"\([^()]*[^\W\d]\w+ (?:\d{4})[^()]*\)")
SPANS = re.compile(r"(?<![\w.])(\d+) (min|h) (\d+) (s|min)\b")
ENOUGH = 3  # documents: two may have the same small number by chance
UNITS = {"ms": 1e-3, "s": 1.0, "B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "%": 1e-2}
UNIT = re.compile(r" ?(ms|s|B|kB|MB|GB|TB|%)(?!\w)")


def blanked(text: str) -> tuple[str, list[str]]:
    """A text without its numbers, and the numbers in their order.

    A noun that is counted is taken in the singular: "1 round" and "2 rounds" are the same words.

    >>> blanked("1 round, 1,200 clients at p10")
    ('# round, # client at p10', ['1', '1,200'])
    """
    text = CITATION.sub("()", text)
    return re.sub(r"(# \w+?)s\b", r"\1", NUMBER.sub("#", text)), NUMBER.findall(text)


class Page(HTMLParser):
    """The texts of a page as (place, text).

    A cell's place is its column and row, that of a picture's words the picture's label.

    >>> Page.texts("<p>3 clients</p><dl><dt>rounds</dt><dd>6</dd></dl>")
    [('', '3 clients'), ('', 'rounds'), ('rounds', '6')]
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []
        self._open: list[str] = []
        self._term = self._label = self._row = ""
        self._head: list[str] = []
        self._column = 0
        self._held: str | None = None

    @staticmethod
    def texts(html: str) -> list[tuple[str, str]]:
        """All of a page."""
        page = Page()
        page.feed(html)
        page.close()
        return page.found

    def handle_starttag(self, tag, attrs):
        self._open.append(tag)
        if tag == "svg":
            self._label = dict(attrs).get("aria-label", "")
            self.found.append(("label", self._label))
        if tag == "thead":
            self._head = []
        if tag == "tr":
            self._column = 0
        if tag in ("td", "th"):
            self._held = ""

    def handle_endtag(self, tag):
        while self._open and self._open.pop() != tag:
            pass
        if tag == "svg":
            self._label = ""
        if tag in ("td", "th"):
            self._cell(self._held or "")
            self._held = None

    def _cell(self, text):
        if "thead" in self._open:
            self._head.append(text)
            self.found.append(("head", text))
            return
        if not self._column:
            self._row = blanked(text)[0]
        column = self._head[self._column] if self._column < len(self._head) else ""
        self.found.append((f"{blanked(column)[0]} of {self._row}", text))
        self._column += 1

    def handle_data(self, data):
        if {"style", "title"} & set(self._open) or not data.strip():
            return
        if self._held is not None:
            self._held += data
            return
        place = blanked(self._label)[0]
        if self._open and self._open[-1] == "dd":
            place = self._term
        if self._open and self._open[-1] == "dt":
            self._term = blanked(data)[0]
        self.found.append((place, data))


def lines(text: str) -> list[tuple[str, str]]:
    """The lines of a printed text; columns are parted by two spaces and named by their order."""
    return [("line", " | ".join(re.split(r"\s{2,}", line))) for line in text.splitlines()]


def unmoved(documents: Iterable[list[tuple[str, str]]]) -> list[str]:
    """Numbers that are the same in all documents that have their words, with the words.

    Words that fewer than `ENOUGH` documents have are no evidence; `Sources` judges them.
    """
    seen: dict[tuple[str, str, int], dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
    for document, texts in enumerate(documents):
        for place, text in texts:
            words, numbers = blanked(text)
            for position, number in enumerate(numbers):
                seen[place, words, position][document].add(number)
    return [
        f"{found.pop()} in {words!r} ({place})"
        for (place, words, _), by in seen.items()
        if len(by) >= ENOUGH and len(found := set().union(*by.values())) == 1
    ]


@dataclass
class Sources:
    """Everything that may be shown of some records: their numbers, and what follows from them."""

    values: list[float] = field(default_factory=list)
    words: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, *records: object) -> "Sources":
        """The numbers of plain data at any depth; those of one path are a series."""
        found, series, tails = cls(), defaultdict(list), defaultdict(list)
        for record in records:
            found.values += _shares(record)
            mine = defaultdict(list)
            for path, leaf in _leaves(record, ""):
                if isinstance(leaf, str):
                    found.words.update(NUMBER.findall(leaf))
                elif leaf is not None:
                    mine[path].append(float(leaf))
            for path, numbers in mine.items():
                series[path].append(numbers)
                tails[path.partition("/")[2]].append(numbers[-1])
        for several in series.values():
            for numbers in several:
                found.values += [*numbers, *accumulate(numbers), median(numbers), len(numbers)]
        for ends in tails.values():
            found.values += [abs(a - b) for a in ends for b in ends]
        found.values = sorted(set(found.values))
        return found

    def lacking(self, document: Iterable[tuple[str, str]]) -> list[str]:
        """Numbers of a document that show none of these, with their words."""
        return [
            f"{shown} in {text!r} ({place})"
            for place, text in document
            for shown, value, half in _shown(CITATION.sub("()", text))
            if shown not in self.words and not self._has(value, half)
        ]

    def _has(self, value: float, half: float) -> bool:
        place = bisect_left(self.values, value - half * (1 + 1e-6))
        return place < len(self.values) and self.values[place] <= value + half * (1 + 1e-6)


def _leaves(value: object, path: str) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield f"{path}/{key}", str(key)
            yield from _leaves(part, f"{path}/{key}")
    elif isinstance(value, (list, tuple)):
        yield f"{path}/count", len(value)
        for part in value:
            yield from _leaves(part, path)
    else:
        yield path, value


def _shares(value: object) -> Iterator[float]:
    """Of each number in a list of numbers, its part of the whole."""
    if isinstance(value, list) and value and all(type(part) in (int, float) for part in value):
        yield from (part / (sum(value) or 1) for part in value)
    elif isinstance(value, (list, tuple, dict)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _shares(part)


def _shown(text: str) -> Iterator[tuple[str, float, float]]:
    """Each number of a text: as it stands, what it means, and half of its last digit."""
    for span in SPANS.finditer(text):
        large, small = (60, 1) if span[2] == "min" else (3600, 60)
        yield span[0], int(span[1]) * large + int(span[3]) * small + small / 2, small / 2 + 0.5
    for match in NUMBER.finditer(SPANS.sub("", rest := SPANS.sub("", text))):
        digits = match[0].replace(",", "")
        if digits.count(".") > 1:
            yield match[0], float("nan"), 0.0
            continue
        unit = UNIT.match(rest, match.end())
        factor = UNITS[unit[1]] if unit else 1.0
        mantissa, _, power = digits.partition("e")
        decimals = len(mantissa.partition(".")[2])
        half = 0.5 * 10.0 ** (int(power or 0) - decimals) * factor
        yield match[0], float(digits) * factor, half
