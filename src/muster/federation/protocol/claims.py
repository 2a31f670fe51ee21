# SPDX-License-Identifier: Apache-2.0
"""A member's claims of its rows, training and measuring, held to plan and enrolment.

Pure functions. The door asks them before anything is stored, and whoever reads what is stored asks
them again: an older version may have stored it, a disk or a person may have changed it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from muster.batches import step_counts
from muster.federation.protocol.codec_json import TEXT, Id, Numbers
from muster.federation.protocol.limits import ANSWERS, LARGEST, ROWS, SLACK
from muster.federation.protocol.message import Hello, UpdateHeader
from muster.metrics.sums import HELD_OUT
from muster.plan import Plan
from muster.security.refusal import Refused, malformed
from muster.store.records import Assignment, Kind, Member, Standing
from muster.types import ClientId

__all__ = [
    "Claims",
    "agreed",
    "check_hello",
    "check_measured",
    "check_training",
    "check_weight",
    "claims_of",
    "measures_of",
    "odd_member",
    "possible_rows",
    "sound",
]

Ranges = Mapping[str, tuple[float, float]]
Weigh = Callable[[int, int], float]

TRAINING = {"rows", "loss", "steps", "drift"}  # the metrics of a training, or none of them
UNKNOWN = (-np.inf, np.inf)
SHARE = (0.0, 1.0)  # of a row that counts or does not


def _any(rows: int) -> int:
    return 1 << 50


@dataclass(frozen=True)
class Claims:
    """The claims that a plan lets its members make.

    `measures` are the metrics of an evaluation and the range of each for one row, None where only
    the sites know them; `loss` is the range of a training's; `steps(rows)` the most local steps of
    a round; `told` says whether metrics of a training leave a site at all; `masked` that its
    rows are not known from its enrolment.
    """

    measures: Ranges | None = None
    loss: tuple[float, float] = UNKNOWN
    steps: Callable[[int], int] = _any
    told: bool = True
    masked: bool = False


def claims_of(plan: Plan) -> Claims:
    """Return the claims that this plan lets its members make."""
    local, secure = plan.local, plan.secure

    def steps(rows: int) -> int:
        return int(step_counts(np.array([rows]), local.epochs, local.steps, local.batch)[0])

    measures = measures_of(plan)
    told = local.reports and (secure is None or secure.metrics == "public")
    loss = (measures or {}).get("loss", UNKNOWN)
    return Claims(measures, loss, steps, told, masked=secure is not None)


def measures_of(plan: Plan) -> Ranges | None:
    """Return the sums of an evaluation by name, each with its range for one row; None if unknown.

    Ranges are those that the metrics declare; of all else any number may come.
    """
    if plan.sums is None:
        return None
    known = {
        f"{metric.name}/{name}": span
        for metric in plan.measured
        for name, span in metric.ranges.items()
    }
    known |= {HELD_OUT: SHARE} | ({"loss": (0.0, np.inf)} if plan.task.head.plain else {})
    return {name: known.get(name, UNKNOWN) for name in plan.sums if name != "rows"}


def check_hello(name: str, hello: Hello) -> None:
    """Raise `Refused` for an enrolment under another's name, or with rows that nobody has."""
    if hello.name != name:
        malformed("hello.name", hello.name, f"{name!r}, the name in the certificate")
    if not 1 <= hello.rows <= ROWS:
        malformed("hello.rows", hello.rows, f"the number of rows, from 1 to {ROWS}")


def check_training(metrics: Mapping[str, float], enrolled: Collection[int], claims: Claims) -> None:
    """Raise `Refused` for metrics of a training on other rows than those `enrolled`, if known.

    No metrics are well: a site's policy may keep them.

    >>> check_training({}, (), Claims())
    >>> check_training({"rows": 3.0, "loss": 1.5, "steps": 2.0, "drift": 0.1}, (3,), Claims())
    """
    what = "update.metrics"
    if not metrics:
        return
    if not claims.told:
        malformed(what, ", ".join(metrics), "none: this plan keeps them with the sites")
    _names(what, metrics, TRAINING)
    rows = _rows(what, metrics, ROWS)
    if not claims.masked and rows not in enrolled:
        said = " or ".join(map(str, sorted(enrolled)))
        malformed(f"{what}['rows']", rows, f"{said}, the rows that it enrolled with")
    most = claims.steps(rows)
    if not (0 <= metrics["steps"] <= most and metrics["steps"].is_integer()):
        malformed(f"{what}['steps']", metrics["steps"], f"a whole number of steps, up to {most}")
    _within(f"{what}['loss']", metrics["loss"], rows, claims.loss)
    _within(f"{what}['drift']", metrics["drift"], rows, (0.0, np.inf))


