# SPDX-License-Identifier: Apache-2.0
"""`muster join`: one site of a federation, until the run has ended."""

from __future__ import annotations

import asyncio
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from muster.cli import run as training
from muster.cli import screen
from muster.cli.federation import signals
from muster.cli.federation.serve import Identity, Plain
from muster.errors import RunError
from muster.extras import require
from muster.plan import Plan
from muster.plan.registry import fingerprint
from muster.runs import planfile

if TYPE_CHECKING:
    import typer
    from rich.text import Text
else:
    typer = require("typer", extra="site")
    Text = require("rich.text", extra="site").Text

__all__ = ["Parser", "Told", "command"]

Parser = training.Parser

Words = Annotated[
    list[str],
    typer.Argument(metavar="[URL] PLAN", help="The server, else the identity's; the plan file."),
]
Data = Annotated[Path, typer.Option(help="This site's own rows, as its loader reads them.")]
Tests = Annotated[Path | None, typer.Option("--test", help="Rows to judge the model on, likewise.")]
Loader = Annotated[
    str | None,
    typer.Option(metavar="FILE.PY:NAME", help="Reads the rows. (local_data of the plan file)"),
]
Vault = Annotated[
    Path | None, typer.Option(help="What this site must not lose. (in the identity's folder)")
]
Rules = Annotated[Path | None, typer.Option(help="site.toml: what this site takes part in.")]
Named = Annotated[str | None, typer.Option(help="The site's name, with --plain.")]
Further = Annotated[
    bool,
    typer.Option("--new-run", help="Take part in one further run of the study: the site's word."),
]


def command(
    ctx: typer.Context,
    words: Words,
    data: Data,
    identity: Identity = None,
    loader: Loader = None,
    test: Tests = None,
    path: Vault = None,
    policy: Rules = None,
    settings: training.Settings = None,
    seed: training.Seed = None,
    plain: Plain = False,
    name: Named = None,
    new_run: Further = False,
    as_json: screen.Json = False,
    quiet: training.Silent = False,
) -> None:
    """Join a federation as one site: train next to your own rows, and send updates.

    muster join plan.py --data rows.csv --identity lyon

    It waits for a server that is away. Kill it at any instant: the same command goes on.
    """
    url, file = _words(words)
    who = _who(url, identity, plain, name)
    found = planfile.load(file)
    plan = planfile.altered(found.plan, settings, None, seed)
    joining = require("muster.runs.federation.join", extra="site")
    rows = joining.site_rows(found, data, loader)
    tests = joining.site_rows(found, test, loader) if test else None
    rules = require("muster.federation.site.policy", extra="site")
    folder = path or _vault(identity, who.name, plan)
    site = Site(plan, who, folder, Told(as_json, quiet), new_run)
    ended = asyncio.run(site.join(joining, rows, tests, rules.read(policy) if policy else None))
    given = [word for word in ctx.meta[training.WORDS] if word != "--new-run"]  # it was said once
    again = shlex.join(["muster", "join", *given])
    site.told.conclude(ended, site.folder, again)
    if ended is None:
        raise typer.Exit(signals.INTERRUPTED)


@dataclass(frozen=True)
class Who:
    """A site, and the server it speaks to."""

    name: str
    server: str
    identity: Path | None


def _words(words: list[str]) -> tuple[str | None, Path]:
    """Return the server's address, if any, and the plan file."""
    urls = [word for word in words if "://" in word]
    files = [word for word in words if "://" not in word]
    if len(files) != 1 or len(urls) > 1:
        said = " ".join(words)
        raise RunError(f"{said!r} was given; give one plan file, and at most one address before it")
    return (urls[0] if urls else None), Path(files[0])


def _who(url: str | None, identity: Path | None, plain: bool, name: str | None) -> Who:
    if plain:
        if identity is not None or name is None or url is None:
            raise RunError(
                "--plain is for a trial on one machine: give http://127.0.0.1:PORT and --name "
                "NAME, and no --identity"
            )
        return Who(name, url, None)
    if identity is None or name is not None:
        raise RunError(
            "a site proves who it is; give --identity FOLDER (made by muster pki), which also "
            "has its name, or --plain for a trial on this machine"
        )
    member = require("muster.security.pki", extra="site").member(identity)
    return Who(member.who.name, url or member.server, identity)


def _vault(identity: Path | None, name: str, plan: Plan) -> Path:
    """Return a folder for each plan, in the identity's; in runs/ where there is none."""
    if identity is None:
        return Path("runs") / f"site-{name}"
    return identity / f"vault-{fingerprint(plan)[:12]}"


