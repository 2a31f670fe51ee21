# SPDX-License-Identifier: Apache-2.0
"""Several runs side by side: what differs between their plans, and what came of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from muster.errors import RunError
from muster.plan.registry import differences
from muster.runs.run import Run
from muster.web import page, plots
from muster.web.drawing import plain
from muster.web.reading import (
    Points,
    best,
    call,
    duration,
    latest,
    metric_names,
    number,
    series,
    size,
    total,
)

__all__ = ["table", "write"]


def table(runs: Sequence[Run], metric: str | None = None) -> list[dict[str, Any]]:
    """Return one row per run, as plain data.

    "id", "algorithm", "differs" (the plan's fields in which the runs differ, with this run's
    values, and "overridden" where one went on with another plan), "rounds", "metric", "lower"
    (whether less of it is better), "last", "best", "best_round", "goal" (the worst of the runs'
    best values), "rounds_to_goal", "bytes_up", "bytes_to_goal", "seconds"; None where unknown or
    not finite. The metric is of test rows where any run has it so, else the mean over clients;
    nothing is the best where no run says which way is better.

    Raises `RunError` for no runs, or a metric that none of them has.
    """
    name, curves = _curves(runs, metric)
    lower = _lower(runs, name)
    tops = [best(points, lower) for points in curves]
    bests = [top[1] for top in tops if top]
    goal = (max if lower else min)(bests) if bests else None
    differs = _differs(runs)
    found = []
    for id, run, points, top, fields in zip(_ids(runs), runs, curves, tops, differs, strict=True):
        reached = next((round for round, v in points if _reaches(v, goal, lower)), None)
        way = [
            record for record in run.trained if reached is not None and record["round"] <= reached
        ]
        found.append(
            {
                "id": id,
                "algorithm": (_plan(run).get("algorithm") or {}).get("class"),
                "differs": fields,
                "rounds": run.round,
                "metric": name,
                "lower": lower,
                "last": _last(run, points, name),
                "best": top[1] if top else None,
                "best_round": top[0] if top else None,
                "goal": goal,
                "rounds_to_goal": reached,
                "bytes_up": total(run.history, "bytes_up"),
                "bytes_to_goal": total(way, "bytes_up"),
                "seconds": total(run.history, "seconds"),
            }
        )
    return found


def write(runs: Sequence[Run], path: Path, metric: str | None = None) -> Path:
    """Write one page with a plot and a table of all runs, and return its path.

    Raises `RunError` as `table` does, and `MissingExtra` without matplotlib.
    """
    lines = table(runs, metric)
    name, points = _curves(runs, metric)
    known = {line["id"]: p for line, p in zip(lines, points, strict=True) if p}
    parts = [page.header("Comparison", f"{len(runs)} federated training runs", _sentence(lines))]
    if name and known:
        lower = _lower(runs, name)
        caption = "" if lower is None else f"{'Lower' if lower else 'Higher'} is better."
        if len(known) > 8:
            caption += f" The {len(known) - 8} worst of {len(known)} runs are not named."
        picture = page.figure(plots.curves(known, name, lower=bool(lower)), caption)
        parts.append(page.section("Metric by round", page.figures(picture)))
    parts.append(page.section("Runs", _listing(lines)))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page.page("Comparison of runs", parts), encoding="utf-8")
    return path


def _lower(runs: Sequence[Run], name: str | None) -> bool | None:
    """Return whether less of a metric is better, by the first run that says so."""
    return next((run.directions[name] for run in runs if name in run.directions), None)


def _curves(runs: Sequence[Run], metric: str | None) -> tuple[str | None, list[Points]]:
    """Return the metric that is compared, and each run's values of it by round."""
    if not runs:
        raise RunError("no runs were given to compare; name at least one, see `muster ls`")
    names = {name: None for run in runs for name in metric_names(run.history)}
    if metric is not None and metric not in names:
        known = ", ".join(names) or "none: they were not evaluated"
        raise RunError(f"no run has the metric {metric!r}; the runs have {known}")
    name = metric or next(iter(names), None)
    if name is None:
        return None, [[] for _ in runs]
    central = [series(run.history, name) for run in runs]
    if any(central):
        return name, central
    means = [
        [
            {"round": record["round"], "metrics": {name: spread["mean"]}}
            for record in run.history
            if (spread := (record.get("clients") or {}).get(name))
        ]
        for run in runs
    ]
    return name, [series(history, name) for history in means]


