# SPDX-License-Identifier: Apache-2.0
"""One name on the package index, ranges that were run, and extras that bring what they promise."""

import ast
import os
import re
import tomllib
from importlib.metadata import packages_distributions, requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import ranges
from house import House
from muster.extras import DISTRIBUTION

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
TEXT = {".cfg", ".in", ".md", ".py", ".service", ".sh", ".toml", ".txt", ".yaml", ".yml", ""}
SKIPPED = {"build", "demo", "dist", "runs"}
# The bare name as something to install: with extras behind it, as a requirement with a version,
# or as a word of an installing command. A path to a clone and an image's tag are none of these.
NAME = r"(?<![\w./:-])muster(?![\w/.-])"
SPELLINGS = (
    re.compile(NAME + r"\[[a-z]+(?:,[a-z]+)*\]"),
    re.compile(NAME + r" ?(?:==|>=|~=|<=)\s*\d"),
    re.compile(
        r"\b(?:pip3?|pipx|uv|conda|mamba|poetry)\b[^\n]*?\s(?:install|add|tool)\s[^\n]*" + NAME
    ),
    re.compile(r"""\b(?:version|distribution|requires|metadata)\(["']muster["']\)"""),
)


def texts():
    """Every text of the repository, by path."""
    for base, folders, names in os.walk(ROOT):
        seen = {name for name in folders if name == ".ci" or not name.startswith(".")}
        folders[:] = sorted(seen - SKIPPED)
        for path in sorted(Path(base, name) for name in names):
            if path.suffix in TEXT and path.name != ".git" and path != Path(__file__):
                yield path, path.read_text(encoding="utf-8")


def strangers(text):
    """Lines in which the name that belongs to somebody else stands as something to install."""
    return [
        n for n, line in enumerate(text.splitlines(), 1) if any(s.search(line) for s in SPELLINGS)
    ]


def test_no_other_spelling_of_the_distribution_anywhere():
    found = [f"{path.relative_to(ROOT)}:{n}" for path, text in texts() for n in strangers(text)]
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "pip install 'muster[torch]'",
        "`'muster[postgres]'`",
        "pip install muster",
        "/opt/muster/bin/pip install --upgrade muster",
        'postgres = ["muster[service]"]',
        "pipx install muster",
        "uv add muster",
        "muster==0.1.0",
        'version("muster")',
        "python -m pip install -c constraints.txt muster",
    ],
)
def test_every_way_to_install_the_stranger_is_found(line):
    assert strangers(line) == [1]


@pytest.mark.parametrize(
    "line",
    [
        "pip install 'muster-fl[torch]'",
        "muster new digits",
        "import muster",
        "pip install '/path/to/muster[torch]'",
        "ExecStart=/opt/muster/bin/muster serve",
        "/opt/muster/bin/pip install 'muster-fl[site]'",
        "muster.simulate(plan)",
    ],
)
def test_the_command_the_import_and_our_own_name_are_none(line):
    assert strangers(line) == []


def test_the_distribution_the_import_and_the_command():
    assert PROJECT["name"] == DISTRIBUTION == "muster-fl"
    assert PROJECT["scripts"] == {"muster": "muster.cli:main"}


def test_every_extra_that_is_named_is_there():
    named = {
        extra
        for _, text in texts()
        for found in re.findall(r"(?:muster-fl|the/clone|…)\[([a-z,]+)\]", text)
        for extra in found.split(",")
    }
    assert named and named <= set(EXTRAS), named - set(EXTRAS)
    assert "site" in named and "torch" in named


def hints():
    """Each `require(module, extra)` of the source: (where, module, extra)."""
    for file in House(ROOT).source:
        for node in ast.walk(file.tree):
            if not isinstance(node, ast.Call) or ast.unparse(node.func) != "require":
                continue
            module, extra = (*node.args, *(k.value for k in node.keywords if k.arg == "extra"))
            if isinstance(module, ast.JoinedStr):  # what follows the first part names no package
                module = module.values[0]
            yield f"{file.path}:{node.lineno}", module.value, extra.value


HINTS = list(hints())


@pytest.mark.parametrize(("where", "module", "extra"), HINTS, ids=[h[0] for h in HINTS])
def test_a_hint_names_an_extra_that_brings_the_module(where, module, extra):
    root = module.split(".")[0]
    brought = {canonicalize_name(r.name) for r in ranges.of(PROJECT, extra)}
    if root == "muster":
        assert extra in EXTRAS
        return
    distributions = {canonicalize_name(d) for d in packages_distributions().get(root, ())}
    if not distributions:
        pytest.skip(f"{root} is not installed")
    assert distributions & brought, f"{where}: {extra!r} brings no {module}"


