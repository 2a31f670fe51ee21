# SPDX-License-Identifier: Apache-2.0
"""`muster new`: a folder with a plan to begin from."""

from __future__ import annotations

import difflib
import importlib.util
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from muster.cli import screen
from muster.errors import PlanError
from muster.extras import install_command

__all__ = ["TEMPLATES", "command"]

TEMPLATES = {
    "digits": "handwritten digits at ten clients, a small network in NumPy; begin here",
    "hospitals": "heart disease at four hospitals, logistic regression, FedAdam",
    "keyboard": "the next letter on many keyboards, a recurrent network in PyTorch",
    "torch": "a convolutional network in PyTorch; put your own module in its place",
    "csv": "your own table: one CSV file with a column that says who holds a row",
}
NEEDS = {
    "keyboard": ("torch",),
    "torch": ("torch", "sklearn"),
    "digits": ("sklearn",),
    "hospitals": ("sklearn",),
    "csv": ("pandas",),
}
EXTRA = {"torch": "torch", "sklearn": "sklearn", "pandas": "sklearn"}
SUFFIX = ".in"  # a template is no module of muster


def command(
    template: Annotated[str | None, typer.Argument(help="One of the templates.")] = None,
    path: Annotated[Path | None, typer.Argument(help="The folder to make. [TEMPLATE]")] = None,
    listed: Annotated[bool, typer.Option("--list", help="List the templates.")] = False,
    as_json: screen.Json = False,
) -> None:
    """Make a folder with a plan to begin from."""
    if listed or template is None:
        _list(as_json)
        return
    if template not in TEMPLATES:
        near = difflib.get_close_matches(template, TEMPLATES, n=1) or list(TEMPLATES)
        raise PlanError(f"there is no template {template!r}; use {' or '.join(near)}")
    folder = path or Path(template)
    if folder.is_file() or (folder.exists() and any(folder.iterdir())):
        raise PlanError(f"{folder} already exists and is not empty; name another folder")
    written = _write(template, folder)
    missing = sorted({EXTRA[p] for p in NEEDS[template] if not importlib.util.find_spec(p)})
    install = install_command(*missing) if missing else None
    following = f"muster run {folder / 'plan.py'}"
    if as_json:
        names = [str(file) for file in written]
        screen.emit({"template": template, "files": names, "install": install, "next": following})
        return
    screen.say(f"[bold green]✓[/] {folder}/ holds {', '.join(file.name for file in written)}")
    if install:
        screen.say(f"  [dim]first[/]  {escape(install)}")
    screen.say(f"  [dim]next[/]   {following}")
    screen.say(f"  [dim]then[/]   your own data: see population() in {folder / 'plan.py'}")


def _write(template: str, folder: Path) -> list[Path]:
    """Copy the template's files; the README is the same for all."""
    source = files("muster") / "templates"
    texts = {
        part.name.removesuffix(SUFFIX): part.read_text(encoding="utf-8")
        for part in sorted((source / template).iterdir(), key=lambda part: part.name)
        if part.is_file()
    }
    readme = (source / f"README.md{SUFFIX}").read_text(encoding="utf-8")
    title = texts["plan.py"].split('"""')[1].splitlines()[0].rstrip(".:")
    texts["README.md"] = readme.replace("@TITLE@", title)
    folder.mkdir(parents=True, exist_ok=True)
    order = sorted(texts, key=lambda name: (name != "plan.py", name))
    for name in order:
        (folder / name).write_text(texts[name], encoding="utf-8")
    return [folder / name for name in order]


def _list(as_json: bool) -> None:
    if as_json:
        screen.emit(TEMPLATES)
        return
    screen.say(screen.table(("template", "what it is"), TEMPLATES.items(), left=2))
    screen.say()
    screen.say("[dim]next[/]   muster new digits demo")
