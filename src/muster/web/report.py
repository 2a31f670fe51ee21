# SPDX-License-Identifier: Apache-2.0
"""The report of one run: one HTML file that a hospital's board can read and a researcher check."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from muster.runs.privacy.facts import statements
from muster.runs.run import Run
from muster.web import page, plots
from muster.web.headline import header, heading, result
from muster.web.page import Markup
from muster.web.reading import (
    best,
    call,
    clients,
    duration,
    each,
    latest,
    metric_names,
    number,
    plural,
    primary,
    rows,
    series,
    size,
    spreads,
    troubles,
)

__all__ = ["write"]

LISTED = 12  # most clients in the table of clients
ROWS = 200  # most rows of the table of rounds, and of the table of failures
TOLD = (
    "plan",
    "engine",
    "versions",
    "metrics",
    "population",
    "stopped",
    "spent",
    "schema",
    "privacy",
    "ledger",
    "examples",
    "rollbacks",
    "raised",
    "remembers",
)
TITLES = {"local": "local-only"}  # of baselines, where the folder's name says too little
DIRECTIONS = (("bytes_up", "sent up"), ("bytes_down", "sent down"))


def write(run: Run, path: Path | None = None, baselines: Mapping[str, Run] | None = None) -> Path:
    """Write the run's report and return its path, `report.html` in the run's folder by default.

    `baselines` are runs to compare with, by title ("centralized", "local-only"); by default
    those in the folders of `run.path / "baselines"`. The same run gives the same bytes. Raises
    `MissingExtra` without matplotlib.
    """
    path = Path(path) if path is not None else run.path / "report.html"
    if baselines is None:
        found = sorted((run.path / "baselines").glob("*/run.db"))
        baselines = {TITLES.get(db.parent.name, db.parent.name): Run(db.parent) for db in found}
    parts = (header(run, baselines), *_sections(run, baselines))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page.page(f"{heading(run)} · {run.id}", parts), encoding="utf-8")
    return path


def _sections(run: Run, baselines: Mapping[str, Run]) -> Iterator[Markup]:
    yield page.section("Result", *result(run, baselines))
    if run.trained:
        yield page.section("Metric by round", *_metrics(run, baselines))
        yield page.section("How it differs between clients", *_spread(run))
    yield page.section("Who holds what", *_holdings(run))
    if run.trained:
        yield page.section("Local training", *_training(run))
        yield page.section("Bytes and time", *_cost(run))
    if run.facts.get("privacy") or run.facts.get("examples"):
        yield page.section("Privacy", *_privacy(run))
    yield page.section("Clients that did not deliver", *_troubles(run))
    yield page.section("Plan and environment", *_plan(run))
    if run.trained:
        yield page.section("Rounds", _rounds(run))


def _metrics(run: Run, baselines: Mapping[str, Run]) -> Iterator[Markup]:
    drawn = []
    for name in metric_names(run.history)[:6]:
        points = series(run.history, name)
        if not points:
            continue
        ends = {title: latest(one.history, name) for title, one in baselines.items()}
        known = {title: v for title, v in ends.items() if v is not None and math.isfinite(v)}
        top, lower = best(points, run.directions.get(name)), run.directions.get(name)
        caption = ""
        if top is not None:
            better = "lower" if lower else "higher"
            caption = f"Best {number(top[1])} in round {top[0]} ({better} is better)."
        on = run.measured or "test rows"
        drawn.append(page.figure(plots.metric(points, name, known, on), caption))
    yield page.figures(*drawn, instead="The model was not evaluated on test rows.")


def _spread(run: Run) -> Iterator[Markup]:
    drawn = []
    for name in metric_names(run.history)[:4]:
        points = spreads(run.history, name)
        if points:
            of = next(r["clients"] for r in run.history if r["round"] == points[-1][0])
            asked = f"{plural(of['count'], 'client')}, {of.get('on', 'own rows')}"
            caption = f"Round {points[-1][0]}: {asked}."
            drawn.append(page.figure(plots.spread(points, name), caption))
    telling = primary(run.history) or ""
    round, values = each(run.history, telling)
    if values and telling in run.directions:
        lower = run.directions[telling]
        worst = (max if lower else min)(values, key=lambda pair: pair[1])
        caption = f"Round {round}. Worst: {worst[0]} with {number(worst[1])}."
        drawn.append(page.figure(plots.clients(values, telling, lower=lower), caption))
    yield page.figures(*drawn, instead="The model was not evaluated on the clients' own rows.")


def _holdings(run: Run) -> Iterator[Markup]:
    population = run.facts.get("population")
    if not population or not population.get("clients"):
        yield page.paragraph("This run did not record who holds how many rows.")
        return
    held, (count, _) = population["rows"], clients(run)
    listed = len(population["clients"])
    text = (
        f"{plural(count, 'client')}, {population.get('total', sum(held)):,} rows; the smallest "
        f"{'shown ' if listed < count else ''}{min(held):,}, the largest {max(held):,}."
    )
    if population.get("skew") is not None:
        text += (
            f" Label skew is {population['skew']:.2f} "
            f"(none: every client has the same mix of labels; near one: clients share no label)."
        )
    if listed < count:
        text += f" The picture shows {listed:,} of them."
    yield page.paragraph(text)
    picture = page.figure(plots.holdings(population))
    yield page.figures(picture, *([_clients(run, population)] if listed <= LISTED else []))


def _clients(run: Run, population: Mapping[str, Any]) -> Markup:
    """Show few clients as a table: rows, share of all rows, and the metric's last value."""
    name = primary(run.history) or ""
    last = {str(client): value for client, value in each(run.history, name)[1]}
    everything = sum(population["rows"])
    cells = [
        [client, f"{held:,}", f"{held / everything:.1%}", number(last.get(str(client)))][
            : 4 if last else 3
        ]
        for client, held in zip(population["clients"], population["rows"], strict=True)
    ]
    return page.table(["client", "rows", "of all rows", *([name] if last else [])], cells)


