# SPDX-License-Identifier: Apache-2.0
"""`muster run`: train a plan on this machine, and watch."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text
from typer.core import TyperCommand

from muster.cli import locate, screen
from muster.cli.federation.local_federation import Staged, staged
from muster.cli.live import LiveRounds, Quiet
from muster.errors import RunError
from muster.local import Local
from muster.optimizers import SGD
from muster.plan import Plan
from muster.runs import Options, Run, explain, planfile, simulate
from muster.runs.baselines import baselines
from muster.runs.folder import fresh_folder
from muster.runs.privacy.guard import afforded
from muster.spelling import translated
from muster.types import Roster

__all__ = ["Parser", "PlanPath", "Seed", "Settings", "command", "summary"]

WORDS = "muster.words"  # the command line, as it can be given again

PlanPath = Annotated[Path, typer.Argument(metavar="PLAN", help="The plan file.")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="FIELD=VALUE", help="Change a field of the plan: algorithm.mu=0.5."
    ),
]
Folder = Annotated[Path | None, typer.Option(help="The run's folder; else the next in runs/.")]
Resume = Annotated[
    str | None, typer.Option(metavar="[RUN]", help="Go on with a run; alone: the plan's latest.")
]
Total = Annotated[int | None, typer.Option(help="Train for so many rounds in all.")]
Seed = Annotated[int | None, typer.Option(help="Another seed than the plan's.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Worker processes; 1 trains in this one.")]
Engine = Annotated[str, typer.Option(help="auto, loop, matrix or fused.")]
Explain = Annotated[bool, typer.Option("--explain", help="Say how it would be trained, and why.")]
Baselines = Annotated[
    bool, typer.Option("--baselines", help="Also train on pooled rows, and each client alone.")
]
Processes = Annotated[
    int | None,
    typer.Option(min=1, help="A real server and so many site processes, over TLS on this machine."),
]
Study = Annotated[
    str | None, typer.Option(metavar="NAME", help="With --processes: the study it belongs to.")
]
Lenient = Annotated[bool, typer.Option("--keep-going", help="Go on without a client that fails.")]
Override = Annotated[
    bool,
    typer.Option("--override", help="Resume though the task or its code is another; recorded."),
]
Charged = Annotated[
    Path | None, typer.Option("--ledger", help="The privacy ledger of all runs over these people.")
]
Silent = Annotated[bool, typer.Option("--quiet", help="Print the result only.")]


class Parser(TyperCommand):
    """Lets --resume stand without a run, for the plan's latest; keeps the words as given."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the word "latest" where --resume is followed by nothing, an option or a plan."""
        given = list(args)
        for place in [i for i, word in enumerate(given) if word == "--resume"][::-1]:
            after = given[place + 1 : place + 2]
            if not after or after[0].startswith("-") or after[0].endswith(".py"):
                given.insert(place + 1, locate.LATEST)
        ctx.meta[WORDS] = tuple(given)
        try:
            return super().parse_args(ctx, given)
        except screen.Wrong as error:
            option = getattr(error, "option_name", "")
            field = _field(option)
            if not field:
                raise
            raise screen.Wrong(
                f"there is no option {option}: that is a field of the plan; write --set {field}=…",
                ctx,
            ) from None


def _field(option: str) -> str:
    """Return the dotted name of the plan's field that an option must mean; empty for none.

    >>> _field("--epochs"), _field("--batch-size"), _field("--lr"), _field("--colour")
    ('local.epochs', 'local.batch', 'local.optimizer.rate', '')
    """
    name = option.lstrip("-").replace("-", "_")
    rooms = {"": Plan, "local.": Local, "local.optimizer.": SGD}
    names = {room: [field.name for field in fields(kind)] for room, kind in rooms.items()}
    exact = [room + name for room, known in names.items() if name in known]
    other = [room + word for room, known in names.items() for word in translated(name, known)]
    return next(iter(exact + other), "")


def command(
    ctx: typer.Context,
    plan: PlanPath,
    path: Folder = None,
    resume: Resume = None,
    settings: Settings = None,
    rounds: Total = None,
    seed: Seed = None,
    workers: Workers = None,
    engine: Engine = "auto",
    explained: Explain = False,
    compared: Baselines = False,
    keep_going: Lenient = False,
    processes: Processes = None,
    ledger: Charged = None,
    study: Study = None,
    override: Override = False,
    as_json: screen.Json = False,
    quiet: Silent = False,
) -> None:
    """Train a plan on this machine.

    muster run plan.py --set algorithm.mu=0.5 --set "sampling=Uniform(count=20)" --rounds 100
    """
    file = planfile.load(plan)
    changed = planfile.altered(file.plan, settings, rounds, seed)
    if explained:
        people = file.enrolled().population
        _explain(explain(changed, people, engine, workers), as_json)
        return
    folder = _folder(changed, path, resume)
    if resume is not None and rounds is None:
        changed = _as_long(changed, folder)
    options = Options(
        engine=engine, workers=workers, lenient=keep_going, ledger=ledger, override=override
    )
    order = Order(
        changed,
        file.enrolled(),
        folder,
        resume is not None,
        options,
        as_json,
        quiet,
        staged(file, processes, options, (tuple(settings or ()), rounds, seed), study),
    )
    try:
        run = order.train()
        rows = order.compare(run) if compared else None
    except KeyboardInterrupt:
        order.interrupted(ctx.meta[WORDS])
        raise typer.Exit(130) from None
    order.conclude(run, rows)