REQUIREMENTS = ranges.of(PROJECT, *EXTRAS)
PINS = {
    canonicalize_name(name): Version(pin)
    for name, pin in re.findall(
        r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE
    )
}


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=lambda r: r.name)
def test_every_dependency_has_a_range_that_holds_the_pin(requirement):
    operators = {part.operator for part in requirement.specifier}
    assert ">=" in operators, f"{requirement} has no lower bound"
    assert operators <= {">=", "<", "!="}, f"{requirement} is more than a range"
    pin = PINS[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(pin), f"{requirement} leaves out the pin {pin}"
    assert ranges.lowest(requirement) <= pin


def test_the_dated_list_has_the_pinned_releases():
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    assert re.search(r"as of \d{4}-\d\d-\d\d", text)
    listed = {
        canonicalize_name(name): Version(pin)
        for name, pin in re.findall(r"^\| ([\w-]+) \| ([\d.]+) \|", text, re.MULTILINE)
    }
    needed = {canonicalize_name(one.name) for one in ranges.of(PROJECT, "postgres")}
    assert needed | {"h11", "httpcore", "idna", "mako"} == set(listed)
    assert {name: PINS[name] for name in listed} == listed


def installed_for(*roots):
    """The distributions that these bring, and those that they bring, as they are installed."""
    found, left = set(), [canonicalize_name(one.name) for one in roots]
    while left:
        name = left.pop()
        if name in found:
            continue
        found.add(name)
        brought = map(Requirement, requires(name) or ())
        left += [
            canonicalize_name(one.name)
            for one in brought
            if one.marker is None or one.marker.evaluate({"extra": "binary"})
        ]
    return found


def test_all_that_is_installed_for_a_server_stands_in_the_dated_list():
    needed = installed_for(*ranges.of(PROJECT, "postgres"))
    if any(Version(version(name)) != PINS[name] for name in needed):
        pytest.skip("other releases are installed than those pinned, and bring others")
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    beneath = text[text.index("Beneath these are installed") :].split("(", maxsplit=1)[0]
    named = dict(re.findall(r"([\w-]+) (\d[\d.]*\d)", beneath))
    listed = set(re.findall(r"^\| ([\w-]+) \| [\d.]+ \|", text, re.MULTILINE))
    assert needed == {canonicalize_name(name) for name in listed | named.keys()}
    assert {name: PINS[canonicalize_name(name)] for name in named} == {
        name: Version(pin) for name, pin in named.items()
    }


def test_no_range_begins_before_a_hole_that_is_known_to_be_closed():
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    closed = {
        canonicalize_name(name): max(map(Version, re.findall(r"CVE-[\d-]+ in ([\d.]+\d)", holes)))
        for name, holes in re.findall(
            r"^\| ([\w-]+) \| [^|]+ \| [^|]+ \| (.*CVE.*) \|$", text, re.M
        )
    }
    assert closed["cryptography"] == Version("46.0.7")
    for one in REQUIREMENTS:
        name = canonicalize_name(one.name)
        assert name not in closed or ranges.lowest(one) >= closed[name]
    assert all(PINS[name] >= version for name, version in closed.items())


def test_the_lowest_are_what_the_ranges_begin_with():
    lines = ranges.constraints(
        [Requirement("a>=1.2,<3"), Requirement("b[x]>=4; python_version>'3'")]
    )
    assert lines == ["a==1.2", "b==4"]


def test_a_requirement_without_a_lower_bound_is_refused():
    with pytest.raises(ValueError, match="'numpy<3' has no lower bound"):
        ranges.constraints([Requirement("numpy<3")])


def test_an_extra_brings_what_its_parts_bring():
    project = {
        "name": "x",
        "dependencies": ["a>=1"],
        "optional-dependencies": {"small": ["b>=1"], "large": ["x[small]", "c>=1"]},
    }
    assert [r.name for r in ranges.of(project, "large")] == ["a", "b", "c"]
    assert [r.name for r in ranges.of(project)] == ["a"]
    with pytest.raises(ValueError, match="no extra 'huge'"):
        ranges.of(project, "huge")
