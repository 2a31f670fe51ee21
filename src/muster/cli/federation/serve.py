# SPDX-License-Identifier: Apache-2.0
"""`muster serve`: the server of a federation, and a live view of its rounds."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from muster.cli import locate, screen
from muster.cli import run as training
from muster.cli.federation import signals
from muster.cli.federation.watcher import News
from muster.cli.live import LiveRounds, Quiet
from muster.errors import MusterError, PlanError, RunError
from muster.extras import require
from muster.plan import Plan
from muster.plan.measured import check_metrics
from muster.plan.quorum import fewest
from muster.plan.registry import fingerprint
from muster.runs import Options, Run, planfile
from muster.runs.measure import check_rows

if TYPE_CHECKING:
    import typer
    from rich.text import Text
else:
    typer = require("typer", extra="service")
    Text = require("rich.text", extra="service").Text

__all__ = ["Identity", "Parser", "Study", "command"]

Parser = training.Parser

Folder = Annotated[Path, typer.Option(help="The run's folder; one that is there goes on.")]
Identity = Annotated[
    Path | None, typer.Option(help="The folder of your certificate (muster pki accept).")
]
Address = Annotated[
    str | None, typer.Option(metavar="HOST:PORT", help="Where to listen. (0.0.0.0:8443)")
]
Enough = Annotated[
    int, typer.Option("--clients", min=1, help="Sites that must be present to begin a round.")
]
Lease = Annotated[
    float, typer.Option(min=1, help="Seconds without progress after which a site is late.")
]
Database = Annotated[
    str | None,
    locate.database("postgresql://… that several servers share, instead of SQLite in the folder."),
]
Plain = Annotated[bool, typer.Option("--plain", help="No TLS: a trial on this machine alone.")]
Study = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="The study: the runs over the same people. (default)"),
]
Kept = Annotated[bool, typer.Option("--keep-updates", help="Keep each update after its round.")]
Judged = Annotated[
    bool, typer.Option("--evaluate", help="Judge on the test rows of population(), read here.")
]
Meters = Annotated[
    int | None, typer.Option("--health", metavar="PORT", help="/healthz and /metrics on loopback.")
]


def command(
    ctx: typer.Context,
    plan: training.PlanPath,
    path: Folder,
    identity: Identity = None,
    address: Address = None,
    clients: Enough = 1,
    lease: Lease = 15.0,
    store: Database = None,
    plain: Plain = False,
    keep_updates: Kept = False,
    evaluate: Judged = False,
    settings: training.Settings = None,
    rounds: training.Total = None,
    seed: training.Seed = None,
    health: Meters = None,
    ledger: training.Charged = None,
    study: Study = None,
    as_json: screen.Json = False,
    quiet: training.Silent = False,
) -> None:
    """Serve a plan to the sites of a federation, until its rounds are done.

    muster serve plan.py --path heart --identity hub --clients 3

    The same command goes on where a server was stopped or killed. Ctrl-C ends it safely.
    """
    if plain == (identity is not None):
        raise RunError(_certificate(plain))
    file = planfile.load(plan)
    changed = planfile.altered(file.plan, settings, rounds, seed)
    central = _central(file, changed, evaluate)
    require("uvicorn", extra="service")  # first: a hint that names all of what a server needs
    serving = require("muster.runs.federation.serve", extra="service")
    terms = serving.ServerSettings(enough=clients, lease=lease)
    named = {} if study is None else {"study": study}
    federation = serving.ServedFederation(
        changed, path, central, terms, store, keep_updates, **named
    )
    usual = "127.0.0.1:8443" if plain else "0.0.0.0:8443"
    at = serving.ListenSettings(address or usual, identity, health)
    shown = ServerScreen(changed, file.path, path, ctx.meta[training.WORDS], as_json, quiet, ledger)
    why, done = shown.serve(serving, federation, at)
    shown.conclude(why, done)
    if why == "closing":
        raise typer.Exit(signals.INTERRUPTED)


def _certificate(plain: bool) -> str:
    if plain:
        return "--plain was given with --identity; leave one of them out"
    return (
        "a server proves who it is; give --identity FOLDER (made by muster pki), or --plain "
        "for a trial on this machine"
    )


def _central(file: planfile.PlanFile, plan: Plan, asked: bool) -> tuple[Any, Any] | None:
    """Return central test rows: those of evaluate_on(), else, when asked for, the population's."""
    rows = None
    if file.evaluate_on is not None:
        try:
            rows = file.evaluate_on()
        except MusterError:
            raise
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            raise PlanError(f"{file.path} failed in evaluate_on(): {what}") from error
    elif asked:
        rows = file.enrolled().evaluate_on
    if plan.stop and rows is None:
        raise PlanError(
            f"Plan(stop={list(plan.stop)!r}) reads metrics of test rows, and a server does not "
            f"know whether its sites have any; write evaluate_on() in {file.path}, or no stop"
        )
    if rows is not None:
        rows = check_rows(plan, rows, f"evaluate_on() in {file.path}")
        check_metrics(plan, *rows)
    return rows


