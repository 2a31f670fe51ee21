# SPDX-License-Identifier: Apache-2.0
"""The command `muster`: which commands there are; each file is loaded when it is asked for."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from muster import __version__
from muster.cli import screen
from muster.errors import MusterError
from muster.locks import require_locks
from muster.simulation.threads import ONE_THREAD

__all__ = ["COMMANDS", "app", "main"]

ORDERS = ("pause", "drain", "resume", "stop")  # the functions of one file
NETWORK = ("pki", "serve", "join", "status", *ORDERS, "doctor", "audit")
COMMANDS = (
    "new",
    "run",
    "ls",
    "show",
    "report",
    "compare",
    "replay",
    "rollback",
    "data",
    "privacy",
    *NETWORK,
)
PLACES = (
    {name: f"federation.{name}" for name in NETWORK}
    | dict.fromkeys(ORDERS, "federation.order")
    | {"privacy": "privacy.statement"}
)


class Commands(TyperGroup):
    """Finds a command's file by the command's name, and turns a muster error into one line."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.as_json = False  # whether errors, too, are for programs to read
        names: dict[str, Any] = dict.fromkeys(COMMANDS)
        self.commands = names  # what "did you mean" chooses from

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the commands in the order of use."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the command, built from the function of its file, or from its `group`.

        The function is called `command`, or like the command where a file holds several.
        """
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"muster.cli.{PLACES.get(cmd_name, cmd_name)}")
        if hasattr(module, "group"):
            made: Any = typer.main.get_command(module.group)
            made.name = cmd_name
            return made
        single = typer.Typer(add_completion=False)
        function = getattr(module, "command", None) or getattr(module, cmd_name)
        single.command(cmd_name, cls=getattr(module, "Parser", None))(function)
        return typer.main.get_command(single)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; an error that muster raises on purpose is told without a traceback."""
        try:
            require_locks()
            return super().invoke(ctx)
        except MusterError as error:
            if self.as_json:
                screen.emit(_event(type(error).__name__, str(error)), stderr=True)
            else:
                screen.complain(error)
            raise typer.Exit(1) from None

    def main(self, args: Any = None, *given: Any, **more: Any) -> Any:
        """Run the command line; where `--json` is in it, wrong usage is told as JSON, too."""
        words = sys.argv[1:] if args is None else list(args)
        self.as_json = "--json" in words
        if not self.as_json:
            return super().main(words, *given, **more)
        try:
            code = super().main(words, *given, **more | {"standalone_mode": False})
        except screen.Wrong as error:
            screen.emit(_event("usage", error.format_message()), stderr=True)
            code = error.exit_code
        sys.exit(code if isinstance(code, int) else 0)


def _event(kind: str, text: str) -> dict[str, str]:
    return {"event": "error", "kind": kind, "error": text}


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        print(f"muster {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Train one model over many data holders, whose data stays: federated learning.

    Begin with: muster new digits
    """


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; exit with 0, 1 (an error, told in a sentence) or 2 (wrong usage)."""
    for name, value in ONE_THREAD.items():  # before torch starts its threads; workers inherit it
        os.environ.setdefault(name, value)
    app(sys.argv[1:] if arguments is None else arguments, prog_name="muster")