def _last(run: Run, points: Points, name: str | None) -> float | None:
    """Return the last value, unless the last evaluation gave no finite one."""
    over = "metrics" if series(run.history, name or "") else "mean"
    value = latest(run.history, name or "", over)
    return points[-1][1] if points and value is not None and math.isfinite(value) else None


def _reaches(value: float, goal: float | None, lower: bool | None) -> bool:
    if goal is None:
        return False
    return value <= goal if lower else value >= goal


def _plan(run: Run) -> dict[str, Any]:
    return run.facts.get("plan") or {}


def _ids(runs: Sequence[Run]) -> list[str]:
    """Return folder names; with the folder above, then a number, where two runs share one."""
    ids = [run.id for run in runs]
    if len(set(ids)) < len(ids):
        ids = [f"{run.path.parent.name}/{run.id}" for run in runs]
    if len(set(ids)) < len(ids):
        ids = [f"{id} ({place})" for place, id in enumerate(ids, 1)]
    return ids


def _differs(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return for each run its values of the fields in which any plan differs from the first."""
    plans = [_plan(run) for run in runs]
    first = next((plan for plan in plans if plan), {})
    names = {name: None for plan in plans if plan for name, *_ in differences(first, plan) if name}
    outer = [n for n in names if not any(n.startswith(f"{other}.") for other in names)]
    found = [{name: _field(plan, name) for name in outer} for plan in plans]
    words = [_overridden(run) for run in runs]
    if any(words):
        found = [f | {"overridden": word} for f, word in zip(found, words, strict=True)]
    return found


def _overridden(run: Run) -> str | None:
    """Say after which rounds a run went on with another plan than before, and in what."""
    past = run.facts.get("overrides") or ()
    return "; ".join(f"after round {o['after']}: {', '.join(o['changed'])}" for o in past) or None


def _field(value: Any, name: str) -> Any:
    """Return the value of a dotted field; a key may hold dots itself."""
    if not name:
        return value
    if isinstance(value, dict):
        for key, part in value.items():
            if name == key or name.startswith(f"{key}."):
                return _field(part, name[len(key) + 1 :])
    return None


def _sentence(lines: Sequence[dict[str, Any]]) -> str:
    name = lines[0]["metric"]
    ranked = [line for line in lines if line["best"] is not None]
    if not ranked:
        return "None of these runs was evaluated."
    top = (min if lines[0]["lower"] else max)(ranked, key=lambda line: line["best"])
    text = f"{top['id']} has the best {name}: {number(top['best'])} in round {top['best_round']}."
    quickest = min(ranked, key=lambda line: line["rounds_to_goal"])
    if len(ranked) > 1:
        everybody = "Both" if len(ranked) == 2 else f"All {len(ranked)}"
        rounds = quickest["rounds_to_goal"]
        text += (
            f" {everybody} reach {number(quickest['goal'])}; {quickest['id']} does so first, "
            f"after {rounds} round{'s' if rounds > 1 else ''}."
        )
    return text


def _listing(lines: Sequence[dict[str, Any]]) -> page.Markup:
    fields, name = list(lines[0]["differs"]), lines[0]["metric"] or "metric"
    goal = number(lines[0]["goal"])
    kind = [] if "algorithm" in fields else ["algorithm"]
    head = [
        "run",
        *kind,
        *fields,
        "rounds",
        f"last {name}",
        f"best {name}",
        "in round",
        f"rounds to {goal}",
        "sent up",
        f"sent up to {goal}",
        "time",
    ]
    cells = [
        [
            line["id"],
            *(line[name] or "–" for name in kind),
            *(plain(call(line["differs"][field]), 80) for field in fields),
            number(line["rounds"]),
            number(line["last"]),
            number(line["best"]),
            number(line["best_round"]),
            number(line["rounds_to_goal"]),
            size(line["bytes_up"]),
            size(line["bytes_to_goal"]),
            duration(line["seconds"]),
        ]
        for line in lines
    ]
    caption = f"{goal} is the {name} that every run reaches: the worst of their best values."
    return page.table(head, cells, caption if goal != "–" else "", words=1 + len(kind + fields))