def _training(run: Run) -> Iterator[Markup]:
    wanted = (("loss", "training loss"), ("drift", "drift: how far clients move from the model"))
    parts = [(title, p) for name, title in wanted if (p := series(run.history, name, "train"))]
    if parts:
        drawn = [plots.training(p, title, place) for place, (title, p) in enumerate(parts)]
        yield page.figures(*map(page.figure, drawn))
    lost = [r["round"] for r in run.history if r.get("train") and not _finite(r["train"])]
    if lost:
        yield page.paragraph(f"The training loss or drift was not finite in {_listed(lost)}.")
    abandoned = [record["round"] for record in run.trained if record.get("abandoned")]
    if abandoned:
        yield page.paragraph(
            f"Too few clients replied, and the model was left as it was, in {_listed(abandoned)}."
        )
    empty = [record["round"] for record in run.trained if not record.get("invited")]
    if empty:
        yield page.paragraph(f"No client was drawn in {_listed(empty)}.")
    if not parts and not (lost or abandoned or empty):
        yield page.paragraph("No training numbers were recorded.")


def _finite(numbers: Mapping[str, float]) -> bool:
    return all(math.isfinite(numbers[name]) for name in ("loss", "drift") if name in numbers)


def _listed(found: list[int]) -> str:
    some = ", ".join(map(str, found[:12])) + (" …" if len(found) > 12 else "")
    return f"round {some}" if len(found) == 1 else f"{len(found):,} rounds ({some})"


def _cost(run: Run) -> Iterator[Markup]:
    parts = {
        title: [(r["round"], float(r[name])) for r in run.trained if r.get(name) is not None]
        for name, title in DIRECTIONS
    }
    parts = {title: points for title, points in parts.items() if points}
    drawn = [page.figure(plots.traffic(parts))] if parts else []
    seconds = [(r["round"], r["seconds"]) for r in run.trained if r.get("seconds") is not None]
    if seconds:
        drawn.append(page.figure(plots.pace(seconds), "Training and evaluation together."))
    yield page.figures(*drawn, instead="No bytes or times were recorded.")


