# SPDX-License-Identifier: Apache-2.0
"""A run's history, in the words and numbers of people."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from muster.plan import EarlyStopping, Target
from muster.plan.registry import short
from muster.runs.run import Run

__all__ = [
    "Points",
    "best",
    "call",
    "clients",
    "duration",
    "each",
    "ending",
    "latest",
    "metric_names",
    "number",
    "plural",
    "primary",
    "rows",
    "series",
    "size",
    "spreads",
    "total",
    "troubles",
]

Points = list[tuple[int, float]]  # (round, finite value)


def metric_names(history: Iterable[dict[str, Any]]) -> list[str]:
    """Return every metric that was evaluated, on test rows or by client; the loss last.

    >>> metric_names([{"round": 1, "metrics": {"loss": 1.0, "accuracy": 0.5}}])
    ['accuracy', 'loss']
    """
    names: dict[str, None] = {}
    for record in history:
        names |= dict.fromkeys(record.get("metrics") or {})
        spread = record.get("clients") or {}
        names |= dict.fromkeys(n for n, v in spread.items() if isinstance(v, dict))
    return sorted(names, key=lambda name: name == "loss")


def primary(history: Iterable[dict[str, Any]], asked: str | None = None) -> str | None:
    """Return the metric asked for, or the most telling one; None when nothing was evaluated."""
    return asked or next(iter(metric_names(history)), None)


def series(history: Iterable[dict[str, Any]], name: str, part: str = "metrics") -> Points:
    """Return a number by round, from `record[part][name]`, where it is there and finite."""
    return [
        (record["round"], float(value))
        for record in history
        if (value := (record.get(part) or {}).get(name)) is not None and math.isfinite(value)
    ]


def spreads(history: Iterable[dict[str, Any]], name: str) -> list[tuple[int, dict[str, float]]]:
    """Return a metric's spread over clients by round; a spread that is not finite is left out."""
    return [
        (record["round"], spread)
        for record in history
        if (spread := (record.get("clients") or {}).get(name))
        and all(math.isfinite(value) for value in spread.values())
    ]


def each(history: Sequence[dict[str, Any]], name: str) -> tuple[int, list[tuple[Any, float]]]:
    """Return the last round in which every client's own value was recorded, and the values."""
    for record in reversed(history):
        found = (record.get("clients") or {}).get("each")
        if found:
            values = [(c, float(m[name])) for c, m in found if name in m]
            return record["round"], [(c, v) for c, v in values if math.isfinite(v)]
    return 0, []


def latest(history: Sequence[dict[str, Any]], name: str, over: str = "metrics") -> float | None:
    """Return a metric's last value, finite or not: of test rows, or over clients ("mean", …)."""
    for record in reversed(history):
        found = (record.get("metrics") or {}).get(name)
        if over != "metrics":
            found = ((record.get("clients") or {}).get(name) or {}).get(over)
        if found is not None:
            return float(found)
    return None


def best(points: Points, lower: bool | None) -> tuple[int, float] | None:
    """Return the first round with the best value, and the value; `lower` says that less is better.

    None without points, or where a run does not say which way is better.
    """
    if not points or lower is None:
        return None
    sign = 1 if lower else -1
    return min(points, key=lambda point: (sign * point[1], point[0]))


def total(history: Iterable[dict[str, Any]], name: str) -> float | None:
    """Return a number summed over the rounds that have it; None when none has."""
    found = [record[name] for record in history if record.get(name) is not None]
    return sum(found) if found else None


def clients(run: Run) -> tuple[int, bool]:
    """Count the clients, and tell whether these are all enrolled ones (else those ever invited)."""
    population = run.facts.get("population")
    if population:
        return int(population.get("count", len(population["clients"]))), True
    return len({str(c) for record in run.history for c in record.get("invited", ())}), False


def troubles(history: Iterable[dict[str, Any]]) -> list[tuple[int, Any, str, str]]:
    """Return clients that were invited and gave nothing: (round, client, kind, reason)."""
    found = []
    for record in history:
        for kind in ("failed", "declined", "late"):
            for answer in record.get(kind, ()):
                words = (answer.get("stage"), answer.get("error") or answer.get("reason"))
                text = ": ".join(str(word) for word in words if word)
                found.append((record["round"], answer.get("client"), kind, text))
    return found