def check_measured(metrics: Mapping[str, float], enrolled: int, claims: Claims) -> None:
    """Raise `Refused` for what are no sums of the plan's metrics over some rows.

    The rows may be others than those trained on; a row may hold several answers.

    >>> check_measured({"rows": 3.0, "accuracy": 2.0}, 3, Claims({"accuracy": (0.0, 1.0)}))
    """
    what = "measured.metrics"
    if claims.measures is not None:
        _names(what, metrics, {"rows", *claims.measures})
    rows = _rows(what, metrics, ROWS if claims.masked else min(ROWS, ANSWERS * enrolled))
    for name, value in metrics.items():
        if name != "rows":
            _within(f"{what}[{name!r}]", value, rows, (claims.measures or {}).get(name, UNKNOWN))


def check_weight(weight: float, rows: int, times: int, weigh: Weigh) -> None:
    """Raise `Refused` for another weight than the plan gives these rows, drawn so often."""
    given = weigh(rows, times)
    if weight != given:
        malformed("update.weight", weight, f"{given:g}, what the plan gives {rows} rows")


def possible_rows(rows: Any) -> int:
    """Return a number of rows that an earlier version let in, as the nearest that this one does.

    >>> possible_rows(1 << 50) == ROWS, possible_rows(-3), possible_rows("many")
    (True, 1, 1)
    """
    whole = isinstance(rows, int) and not isinstance(rows, bool)
    return min(max(rows, 1), ROWS) if whole else 1


def odd_member(member: Member) -> str:
    """Say why a stored member cannot be one, or nothing.

    >>> odd_member(Member("a", "a", 3)), odd_member(Member("a", "a", 0))
    ('', 'its rows are 0')
    """
    stored: Any = member
    if not (isinstance(stored.name, str) and stored.name):
        return "it has no name"
    if not isinstance(stored.certificate, str):
        return "its certificate is no text"
    try:
        Id().read(member.client, "its client id")
    except Refused as refused:
        return refused.text
    return "" if possible_rows(member.rows) == member.rows else f"its rows are {member.rows!r:.40}"


def sound(
    seat: Assignment | None, client: ClientId, kind: Kind, times: int, claims: Claims, weigh: Weigh
) -> Assignment:
    """Return a stored seat as it is, or that of a client left out for its odd record, and why."""
    try:
        if seat is None:
            malformed("its seat", None, "one for everybody who was invited")
        _stored(seat, kind, times, claims, weigh)
    except Refused as refused:
        why = f"what is stored of it cannot have been let in: {refused.text}"
        return Assignment(client, "failed", "record", why[:TEXT])
    return seat


def agreed(each: Sequence[tuple[ClientId, Mapping[str, float]]]) -> frozenset[ClientId]:
    """Return the clients whose sums have the names that most have; of equally many, the first.

    >>> sorted(agreed([("a", {"rows": 1}), ("b", {"rows": 1, "f1": 1}), ("c", {"rows": 2})]))
    ['a', 'c']
    """
    names = Counter(frozenset(metrics) for _, metrics in each)
    most = next((found for found, _ in names.most_common(1)), frozenset())
    return frozenset(client for client, metrics in each if metrics.keys() == most)


def _stored(seat: Assignment, kind: Kind, times: int, claims: Claims, weigh: Weigh) -> None:
    if seat.standing not in get_args(Standing):
        malformed("its standing", seat.standing, ", ".join(get_args(Standing)))
    for name in ("reason", "text"):
        if not isinstance(getattr(seat, name), str):
            malformed(f"its {name}", getattr(seat, name), "text")
    if seat.standing != "arrived":
        return
    metrics = Numbers().read(seat.metrics, "its metrics")
    if kind == "evaluate":
        check_measured(metrics, ROWS, claims)
        return
    counts = {int(rows)} if (rows := metrics.get("rows", 0.0)).is_integer() else ()
    check_training(metrics, counts, claims)
    if claims.masked:
        return
    UpdateHeader("stored", 1, seat.digest, seat.size, seat.weight, metrics)  # the rules of the wire
    most = weigh(ROWS, times)
    if not 0 < seat.weight <= most:
        malformed("its weight", seat.weight, f"a number above 0, at most {most:g}")


def _names(what: str, metrics: Mapping[str, float], names: Collection[str]) -> None:
    if metrics.keys() != names:
        malformed(what, ", ".join(metrics), f"{', '.join(sorted(names))}, and no others")


def _rows(what: str, metrics: Mapping[str, float], most: int) -> int:
    rows = metrics.get("rows", 0.0)
    if not (1 <= rows <= most and rows.is_integer()):
        malformed(f"{what}['rows']", rows, f"a whole number of rows, from 1 to {most}")
    return int(rows)


def _within(what: str, value: float, rows: int, span: tuple[float, float]) -> None:
    """Refuse a sum over rows each of which must have a value in this range."""
    low = max(-LARGEST, (span[0] - SLACK) * rows)
    high = min(LARGEST, (span[1] + SLACK) * rows)
    if not low <= value <= high:
        malformed(what, value, f"a sum over {rows} rows from {low:g} to {high:g}")