@dataclass(frozen=True)
class ServerScreen:
    """A federation as its operator sees it: `words` are the command line as it was given."""

    plan: Plan
    file: Path
    folder: Path
    words: Sequence[str]
    as_json: bool
    quiet: bool
    ledger: Path | None = None

    def serve(self, serving: Any, federation: Any, at: Any) -> tuple[str, int]:
        """Serve until it ends; returns why, and how many rounds are committed."""
        news = News(self.folder, max(federation.terms.enough, fewest(self.plan)), self._tell)
        with signals.graceful() as stop, self._watcher() as watcher:

            def ready(port: int) -> None:
                self._introduce(at, port)
                news.start()

            try:
                why: str = serving.serve(
                    federation,
                    at,
                    ready=ready,
                    stop=stop,
                    options=Options(watch=watcher.watch, ledger=self.ledger, tell=self._tell),
                )
            finally:
                news.close()
        return why, max(self._done(), news.committed)

    def conclude(self, why: str, done: int) -> None:
        """Say what is safe, and how to go on."""
        total = self.plan.rounds
        again = shlex.join(["muster", "serve", *map(_without_secret, self.words)])
        if self.as_json:
            facts = {"why": why, "path": str(self.folder), "rounds": done, "planned": total}
            screen.emit({"event": "ended"} | facts | {"again": None if why == "done" else again})
            return
        if why == "done":
            self._verdict()
            return
        heads = {"drain": "drained", "stop": "stopped by an operator", "closing": "stopped"}
        kept = f"round {done} of {total} is committed" if done else "before round 1 ended"
        sites = "its sites went home" if why == "stop" else "its sites wait for it"
        screen.say(f"[bold yellow]{heads.get(why, why)}:[/] {kept}, and {sites}; go on with")
        screen.say(Text(f"  {again}"))

    def _verdict(self) -> None:
        parts, doubt = [f"{self.plan.rounds} rounds"], ""
        with contextlib.suppress(RunError):  # with PostgreSQL there is no run in the folder
            run = Run(self.folder)
            facts, metric = training.summary(run), locate.metric(run)
            parts = [f"{facts['rounds']} rounds in {screen.span(facts['seconds'])}"]
            if metric in run.metrics:
                parts.append(f"{metric} {screen.number(run.metrics[metric])} on {run.measured}")
            doubt = run.warning
            parts.append(f"{screen.size(facts['bytes_up'])} up")
            if run.facts.get("spent"):
                screen.say(Text.assemble(("! stopped: ", "bold yellow"), run.facts["stopped"]))
        sign = ("! ", "bold yellow") if doubt else ("✓ ", "bold green")
        screen.say(Text.assemble(sign, "done: ", " · ".join(parts)))
        if doubt:
            screen.say(Text(f"! {doubt}", "bold yellow"))
        named = shlex.quote(_named(self.folder))
        screen.say(f"  [dim]next[/] muster show {named}   muster report {named}")

    def _introduce(self, at: Any, port: int) -> None:
        """Say where it listens, and how a site joins."""
        host = at.address.rpartition(":")[0]
        scheme = "http" if at.identity is None else "https"
        listens, mark = f"{scheme}://{host}:{port}", fingerprint(self.plan)
        public, until = listens, None
        if at.identity is not None:
            who = require("muster.security.pki", extra="service").member(at.identity)
            public, until = who.server, who.who.not_after
        if self.as_json:
            screen.emit(
                {
                    "event": "listening",
                    "address": listens,
                    "port": port,
                    "server": public,
                    "run": self.folder.resolve().name,
                    "path": str(self.folder),
                    "fingerprint": mark,
                    "rounds": self.plan.rounds,
                    "committed": self._done(),
                    "until": until and until.isoformat(),
                }
            )
        elif not self.quiet:
            done = self._done()
            goes = f", going on after round {done}" if done else ""
            screen.say(Text.assemble(("✓ ", "bold green"), f"listening on {listens}"))
            _line("run", f"{screen.path(self.folder)}, {self.plan.rounds} rounds{goes}")
            algorithm, task = type(self.plan.algorithm).__name__, type(self.plan.task).__name__
            size = self.plan.task.layout.size
            _line("plan", f"{mark[:12]}… {algorithm} on {task}, {size} parameters")
            some = self.plan.sampling.traits.count or 100  # how many changes nothing
            for line in training.told(self.plan, some, None).split("\n")[1:]:
                screen.say(f"  {line}")
            if until is not None:
                _line("certificate", f"until {until:%F}")
            _line("sites", self._invitation(public, plain=at.identity is None))
            _line("look", f"muster status {shlex.quote(_named(self.folder))}")

    def _invitation(self, server: str, *, plain: bool) -> str:
        """Return the command that a site gives."""
        known = "--plain --name NAME" if plain else "--identity FOLDER"
        kept = {"--set": "--set ", "--seed": "--seed ", "--rounds": "--set rounds="}
        words = list(self.words)
        changed = [
            f"{kept[word]}{shlex.quote(words[place + 1])}"
            for place, word in enumerate(words)
            if word in kept and place + 1 < len(words)
        ]
        url = f"{server} " if plain else ""
        return " ".join([f"muster join {url}{self.file.name} --data PATH {known}", *changed])

    def _watcher(self) -> Quiet | LiveRounds:
        if self.as_json or self.quiet:
            return Quiet(lines=self.as_json)
        return LiveRounds(self.folder.name, self.plan.rounds, self._done())

    def _tell(self, event: dict[str, Any]) -> None:
        if self.as_json:
            screen.emit(event)
        elif not self.quiet:
            screen.say(Text.assemble(("· ", "dim"), event["text"]))

    def _done(self) -> int:
        """Count the rounds committed so far."""
        with contextlib.suppress(RunError):
            return Run(self.folder).round
        return 0


def _named(folder: Path) -> str:
    return folder.name if folder.parent == locate.RUNS else screen.path(folder)


def _without_secret(word: str) -> str:
    return re.sub(r"(://[^:/@]*):[^@]*@", r"\1:…@", word)


def _line(head: str, text: str) -> None:
    screen.say(Text.assemble("  ", (f"{head:<12}", "dim"), text))
