# SPDX-License-Identifier: Apache-2.0
"""Lines of code by floor, against a ceiling that only a decision moves.

    python tools/budget.py [ROOT]

A line of code holds a token other than a comment or a docstring, so explaining costs nothing.
"""

import ast
import io
import sys
import tokenize
from collections import Counter
from pathlib import Path

import floors
from house import File, House

CEILINGS = {0: 700, 1: 500, 2: 2800, 3: 2400, 4: 0, 5: 3200, 6: 1600, 7: 2400, 8: 40}

_SPACE = {
    tokenize.COMMENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
    tokenize.INDENT,
    tokenize.NEWLINE,
    tokenize.NL,
}


def code_lines(file: File) -> int:
    """Return the lines of a file that hold code."""
    held: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(file.text).readline):
        if token.type not in _SPACE:
            held.update(range(token.start[0], token.end[0] + 1))
    return len(held - _prose(file.tree))


def _prose(tree: ast.Module) -> set[int]:
    lines: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            lines.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return lines


def totals(house: House) -> Counter[int]:
    """Count lines of code by floor; a room without a floor counts on the top one."""
    count: Counter[int] = Counter()
    for file in house.source:
        count[floors.FLOORS.get(file.room, max(CEILINGS))] += code_lines(file)
    return count


def main(arguments: list[str]) -> int:
    """Print the table; return 1 when a floor is above its ceiling."""
    house = House(Path(arguments[0]) if arguments else Path(__file__).resolve().parent.parent)
    count = totals(house)
    print("floor   lines  ceiling  rooms")
    for floor, ceiling in CEILINGS.items():
        rooms = sorted({f.room for f in house.source if floors.FLOORS.get(f.room) == floor})
        mark = "  OVER" if count[floor] > ceiling else ""
        print(f"{floor:5d}{count[floor]:8d}{ceiling:9d}  {' '.join(rooms)}{mark}")
    print(f"  all{count.total():8d}{sum(CEILINGS.values()):9d}")
    return int(any(count[floor] > ceiling for floor, ceiling in CEILINGS.items()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
