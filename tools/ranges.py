# SPDX-License-Identifier: Apache-2.0
"""The ranges of pyproject.toml, as what pip needs to install their lowest releases.

    python tools/ranges.py lowest [EXTRA ...]
    python tools/ranges.py tools

The first prints one `name==version` for each requirement of muster and of the extras (all of
them by default), the version being the one that the range begins with. The second prints the
packages of development (the extra `dev`) as constraints.txt pins them, so that two environments
differ in what muster stands on and in nothing that tests it.
"""

import sys
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent


def of(project: Mapping[str, Any], *extras: str) -> list[Requirement]:
    """Return the requirements of a project and of these extras, with those an extra brings.

    Raises `ValueError` for an extra that the project does not have.
    """
    found = [Requirement(text) for text in project["dependencies"]]
    waiting, seen = list(extras), set()
    while waiting:
        extra = waiting.pop(0)
        if extra in seen:
            continue
        seen.add(extra)
        if extra not in project["optional-dependencies"]:
            raise ValueError(f"the project has no extra {extra!r}")
        for text in project["optional-dependencies"][extra]:
            one = Requirement(text)
            if canonicalize_name(one.name) == canonicalize_name(project["name"]):
                waiting += sorted(one.extras)
            elif one not in found:
                found.append(one)
    return sorted(found, key=lambda one: canonicalize_name(one.name))


def lowest(requirement: Requirement) -> Version:
    """Return the version that a range begins with; `ValueError` for one without a beginning."""
    begins = [Version(part.version) for part in requirement.specifier if part.operator == ">="]
    if not begins:
        raise ValueError(f"{str(requirement)!r} has no lower bound; write name>=version")
    return max(begins)


def constraints(requirements: Iterable[Requirement]) -> list[str]:
    """Return a pip constraint for each requirement: its lowest version and no other."""
    return [f"{one.name}=={lowest(one)}" for one in requirements]


def main(arguments: list[str]) -> int:
    """Print constraints; return 2 for words that say nothing."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    every = [name for name in project["optional-dependencies"] if name != "dev"]
    match arguments:
        case ["lowest", *extras]:
            print(*constraints(of(project, *(extras or every))), sep="\n")
        case ["tools"]:
            needed = {canonicalize_name(one.name) for one in of(project, "dev")}
            others = {canonicalize_name(one.name) for one in of(project, *every)}
            for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
                if canonicalize_name(line.partition("==")[0]) in needed - others:
                    print(line)
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
