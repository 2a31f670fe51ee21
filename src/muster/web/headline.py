# SPDX-License-Identifier: Apache-2.0
"""The top of a report: the main finding in a sentence, and the final numbers in one table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from muster.runs.run import Run
from muster.web import page
from muster.web.page import Markup
from muster.web.reading import (
    best,
    clients,
    duration,
    ending,
    latest,
    metric_names,
    number,
    primary,
    series,
    size,
    total,
)

__all__ = ["header", "heading", "result", "where"]


def heading(run: Run) -> str:
    """Return the title of the run: its algorithm."""
    return str(((run.facts.get("plan") or {}).get("algorithm") or {}).get("class") or "Run")


def header(run: Run, baselines: Mapping[str, Run]) -> Markup:
    """Return the page's subject, and the main finding in a sentence."""
    task = (run.facts.get("plan") or {}).get("task")
    kind = str(task.get("class", "")) if isinstance(task, dict) else str(task or "")
    kind = kind.removeprefix("tasks.").split(":")[-1]
    about = " · ".join(part for part in ("Federated training run", run.id, kind) if part)
    return page.header(heading(run), about, _sentence(run, baselines))


def _sentence(run: Run, baselines: Mapping[str, Run]) -> str:
    """Return the main finding in words; over clients where there was no central evaluation."""
    name = primary(run.history)
    if not run.trained or name is None:
        return ending(run) + (" The model was never evaluated." if run.trained else "")
    over = "metrics" if latest(run.history, name) is not None else "mean"
    value = latest(run.history, name, over)
    if value is None or not math.isfinite(value):
        why = f" {run.warning}." if run.warning else ""
        return f"The last {name} is not a finite number.{why} {ending(run)}"
    text = f"{_whose(run)} {_an(name)} of {number(value)} {where(run, over)}"
    told = []
    for beside, other in baselines.items():
        reference = latest(other.history, name, over)
        if reference is not None and math.isfinite(reference):
            gap = value - reference
            side = "above" if gap > 0 else "below"
            told.append(f"{number(abs(gap))} {side} {beside}" if gap else f"equal to {beside}")
    doubt = f" Beware: {run.warning}." if run.warning else ""
    return text + (f": {' and '.join(told)}. " if told else ". ") + ending(run) + doubt


def _whose(run: Run) -> str:
    """Say whose model it is: with tensors of their own, the clients have one each."""
    share = (run.facts.get("plan") or {}).get("share", "*")
    own = share not in ("*", ["*"])
    return "The clients' own models reach" if own else "The shared model reaches"


def where(run: Run, over: str) -> str:
    """Say on which rows a value was measured: that of the last evaluation, or over clients."""
    if over == "metrics":
        return f"on {run.measured or 'test rows'}"
    seen = [r["clients"] for r in run.history if r.get("clients")]
    on = seen[-1].get("on") if seen else None
    return "as the mean over clients" + (f", on {on}" if on else "")


def _an(name: str) -> str:
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def result(run: Run, baselines: Mapping[str, Run]) -> Iterator[Markup]:
    """Yield the numbers that matter, and the final metrics against the baselines in one table."""
    count, enrolled = clients(run)
    name = primary(run.history)
    pairs = [
        ("rounds", f"{run.round:,}"),
        ("clients" if enrolled else "clients invited so far", f"{count:,}"),
    ]
    if name and (top := best(series(run.history, name), run.directions.get(name))):
        pairs.append((f"best {name} (round {top[0]})", number(top[1])))
    pairs += [
        ("sent by clients", size(total(run.history, "bytes_up"))),
        ("time", duration(total(run.history, "seconds"))),
    ]
    yield page.key_numbers(pairs)
    columns = [
        (text, metric, over)
        for metric in metric_names(run.history)[:4]
        for text, over in (
            (f"{metric}, test rows", "metrics"),
            (f"{metric}, mean of clients", "mean"),
            (f"{metric}, worst client", "worst"),
        )
        if latest(run.history, metric, over) is not None
    ]
    if columns:
        yield page.table(
            ["model after the last round", *(text for text, *_ in columns)],
            [
                [name, *(number(latest(one.history, m, over)) for _, m, over in columns)]
                for name, one in {f"{heading(run)} (this run)": run, **baselines}.items()
            ],
            f"{_measured(run)} A dash where a run was not evaluated that way.",
        )


def _measured(run: Run) -> str:
    """Say what the columns of the table were measured on, in a sentence or two."""
    seen = [r["clients"]["on"] for r in run.history if (r.get("clients") or {}).get("on")]
    parts = [f"Test rows: {run.measured}."] if run.measured else []
    return " ".join(parts + ([f"Clients: {seen[-1]}."] if seen else []))