@dataclass(frozen=True)
class Site:
    """One site: its plan, who it is, the folder of what it must not lose, and who is told."""

    plan: Plan
    who: Who
    folder: Path
    told: Told
    new_run: bool = False

    async def join(self, joining: Any, rows: Any, tests: Any, policy: Any) -> Any:
        """Attend until the run has ended; None when a signal came first."""
        tls = None
        if self.who.identity is not None:
            tls = require("muster.security.pki", extra="site").client_context(self.who.identity)
        self.told.begin(self.who, len(rows[0]), fingerprint(self.plan))
        given = {} if policy is None else {"policy": policy}
        with signals.gracefully() as stop:
            habits = joining.Habits(new_run=self.new_run)
            how = joining.Joining(stop=stop, watch=self.told.hear, habits=habits, **given)
            return await joining.join(
                self.plan,
                rows,
                self.who.server,
                self.folder,
                test=tests,
                tls=tls,
                name=self.who.name,
                how=how,
                identity=self.who.identity,
            )


@dataclass
class Told:
    """The report of what a site does, a calm line each; an outage is told once, and its end."""

    as_json: bool
    quiet: bool
    away: str = ""
    said: str = ""
    sizes: dict[int, int] = field(default_factory=dict)

    def begin(self, who: Who, rows: int, mark: str) -> None:
        """Begin, before the first word to the server."""
        if self.as_json:
            facts = {"site": who.name, "server": who.server, "rows": rows, "fingerprint": mark}
            screen.emit({"event": "joining"} | facts)
        elif not self.quiet:
            screen.say(Text.assemble(("· ", "dim"), f"{who.name}, {rows} rows, to {who.server}"))

    def hear(self, event: dict[str, Any]) -> None:
        """Hear one event of the site."""
        if self.as_json:
            screen.emit(event)
            return
        if self.quiet:
            return
        if event["event"] == "waiting":
            if not self.away:
                self._warn(f"the server does not answer ({event['why']}); trying again")
            self.away = event["why"]
            return
        if self.away and event["event"] != "progress":
            self.away = ""
            screen.say(Text.assemble(("· ", "dim"), "the server answers again"))
        self._one(event)

    def _one(self, event: dict[str, Any]) -> None:
        kind, round = event["event"], event.get("round")
        if kind == "update":
            self.sizes = {event["round"]: event["size"]}
        text = self._text(kind, event)
        if kind == "declined":  # round after round for the same reason: told once
            text, self.said = ("" if text == self.said else text), text
        if text and kind in ("failed", "refused", "declined", "full", "damaged", "told"):
            self._warn(text if round is None else f"round {round:<6} {text}")
            for line in str(event.get("error", "")).rstrip().splitlines():
                screen.say(Text(f"    {line}", "dim"))  # of one's own code, and stays here
        elif text:
            place = "" if round is None else f"round {round:<6} "
            screen.say(Text.assemble(("· ", "dim"), (place, "dim"), screen.shown(text)))

    def _text(self, kind: str, event: dict[str, Any]) -> str:
        if kind == "enrolled":
            return f"enrolled in the run {event['run']} as {event['client']}"
        if kind == "task":
            return "training"
        if kind == "verdict" and event["accepted"]:
            size = self.sizes.get(event["round"])
            return "sent" if size is None else f"sent, {screen.size(size)}"
        if kind == "settled":
            return "counted" if event["accepted"] else "not counted"
        if kind == "failed":
            last = (str(event["error"]).strip().splitlines() or [""])[-1]
            return f"failed at stage {event['stage']}: {last}"
        if kind == "refused" and event["reason"] != "revoked":  # that is the error at the end
            return f"refused: {event['reason']}: {event.get('text', '')}"
        return str(event.get("text", "")) if kind in ("declined", "full", "damaged", "told") else ""

    def _warn(self, text: str) -> None:
        screen.say(Text.assemble(("! ", "bold yellow"), screen.shown(text)))

    def conclude(self, ended: Any, folder: Path, again: str) -> None:
        """Tell of the end: the run's, or this site's own."""
        if self.as_json:
            facts = {"path": str(folder), "again": None if ended else again}
            found = {"rounds": ended.rounds, "text": ended.text} if ended else {}
            screen.emit({"event": "done" if ended else "interrupted"} | facts | found)
        elif ended is not None:
            text = f"the run has ended after {ended.rounds} rounds: {ended.text}"
            screen.say(Text.assemble(("✓ ", "bold green"), text))
        else:
            screen.say("[bold yellow]stopped:[/] what was done is kept; go on with")
            screen.say(Text(f"  {again}"))