def ending(run: Run) -> str:
    """Say in one sentence how far the run came, and why it ended there."""
    done, planned = run.round, (run.facts.get("plan") or {}).get("rounds")
    if not done:
        return "No round has been committed yet."
    if run.facts.get("stopped"):
        return f"Stopped after {done} of {planned or '?'} rounds: {run.facts['stopped']}."
    if planned is None or done >= planned:
        return f"{_all(done)} completed." if planned else f"{plural(done, 'round')} committed."
    seen = [record["metrics"] for record in run.trained if record.get("metrics")]
    lower = run.directions
    for rule in run.facts["plan"].get("stop", ()):
        fields = {key: value for key, value in rule.items() if key != "class"}
        if fields.get("metric") not in lower:
            continue
        if rule.get("class") == "Target" and Target(**fields).met(seen, lower):
            why = f"{fields['metric']} reached its target of {number(fields['value'])}"
        elif rule.get("class") == "EarlyStopping" and EarlyStopping(**fields).met(seen, lower):
            why = f"{fields['metric']} had not improved in {fields['evaluations']} evaluations"
        else:
            continue
        return f"Stopped as planned after {done} of {planned} rounds: {why}."
    return f"{done} of {planned} planned rounds are committed; the run can be resumed."


def _all(done: int) -> str:
    return "The one planned round was" if done == 1 else f"All {done:,} planned rounds were"


def plural(count: int, noun: str) -> str:
    """Return a count and its noun.

    >>> plural(1, "client"), plural(1200, "round")
    ('1 client', '1,200 rounds')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def rows(value: Any, name: str = "") -> list[tuple[str, str]]:
    """Return a nested plan as (dotted field, value) rows; a node's row names its class.

    >>> rows({"class": "FedAvg", "server": {"class": "SGD", "rate": 1.0}}, "algorithm")
    [('algorithm', 'FedAvg'), ('algorithm.server', 'SGD'), ('algorithm.server.rate', '1.0')]
    """
    dot = f"{name}." if name else ""
    if isinstance(value, dict):
        found = [(name, str(value["class"]))] if "class" in value and name else []
        for key, part in value.items():
            found += rows(part, dot + key) if key != "class" else []
        return found
    if isinstance(value, list) and any(isinstance(part, dict) for part in value):
        return [row for n, part in enumerate(value, 1) for row in rows(part, f"{name}[{n}]")]
    return [(name, call(value))]


def call(value: Any) -> str:
    """Return a plan value as the call that makes it.

    >>> call({"class": "FedProx", "mu": 0.1})
    'FedProx(mu=0.1)'
    """
    if isinstance(value, dict):
        inner = ", ".join(f"{k}={call(v)}" for k, v in value.items() if k != "class")
        return f"{value.get('class', '')}({inner})"
    if isinstance(value, list):
        return "[" + ", ".join(map(call, value)) + "]" if value else "none"
    return "none" if value is None else short(str(value))


def number(value: Any) -> str:
    """Return a number as a table shows it; a dash for none.

    >>> number(0.912345), number(12), number(123456.7), number(None), number(0.9)
    ('0.9123', '12', '1.235e+05', '–', '0.9000')
    """
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    if not math.isfinite(value):
        return "not finite"
    return f"{value:.4f}" if 0.001 <= abs(value) < 10 or value == 0 else f"{value:.4g}"


def size(count: float | None) -> str:
    """Return bytes for people, in powers of ten.

    >>> size(1234567), size(999), size(None)
    ('1.23 MB', '999 B', '–')
    """
    if count is None:
        return "–"
    if count < 1000:
        return f"{count:.0f} B"
    power = min(int(math.log10(count) // 3), 5)
    return f"{count / 1000**power:.3g} {'kMGTP'[power - 1]}B"


def duration(seconds: float | None) -> str:
    """Return a time span for people.

    >>> duration(0.0123), duration(4.21), duration(250), duration(7500)
    ('12 ms', '4.2 s', '4 min 10 s', '2 h 05 min')
    """
    if seconds is None:
        return "–"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"