def _privacy(run: Run) -> Iterator[Markup]:
    made = statements(run)
    for line in (line for one in made for line in (one.claim, *one.reasons)):
        yield page.paragraph(line)
    if run.facts.get("spent"):
        yield page.paragraph(f"The run was stopped by its budget: {run.facts['stopped']}.")
    points = [(r["round"], r["privacy"]["epsilon"]) for r in run.history if r.get("privacy")]
    if points:
        yield page.figures(page.figure(plots.training(points, "epsilon so far", 2)))
    for one in made:
        listing = page.table(["item", "statement"], map(list, one.items.items()), words=2)
        yield page.details(f"The statement about one {one.unit}, item by item", listing)


def _troubles(run: Run) -> Iterator[Markup]:
    found = troubles(run.history)
    if not found:
        yield page.paragraph(_delivered(run))
        return
    kinds = [kind for *_, kind, _ in found]
    counts = ", ".join(f"{kinds.count(kind):,} {kind}" for kind in dict.fromkeys(kinds))
    more = f"; the first {len(found) - ROWS:,} are not shown" if len(found) > ROWS else ""
    yield page.paragraph(f"Of the invited clients, {counts}{more}.")
    cells = [[round, client, kind, text or "–"] for round, client, kind, text in found[-ROWS:]]
    listing = page.table(["round", "client", "what", "why"], cells, words=4)
    yield listing if len(cells) <= 10 else page.details(f"Show {len(cells)} answers", listing)


def _delivered(run: Run) -> str:
    """Say how invitations and accepted replies compare when no reason is recorded."""
    if not run.trained:
        return "No client was invited yet."
    invited, accepted = (
        sum(len(record.get(name, ())) for record in run.history) for name in ("invited", "accepted")
    )
    if accepted >= invited:
        return "Every invited client delivered."
    return f"{invited - accepted:,} of {plural(invited, 'invitation')} led to no accepted reply."


def _plan(run: Run) -> Iterator[Markup]:
    plan = run.facts.get("plan")
    for one in run.facts.get("rollbacks") or ():
        why = f"{': ' if one['reason'] else ''}{one['reason']}"
        if "lost" in one:
            yield page.paragraph(
                f"The folder was put back to a copy that ended after round {one['to']}, as "
                f"{one['by']} said on {one['at']}{why}. Rounds up to {one['lost']} are lost, and "
                f"stay charged."
            )
            continue
        yield page.paragraph(
            f"The run went back from round {one['from']} to round {one['to']} on {one['at']}, by "
            f"{one['by']}{why}. What came after is superseded."
        )
    if plan:
        yield page.details(
            "The plan, field by field",
            page.table(
                ["field", "value"],
                rows(plan),
                "Everything that defines this run.",
                words=2,
            ),
        )
    else:
        yield page.paragraph("This run did not record its plan.")
    facts = {"engine": run.facts.get("engine"), **(run.facts.get("versions") or {})}
    facts |= {name: fact for name, fact in run.facts.items() if name not in TOLD}
    model = next((r["model"] for r in reversed(run.history) if r.get("model")), None)
    if model:
        facts["SHA-256 of the model's parameters"] = model
    known = [[name, call(fact)] for name, fact in facts.items() if fact is not None]
    if known:
        yield page.table(["environment", ""], known, words=2)


def _rounds(run: Run) -> Markup:
    step = -(-len(run.trained) // ROWS)
    shown = run.trained[::-1][::step][::-1]
    name = primary(run.history)
    head = ["round", "invited", "accepted", "training loss", "drift", "sent up", "time"]
    cells = [_line(record, name) for record in shown]
    caption = "Every round." if step == 1 else f"Every {step} rounds, up to the last."
    inner = page.table([*head, *([name, f"{name}, worst client"] if name else [])], cells, caption)
    return page.details(f"Show {len(shown)} of {len(run.trained)} rounds", inner)


def _line(record: Mapping[str, Any], name: str | None) -> list[str]:
    train = record.get("train") or {}
    cells = [
        f"{record['round']}{' (abandoned)' if record.get('abandoned') else ''}",
        number(len(record.get("invited", ()))),
        number(len(record.get("accepted", ()))),
        number(train.get("loss")),
        number(train.get("drift")),
        size(record.get("bytes_up")),
        duration(record.get("seconds")),
    ]
    if name:
        worst = ((record.get("clients") or {}).get(name) or {}).get("worst")
        cells += [number((record.get("metrics") or {}).get(name)), number(worst)]
    return cells
