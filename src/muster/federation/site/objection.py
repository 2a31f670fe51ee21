# SPDX-License-Identifier: Apache-2.0
"""Objections of a site to what it is asked: its plan says no such thing, or its policy forbids it.

Pure functions of what was asked, of what the study's record knows, and of the plan as this site
holds it: nothing that a server says outranks them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from muster import keys
from muster.federation.protocol.message import Evaluate, TrainAssignment
from muster.federation.site.policy import Policy
from muster.federation.site.study import Begun, Known
from muster.plan import Plan
from muster.plan.secure import refused_session, sum_sizes
from muster.plan.told import told_of
from muster.types import ClientId, Turns

__all__ = ["Objection", "Rules", "planned", "to_measuring", "to_training"]


@dataclass(frozen=True)
class Objection:
    """An objection to doing something: the `rule` that it breaks, in a word, and a sentence.

    A server that only lags may ask for it as well where it is `passing`: it gets some time. One
    that `ends` is for a person: nothing can go on here.
    """

    rule: str
    text: str
    passing: bool = False
    ends: bool = False


@dataclass(frozen=True)
class Rules:
    """The rules of a site: its own plan and policy, the run that it joined, and as which client."""

    plan: Plan
    policy: Policy
    run: str
    client: ClientId

    @property
    def rounds(self) -> int:
        """The rounds of the run, with those that the policy adds."""
        return self.plan.rounds + self.policy.extra_rounds

    @property
    def trainings(self) -> int:
        """How often this site trains in the run at most, rounds that it trains again included."""
        return self.rounds + self.policy.repeated_rounds

    @property
    def measurings(self) -> int:
        """The same of evaluations."""
        more = self.policy.extra_rounds + self.policy.repeated_rounds
        return planned(self.plan) + more


def planned(plan: Plan) -> int:
    """Count the evaluations that the plan asks for.

    >>> from muster import Every, Local, algorithms, tasks
    >>> plan = Plan(tasks.numpy.LogisticRegression(2), algorithms.FedAvg(), Local(epochs=1),
    ...             rounds=7, evaluate=Every(3))
    >>> planned(plan)
    3
    """
    every = plan.evaluate.rounds
    return plan.rounds // every + bool(plan.rounds % every)


def to_training(
    task: TrainAssignment, begun: Begun | None, known: Known, rules: Rules, now: float
) -> Objection | None:
    """Say why this is not trained, or None; what was begun already goes on, for free.

    `now` is the wall clock in seconds.
    """
    if task.run != rules.run:
        return _foreign(task, rules)
    if begun is not None:
        if begun.accepted is not None:
            return Objection("settled", f"{_named(task)} is settled here", passing=True)
        return _differs(task, begun) or _back(task, known, known.latest - 1)
    if back := _back(task, known, max(known.latest, known.measured)):
        return back
    kept = rules.plan.remembers or rules.plan.secure is not None
    if kept and task.attempt > known.attempt and task.round <= known.settled:
        return Objection(
            "put back",
            f"the server was put back to round {task.round}, and what this site remembers is of "
            f"round {known.settled} or later, which the plan's algorithm or its secure sums cannot "
            f"go back from; restore a newer copy of the server, or begin a new run",
            ends=True,
        )
    if known.masked:
        return Objection(
            "masked",
            f"{_named(task)} was masked here under another attempt, and may be in a sum: a second "
            f"sum over the same round would show the difference, whatever repeated_rounds says; "
            f"the server goes on with the next round, or begins a new run",
        )
    if again := _again(task, known.done[0], known.again[0], rules, "trained"):
        return again
    if task.round > rules.rounds:
        return Objection(
            "rounds",
            f"round {task.round} is none of the {rules.plan.rounds} rounds of this site's plan"
            f"{_more(rules)}",
        )
    sampling = rules.plan.sampling
    if isinstance(sampling, Turns) and not sampling.turn(
        rules.client, task.round, keys.key(rules.plan.seed)
    ):
        return Objection(
            "turn", f"client {rules.client!r} has no turn in round {task.round} by {sampling}"
        )
    if known.trainings >= rules.trainings:
        return Objection(
            "trainings",
            f"this site has trained {known.trainings} times in the run, and its plan has "
            f"{rules.plan.rounds} rounds{_more(rules)}",
        )
    if rules.plan.secure is not None and task.times != 1:
        return Objection(
            "times",
            f"{_named(task)} was drawn {task.times} times, and a plan that masks its sums draws "
            f"nobody twice: no sum has room for such a weight",
        )
    drawn = _drawn(rules.plan)
    if task.peers < drawn and rules.policy.least_peers is None:
        return Objection(
            "peers",
            f"{task.peers} clients would be in the secure sum of {_named(task)}, and the plan "
            f"draws {drawn}; least_peers in site.toml allows a smaller one",
        )
    least = rules.policy.room.least
    if rules.plan.secure is not None and task.peers <= least:
        return Objection(
            "peers",
            f"{task.peers} clients would be in the secure sum of {_named(task)}, and the site's "
            f"policy asks for {least} beside this one",
        )
    if rules.plan.secure is not None and (few := refused_session(rules.plan, task.peers)):
        return Objection("peers", f"there is no secure sum of {_named(task)} by this plan: {few}")
    if rules.plan.secure is not None:
        sizes = sum_sizes(rules.plan, task.peers)
        if why := rules.policy.room.impossible(*sizes):
            return Objection("peers", f"not in the secure sum of {_named(task)}: {why}")
    return _unwanted(rules.policy, known.today[0], rules.policy.rounds_per_day, "rounds", now)


def _drawn(plan: Plan) -> int:
    """Count the clients that the plan's own draw puts into one secure sum; 0 where it says none."""
    count = plan.selection.traits.count
    return 0 if plan.secure is None or count is None else count // plan.secure.groups


