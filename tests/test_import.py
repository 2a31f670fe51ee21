# SPDX-License-Identifier: Apache-2.0
"""`import muster` is light, its public names are few and real, and every module imports."""

import importlib
import pkgutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import muster
from muster.errors import MissingExtra

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted(
    info.name
    for info in pkgutil.walk_packages(muster.__path__, "muster.", onerror=lambda name: None)
    if not info.name.endswith("__main__")
)
THIRD_PARTY = """
import sys
before = set(sys.modules)
import muster
new = {name: module for name, module in sys.modules.items() if name not in before}
roots = {n.split(".")[0] for n, m in new.items() if "site-packages" in str(vars(m).get("__file__"))}
print(*sorted(roots - {"muster"}))
"""


def test_import_loads_numpy_only():
    command = [sys.executable, "-c", THIRD_PARTY]
    out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert out.stdout.split() == ["numpy"]


def test_public_names_are_sorted_real_and_few():
    assert list(muster.__all__) == sorted(set(muster.__all__))
    assert len(muster.__all__) <= 40
    assert [name for name in muster.__all__ if not hasattr(muster, name)] == []


@pytest.mark.parametrize("name", MODULES)
def test_every_module_imports_and_has_what_it_exports(name):
    try:
        module = importlib.import_module(name)
    except MissingExtra as missing:
        pytest.skip(str(missing))
    exported = getattr(module, "__all__", ())
    assert [symbol for symbol in exported if not hasattr(module, symbol)] == []


def test_one_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert muster.__version__ == project["version"]
