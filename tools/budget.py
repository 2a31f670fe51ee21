# SPDX-License-Identifier: Apache-2.0
"""Lines of code by floor, and `Any` by room, against ceilings that only a decision moves.

    python tools/budget.py [ROOT]

A line of code holds a token other than a comment or a docstring, so explaining costs nothing. The
ceilings of `Any` may only fall: lower a room's with its count, and leave out a room without.
"""

import ast
import io
import sys
import tokenize
from collections import Counter
from pathlib import Path

import floors
from house import File, House

CEILINGS = {0: 1600, 1: 4950, 2: 4100, 3: 3900, 4: 0, 5: 14750, 6: 5500, 7: 4300, 8: 40}

ANY = {
    "aggregation": 32,
    "algorithms": 9,
    "batches": 10,
    "cli": 111,
    "data": 63,
    "federation": 179,
    "identity": 46,
    "keys": 3,
    "layout": 12,
    "local": 36,
    "locks": 1,
    "mapped": 8,
    "metrics": 64,
    "muster": 1,
    "optimizers": 63,
    "pipeline": 30,
    "plain": 9,
    "plan": 48,
    "ports": 3,
    "privacy": 40,
    "rounds": 15,
    "runs": 165,
    "sampling": 2,
    "secagg": 14,
    "security": 55,
    "simulation": 31,
    "spelling": 3,
    "store": 119,
    "tasks": 486,
    "testing": 84,
    "transport": 70,
    "tree_codec": 12,
    "types": 42,
    "vectors": 35,
    "web": 40,
}

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


def untyped(house: House) -> Counter[str]:
    """Count how often the code of each room says `Any`; imports of the word do not count."""
    return Counter(
        file.room
        for file in house.source
        for node in ast.walk(file.tree)
        if (isinstance(node, ast.Name) and node.id == "Any")
        or (isinstance(node, ast.Attribute) and ast.unparse(node) == "typing.Any")
    )


def above(count: Counter[str]) -> list[str]:
    """List the rooms that say `Any` more often than they may."""
    return sorted(room for room, found in count.items() if found > ANY.get(room, 0))


def main(arguments: list[str]) -> int:
    """Print both tables; return 1 when a floor or a room is above its ceiling."""
    house = House(Path(arguments[0]) if arguments else Path(__file__).resolve().parent.parent)
    count = totals(house)
    print("floor   lines  ceiling  rooms")
    for floor, ceiling in CEILINGS.items():
        rooms = sorted({f.room for f in house.source if floors.FLOORS.get(f.room) == floor})
        mark = "  OVER" if count[floor] > ceiling else ""
        print(f"{floor:5d}{count[floor]:8d}{ceiling:9d}  {' '.join(rooms)}{mark}")
    print(f"  all{count.total():8d}{sum(CEILINGS.values()):9d}")
    said = untyped(house)
    over = above(said)
    print("\nroom            Any  ceiling")
    for room in sorted({*said, *ANY}):
        may = ANY.get(room, 0)
        mark = "  OVER" if room in over else "  lower it" if said[room] < may else ""
        print(f"{room:12s}{said[room]:7d}{may:9d}{mark}")
    print(f"{'all':12s}{said.total():7d}{sum(ANY.values()):9d}")
    return int(bool(over) or any(count[floor] > ceiling for floor, ceiling in CEILINGS.items()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