def _folder(plan: Plan, path: Path | None, resume: str | None) -> Path:
    if resume is None:
        return path or fresh_folder(locate.RUNS, plan)
    if resume != locate.LATEST:
        return locate.find(resume)
    return path or locate.latest_of(plan)


def _as_long(plan: Plan, folder: Path) -> Plan:
    """Return the plan for as many rounds as its run was begun with, if those are more."""
    with contextlib.suppress(RunError):  # whoever opens the folder to train in it will tell
        begun = (Run(folder).facts.get("plan") or {}).get("rounds", 0)
        return replace(plan, rounds=max(plan.rounds, int(begun)))
    return plan


@dataclass(frozen=True)
class Order:
    """An order to train: what, where, and how it is told."""

    plan: Plan
    enrolled: planfile.Enrolled
    folder: Path
    resume: bool
    options: Options
    as_json: bool
    quiet: bool
    staged: Staged | None = None

    def train(self) -> Run:
        """Return the federated run."""
        with self._watcher(self.folder.name, self._done()) as watcher:
            if self.staged is not None:
                people = self.enrolled.population
                return self.staged.train(self.plan, people, self.folder, self.resume, watcher)
            return simulate(
                self.plan,
                *self.enrolled,
                path=self.folder,
                resume=self.resume,
                options=replace(self.options, watch=watcher.watch),
            )

    def compare(self, run: Run) -> dict[str, Run]:
        """Return the runs of the same plan on pooled rows, and by each client alone."""
        found = {"federated": run}
        quiet = replace(self, quiet=True, as_json=False)
        with quiet._watcher("", 0) as watcher:
            if not self.as_json:
                screen.say("\n[dim]now the baselines: pooled rows, then every client alone …[/]")
            options = replace(self.options, watch=watcher.watch)
            return found | baselines(self.plan, *self.enrolled, self.folder, options)

    def conclude(self, run: Run, compared: dict[str, Run] | None) -> None:
        """Print the summary, as text or as JSON."""
        if self.as_json:
            screen.emit({"event": "summary"} | summary(run, compared))
            return
        if not self.quiet:
            screen.say()
        if compared:
            screen.say(_comparison(compared))
            screen.say()
        screen.say(_verdict(run, self.plan))
        screen.say(
            f"  [dim]run[/] {screen.path(run.path)}   [dim]next[/] muster report   muster ls"
        )

    def interrupted(self, words: Sequence[str]) -> None:
        """Say what is safe, and the command that goes on from there."""
        done = self._done(always=True)
        named = self.folder.name if self.folder.parent == locate.RUNS else str(self.folder)
        resume = ["--resume", named] if done else []
        again = shlex.join(["muster", "run", *_without(words, "--resume", "--path"), *resume])
        if self.as_json:
            facts = {"path": str(self.folder), "rounds": done, "resume": again}
            screen.emit({"event": "interrupted"} | facts)
            return
        kept = (
            f"round {done} of {self.plan.rounds} is committed" if done else "before round 1 ended"
        )
        screen.say(f"[bold yellow]stopped:[/] {kept}; go on with")
        screen.say(Text(f"  {again}"))

    def _watcher(self, title: str, done: int) -> Quiet | LiveRounds:
        if self.as_json or self.quiet:
            return Quiet(lines=self.as_json)
        return LiveRounds(title, self.plan.rounds, done, intro=self._intro())

    def _done(self, *, always: bool = False) -> int:
        """Count the rounds committed so far."""
        with contextlib.suppress(RunError):
            return Run(self.folder).round if self.resume or always else 0
        return 0

    def _intro(self) -> str:
        plan, people, done = self.plan, self.enrolled.population, self._done()
        rows = f", {int(people.sizes.sum())} rows" if not people.is_lazy else ""
        facts = f"{plan.task.layout.size} parameters · {len(people)} clients{rows}"
        algorithm, task = type(plan.algorithm).__name__, type(plan.task).__name__
        text = f"[bold]{algorithm}[/] on [bold]{task}[/] · {facts} · seed {plan.seed}"
        text += told(plan, len(people), people.sizes)
        goes_on = f"\n[dim]resuming {screen.path(self.folder)} after round {done}[/]"
        return text + goes_on if done else text


