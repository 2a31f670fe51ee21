# SPDX-License-Identifier: Apache-2.0
"""The documentation keeps its promises: links lead somewhere, and Python in it is Python.

    python tools/docs.py [ROOT]

Every relative link in a Markdown file must name a file (and a heading, after a #) that exists;
a link that is called by a test, `[test_y](../tests/test_x.py)`, or has one for its title,
`[test](../tests/test_x.py "test_y")`, a file that has the test, and a link that is called "test"
names one;
every fenced ``python`` block must compile, and one that holds a prompt is run as a doctest.
"""

import doctest
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from house import Finding

_LINK = re.compile(r"!?\[([^\]]*)\]\(([^)\s]+)(?:\s+\"([^\"]*)\")?[^)]*\)")
_TEST = re.compile(r"`?(test_\w+)`?")
_FENCE = re.compile(r"^(```+)[ \t]*(\w*)[^\n]*\n(.*?)^\1[ \t]*$", re.MULTILINE | re.DOTALL)
_SKIP = {".git", ".venv", "demo", "node_modules", "runs"}


def pages(root: Path) -> list[Path]:
    """Return every Markdown file of the repository."""
    found = (path.relative_to(root) for path in root.rglob("*.md"))
    return sorted(path for path in found if not any(p in _SKIP or p[0] == "." for p in path.parts))


def anchors(page: Path) -> set[str]:
    """Return the names that a page's headings can be linked by."""
    prose = _FENCE.sub("", page.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+\s+(.*)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}


def links(root: Path, page: Path) -> Iterator[Finding]:
    """Yield the relative links of a page that lead nowhere."""
    text = (root / page).read_text(encoding="utf-8")
    prose = _FENCE.sub(lambda m: "\n" * m[0].count("\n"), text)
    for match in _LINK.finditer(prose):
        name, link, title = match[1], match[2], match[3]
        line = prose.count("\n", 0, match.start()) + 1
        if re.match(r"[a-z]+:", link):
            continue
        file, _, heading = unquote(link).partition("#")
        target = root / page.parent / file if file else root / page
        if not target.exists():
            yield Finding(page, line, f"the link {link} leads to no file")
        elif heading and heading not in anchors(target):
            yield Finding(page, line, f"the link {link} leads to no heading")
        named = _TEST.fullmatch(title or name)
        if name == "test" and not named:
            yield Finding(page, line, f"the link {link} names no test; give one as its title")
        if named and target.is_file() and target.suffix == ".py" and not _defines(target, named[1]):
            yield Finding(page, line, f"the file {link} has no test {named[1]}")


def _defines(file: Path, name: str) -> bool:
    found = re.search(rf"^def {re.escape(name)}\(", file.read_text(encoding="utf-8"), re.MULTILINE)
    return found is not None


def blocks(root: Path, page: Path) -> Iterator[Finding]:
    """Yield the Python blocks of a page that do not compile, or whose output differs."""
    text = (root / page).read_text(encoding="utf-8")
    for match in _FENCE.finditer(text):
        if match[2] != "python":
            continue
        line = text.count("\n", 0, match.start()) + 2
        if ">>> " in match[3]:
            test = doctest.DocTestParser().get_doctest(match[3], {}, str(page), str(page), line)
            report: list[str] = []
            if doctest.DocTestRunner(verbose=False).run(test, out=report.append).failed:
                yield Finding(page, line, "".join(report).strip())
            continue
        try:
            compile(match[3], str(page), "exec")
        except SyntaxError as error:
            yield Finding(page, line + (error.lineno or 1) - 1, f"not Python: {error.msg}")


def main(arguments: list[str]) -> int:
    """Print every broken promise; return 1 when there is one."""
    root = Path(arguments[0]) if arguments else Path(__file__).resolve().parent.parent
    found = pages(root)
    faults = [fault for page in found for check in (links, blocks) for fault in check(root, page)]
    for fault in faults:
        print(fault)
    print(f"docs: {len(found)} pages, {len(faults)} faults")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
