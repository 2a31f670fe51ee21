# SPDX-License-Identifier: Apache-2.0
"""A release: built from what git knows, and tried where nothing else is installed.

    python tools/release.py

Builds the source distribution and, from it, the wheel, into dist/; installs the wheel in an
environment of its own; asks it for its version and trains the digits there. Refuses a tree with
changes that are not committed, and a version that CHANGELOG.md does not name.
"""

import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def refusal(version: str, changelog: str, changes: str) -> str:
    """Say why nothing is released, or "".

    >>> refusal("1.0.0", "## 1.0.0 (2026-12-01)", "")
    ''
    >>> refusal("1.0.0", "## 0.9.0 (2026-01-01)", "")
    'CHANGELOG.md has no heading "## 1.0.0 (date)"; write down what is new'
    """
    if changes:
        return f"there are changes that are not committed:\n{changes}"
    if not re.search(rf"^## {re.escape(version)} \(\d{{4}}-\d\d-\d\d\)", changelog, re.MULTILINE):
        return f'CHANGELOG.md has no heading "## {version} (date)"; write down what is new'
    return ""


def run(*words: str | Path, cwd: Path = ROOT) -> str:
    """Return the output of a program that must succeed."""
    return subprocess.run(words, cwd=cwd, check=True, text=True, stdout=subprocess.PIPE).stdout


def tried(wheel: Path) -> None:
    """Install a wheel alone, and train with it in an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        venv.create(here / "env", with_pip=True)
        python, muster = here / "env/bin/python", here / "env/bin/muster"
        run(python, "-m", "pip", "install", "--quiet", f"{wheel}[sklearn]")
        print(run(muster, "--version", cwd=here).strip())
        run(muster, "new", "digits", "demo", cwd=here)
        print(run(muster, "run", "demo/plan.py", "--set", "rounds=2", cwd=here).strip())


def main() -> int:
    """Build, and try what was built."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    why = refusal(project["version"], changelog, run("git", "status", "--porcelain"))
    if why:
        print(why, file=sys.stderr)
        return 1
    run(sys.executable, "-m", "build", "--outdir", ROOT / "dist", ROOT)
    (wheel,) = (ROOT / "dist").glob(f"muster_fl-{project['version']}-*.whl")
    tried(wheel)
    print(f"dist/ holds {project['version']}; tag it v{project['version']} and upload both files")
    return 0


if __name__ == "__main__":
    sys.exit(main())