def told(plan: Plan, clients: int, sizes: Any) -> str:
    """Say what the budget of privacy affords, in a line of an introduction."""
    rounds = afforded(plan, Roster(tuple(range(clients)), lambda: sizes))
    if plan.budget is None or rounds is None:
        return ""
    most = f"epsilon {plan.budget.epsilon:g} at delta {plan.budget.delta:g}"
    short = f", and the plan has {plan.rounds}" if rounds < plan.rounds else ""
    whom = "" if plan.stages.releases() else " of any one client"
    return f"\n[dim]the budget of {most} is enough for {rounds} rounds{whom}{short}[/]"


def summary(run: Run, compared: dict[str, Run] | None = None) -> dict[str, Any]:
    """Return a run in a few fields."""
    last = run.history[-1] if run.history else {}
    found: dict[str, Any] = {
        "id": run.id,
        "path": str(run.path),
        "rounds": run.round,
        "metrics": run.metrics,
        "clients": {k: v for k, v in locate.spread(run).items() if k != "each"},
        "bytes_up": sum(r.get("bytes_up", 0) for r in run.history),
        "bytes_down": sum(r.get("bytes_down", 0) for r in run.history),
        "seconds": sum(r.get("seconds", 0.0) for r in run.history),
        "model": last.get("model"),
        "epsilon": locate.epsilon(run),
        "stopped": run.facts.get("stopped"),
        "measured": run.measured,
        "warning": run.warning,
    }
    if compared:
        found["baselines"] = {k: summary(r) for k, r in compared.items() if r is not run}
    return found


def _comparison(runs: dict[str, Run]) -> Any:
    metric = locate.metric(next(iter(runs.values())))
    rows = []
    for name, run in runs.items():
        spread = locate.spread(run).get(metric, {})
        values = (run.metrics.get(metric), spread.get("mean"), spread.get("worst"))
        label = "local-only" if name == "local" else name
        rows.append((label, *(screen.number(v) for v in values)))
    heads = ("", f"{metric}, test rows", "clients' mean", "worst client")
    return screen.table(heads, rows)


def _verdict(run: Run, plan: Plan) -> Text:
    facts = summary(run)
    metric = locate.metric(run)
    early = f" of {plan.rounds}" if run.round < plan.rounds else ""
    plural = "" if run.round == 1 and not early else "s"
    parts = [f"{run.round}{early} round{plural} in {screen.span(facts['seconds'])}"]
    if metric in run.metrics:
        parts.append(f"{metric} {screen.number(run.metrics[metric])} on {run.measured}")
    spread = locate.spread(run).get(metric)
    if spread:
        mean, worst = screen.number(spread["mean"]), screen.number(spread.get("worst"))
        named = "" if metric in run.metrics else f" {metric}"
        parts.append(f"clients' mean{named} {mean}, worst {worst}, on {locate.rows(run)}")
    parts.append(f"{screen.size(facts['bytes_up'])} up")
    lost = sum(bool(record.get("abandoned")) for record in run.history)
    if lost:
        parts.append(f"{lost} of them had too few replies and changed nothing")
    if facts["epsilon"] is not None:
        parts.append(f"epsilon {screen.number(facts['epsilon'])}")
    spent = run.facts.get("spent") or run.facts.get("halted")
    doubtful = lost or spent or run.warning
    sign = ("! ", "bold yellow") if doubtful else ("✓ ", "bold green")
    text = Text.assemble(sign, " · ".join(parts))
    if run.warning:
        text.append(f"\n! {run.warning}", "bold yellow")
    return text.append(f"\n! stopped: {facts['stopped']}", "bold yellow") if spent else text


def _explain(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        screen.emit(facts)
        return
    together = int(facts["together"])
    rows = (
        ("engine", f"{facts['engine']}: {facts['reason']}"),
        ("together", f"{together} client{'s' if together > 1 else ''} in one piece of work"),
        ("workers", f"{facts['workers']}: {facts['workers_reason']}"),
        ("model", f"{facts['parameters']} parameters"),
        ("upload", f"{screen.size(facts['upload_bytes'])} a client and round"),
        ("data", f"{facts['mean_rows']:.1f} rows a client, on average"),
    )
    screen.say(screen.table(("", ""), rows, left=2))


def _without(words: Sequence[str], *options: str) -> list[str]:
    """Return a command line without some options and their values."""
    kept = [word for word in words if not word.startswith(tuple(f"{o}=" for o in options))]
    for option in options:
        while option in kept:
            place = kept.index(option)
            del kept[place : place + 2]
    return kept