def to_measuring(
    asked: Evaluate, begun: Begun | None, known: Known, rules: Rules, now: float
) -> Objection | None:
    """Say why this is not measured, or None; the same question again has the same answer."""
    if asked.run != rules.run:
        return _foreign(asked, rules)
    if hidden := _hidden(asked.round, rules):
        return hidden
    if begun is not None:
        return _differs(asked, begun)
    if back := _back(asked, known, max(known.latest - 1, known.measured)):
        return back
    if again := _again(asked, known.done[1], known.again[1], rules, "measured"):
        return again
    if known.measurings >= rules.measurings:
        return Objection(
            "evaluations",
            f"this site has measured {known.measurings} models in the run, and its plan has "
            f"{planned(rules.plan)} evaluations{_more(rules)}",
        )
    policy = rules.policy
    return _unwanted(policy, known.today[1], policy.evaluations_per_day, "evaluations", now)


def _foreign(asked: TrainAssignment | Evaluate, rules: Rules) -> Objection:
    return Objection("run", f"the run {asked.run} is not the one this site joined, {rules.run}")


def _differs(asked: TrainAssignment | Evaluate, begun: Begun) -> Objection | None:
    """Object to another question under the same name."""
    ours = begun.asked
    names = [part.name for part in fields(asked) if part.name != "lease"]
    other = [name for name in names if getattr(asked, name) != getattr(ours, name)]
    if not other:
        return None
    return Objection(
        "differs",
        f"{_named(asked)} was begun with another {', '.join(other)}; an assignment is done once",
    )


def _back(asked: TrainAssignment | Evaluate, known: Known, latest: int) -> Objection | None:
    """Object where the server stands before what this site has seen of it."""
    if asked.attempt < known.attempt:
        return Objection(
            "attempt",
            f"{_named(asked)} is over: this site has seen attempt {known.attempt}",
            passing=True,
        )
    if asked.attempt == known.attempt and asked.round <= latest:
        return Objection(
            "behind",
            f"{_named(asked)} was asked for after round {latest}; a server that was put back to an "
            f"older copy raises its attempt",
            passing=True,
        )
    return None


def _again(
    asked: TrainAssignment | Evaluate, done: int, again: int, rules: Rules, deed: str
) -> Objection | None:
    """Return whether a round that was done is asked for again, more often than the site allows.

    Only a server that says that it went back can ask so, and nothing shows that it did. Whether
    the first answer reached it is not asked: a site that was killed on its way does not know.
    """
    most = rules.policy.repeated_rounds
    if not done or again < most:
        return None
    before = f" and has {deed} {again} round{'' if again == 1 else 's'} again" if again else ""
    return Objection(
        "again",
        f"{_named(asked)} was {deed} here under another attempt{before}; a server that was put "
        f"back gets so many rounds again as repeated_rounds in site.toml says, {most} now",
    )


def _hidden(round: int, rules: Rules) -> Objection | None:
    """Object where metrics of this round stay with this site."""
    plan, policy = rules.plan, rules.policy
    told = told_of(plan, policy.keeps)
    if not told_of(plan).trained:
        masked = plan.secure is not None and plan.secure.metrics == "hidden"
        keeper = plan.secure if masked else plan.local.examples
        return Objection("metrics", f"{keeper} keeps metrics with the clients")
    if not told.trained:
        return Objection("metrics", "the site's policy keeps metrics here")
    if not told.measured:
        return Objection("unplanned", f"{plan.evaluate} asks no client to evaluate")
    if round > rules.rounds or not plan.evaluate.due(round, plan.rounds):
        return Objection("unplanned", f"{plan.evaluate} has no evaluation in round {round}")
    return None


def _unwanted(
    policy: Policy, today: int, most: int | None, what: str, now: float
) -> Objection | None:
    if most is not None and today >= most:
        return Objection(f"{what} a day", f"the site's policy allows {most} {what} a day")
    closed = policy.closed(now)
    return None if closed is None else Objection("hours", closed)


def _more(rules: Rules) -> str:
    extra = rules.policy.extra_rounds
    again = rules.policy.repeated_rounds
    added = f" and {extra} more by its policy" if extra else ""
    added += f", {again} of them again" if again else ""
    return f"{added}; a longer run needs extra_rounds in site.toml"


def _named(asked: TrainAssignment | Evaluate) -> str:
    return f"round {asked.round} (attempt {asked.attempt})"
