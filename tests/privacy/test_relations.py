# SPDX-License-Identifier: Apache-2.0
"""A claim is put to the test through the stages that make it: two neighbours, many runs, one event.

For the neighbours that a statement names, no event may be more likely than (ε, δ) allows; and the
same recipe finds a claim false that is: a shift of two bounds, a draw of fixed size taken for one
of everybody or for coins, a rate too low, coins that are seen. Without noise, all cohorts of few
clients are tried, and none moves a sum further than the statement says.
"""

import math
import re
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import pytest

from muster import Every, Local, Plan, aggregation, algorithms, keys, sampling, tasks
from muster.pipeline import (
    AdaptiveClip,
    BandedNoise,
    Clip,
    Contract,
    DiscreteNoise,
    Field,
    LocalNoise,
    Noise,
    Pipeline,
    Quantize,
    SecureSum,
)
from muster.plan.private import charges
from muster.privacy import (
    Charge,
    PrivacyLedger,
    Release,
    Selection,
    StatementInputs,
    spent,
    statement,
)
from muster.privacy.matrix import square_root
from muster.rounds import drawn
from muster.types import Reply, Roster

DELTA, N, FAR = 1e-3, 20, 5.0  # updates are five bounds long, so that a clip has to hold them


def plan(draw, *stages, **fields):
    values = {
        "task": tasks.numpy.LinearRegression(1),
        "algorithm": algorithms.FedAvg(),
        "local": Local(steps=1),
        "sampling": draw,
        "pipeline": stages,
        "weighting": "equal",
        "aggregation": aggregation.Mean("expected"),
        "evaluate": Every(clients=0),
    }
    return Plan(**(values | fields))


def roster(count):
    return Roster(tuple(range(count)), lambda: np.ones(count, int))


@dataclass(frozen=True)
class Claim:
    """A claim about so many rounds of a plan: to whom it applies, and ε."""

    relation: str
    epsilon: float


def claimed(made, rounds, people=N):
    """Read off the statement, as its reader would."""
    ledger = PrivacyLedger(DELTA)
    for round in range(1, rounds + 1):
        for charge in charges(made, roster(people), "run"):
            ledger = ledger.enter(round, charge, people)
    how = ledger.charges[0].selection
    facts = StatementInputs(
        made.stages.releases(), how, people, ledger, "secret", enforced="the server"
    )
    return Claim(related(statement(facts).items["unit"]), ledger.epsilon)


def related(text):
    """Which of three relations a sentence means."""
    if "holds a client more" in text:
        return "one more"
    return "another" if "another one" in text else "zero"


def released(made, values, seed, rounds=1):
    """The first coordinate of each round's decoded sum, and who took part; `(rounds,)`.

    `values` are the updates of clients 0 to n − 1, in bounds; where too few came it is zero.
    """
    people, states = roster(len(values)), made.stages.init()
    rows = np.zeros((len(values), 2), np.float32)
    rows[:, 0] = np.asarray(values) * FAR
    found, cohorts, root = np.zeros(rounds), [], keys.key(seed)
    for round in range(1, rounds + 1):
        cohort, _ = drawn(made, people, None, round, root)
        cohorts.append(cohort.clients)
        total, states = added(made, cohort.clients, rows, states, root, round)
        found[round - 1] = 0.0 if total is None else total[0]
    return found, cohorts


def added(made, clients, rows, states, root, round, weights=None):
    """Clipped, weighted, encoded, summed, decoded: the vector of one round, and the states."""
    if made.needed(len(clients)) > len(clients):
        return None, states
    sent = tuple(state.shared for state in states)
    sizes = np.ones(len(clients)) if weights is None else np.asarray(weights)
    many = made.weights(sizes, (1,) * len(clients))
    draws = keys.Keys(root.at("encode", round), clients)
    payload, _ = made.stages.encode({"delta": rows[list(clients)]}, sent, None, draws, many)
    kinds = made.stages.empty_reply(made.dtype)
    summed = {n: r.sum(0) if len(clients) else kinds[n] for n, r in payload.items()}
    reply = Reply(clients, summed, made.sampling.share(roster(len(rows))) * len(rows))
    reply, states = made.stages.decode(reply, states, root.at("decode", round))
    return reply.payload["delta"].astype(float), states


def neighbours(relation, others, special=1.0):
    """The updates of two neighbours, of whom client 0 is in question: those with, and without it.

    The others all pull one way, which is the worst for a client that displaces one of them.
    """
    rest = [others] * (N - 1)
    return {
        "zero": ([special, *rest], [0.0, *rest]),
        "another": ([special, *rest], [-special, *rest]),
        "one more": ([*rest, others, special], [*rest, others]),
    }[relation]


def worst(one, two, epsilon):
    """δ that an event needs for sure: of 320 thresholds the worst, less five standard errors."""
    found = -math.inf
    for high, low in ((one, two), (two, one), (-one, -two), (-two, -one)):
        for event in np.quantile(np.concatenate([high, low]), np.linspace(0.02, 0.998, 80)):
            delta, error = needed(high > event, low > event, epsilon)
            found = max(found, delta - 5 * error)
    return found


def needed(hits, misses, epsilon):
    p, q, runs = np.mean(hits), np.mean(misses), len(hits)
    error = math.sqrt((p * (1 - p) + math.exp(2 * epsilon) * q * (1 - q)) / runs)
    return float(p - math.exp(epsilon) * q), error


def sums(made, values, runs, seed, rounds=1, bands=1, turns=None):
    """One number a run, the most telling: rounds whitened, and weighed by the client's turns."""
    c = np.zeros(rounds)
    c[: min(bands, rounds)] = square_root(bands)[:rounds]
    matrix = np.array([[c[i - j] if i >= j else 0.0 for j in range(rounds)] for i in range(rounds)])
    way = matrix @ (np.ones(rounds) if turns is None else np.asarray(turns, float))
    way /= np.linalg.norm(way)
    return np.array(
        [(matrix @ released(made, values, 10**6 * seed + i, rounds)[0]) @ way for i in range(runs)]
    )


DRAWS = {  # how the others pull, which is the worst
    "all": (sampling.All(), -1.0),
    "uniform 19": (sampling.Uniform(count=19), -1.0),
    "uniform 10": (sampling.Uniform(count=10), -1.0),
    "poisson .3": (sampling.Poisson(0.3), 0.0),
}
STAGES = {  # and how many runs
    "noise": ((Clip(1.0), Noise(2.0)), 4000),
    "rounded noise": ((Clip(1.0), Quantize(8), Noise(2.0)), 1000),
    "adaptive": ((AdaptiveClip(start=1.0), Noise(2.0)), 1000),
    "masked noise": ((Clip(1.0), Quantize(8), Noise(2.0), SecureSum()), 1000),
    "local": ((Clip(1.0), LocalNoise(1.5, DELTA)), 300),
}
SOUND = [
    *(
        (f"{d}, {m}", draw, others, stages, runs, {})
        for d, (draw, others) in DRAWS.items()
        for m, (stages, runs) in STAGES.items()
    ),
    *(
        (
            f"uniform 18, {law}, masked {masked}",
            sampling.Uniform(count=18),
            -1.0,
            (Clip(1.0), Quantize(8), DiscreteNoise(2.0, 18, 0.1, law), *([SecureSum()] * masked)),
            150,
            {"minimum": 16},
        )
        for law in ("skellam", "gaussian")
        for masked in (0, 1)
    ),
]


@pytest.mark.parametrize(
    ("draw", "others", "stages", "runs", "more"), [c[1:] for c in SOUND], ids=[c[0] for c in SOUND]
)
def test_what_is_claimed_holds_for_the_neighbours_that_are_named(draw, others, stages, runs, more):
    made = plan(draw, *stages, **more)
    claim = claimed(made, 1)
    one, two = neighbours(claim.relation, others)
    found = worst(sums(made, one, runs, 1), sums(made, two, runs, 2), claim.epsilon)
    assert found <= DELTA, claim


LONG = {
    "rotation": ((Clip(1.0), Noise(2.0)), 1),
    "rotation, banded": ((Clip(1.0), BandedNoise(2.0, bands=3, separation=2)), 3),
    "rotation, local": ((Clip(1.0), LocalNoise(1.5, DELTA)), 1),
}


@pytest.mark.parametrize("name", LONG)
def test_what_is_claimed_of_turns_that_are_kept_apart_holds(name):
    """Three rounds, of which a client has the first and the last, or the second."""
    stages, bands = LONG[name]
    made = plan(sampling.Rotation(slots=2), *stages)
    _, cohorts = released(made, [0.0] * N, 0, 3)
    mine = next(client for client in cohorts[0])
    assert mine in cohorts[2] and mine not in cohorts[1]
    claim = claimed(made, 3)
    one, two = neighbours(claim.relation, -1.0)
    for values in (one, two):
        values[0], values[mine] = values[mine], values[0]
    found = worst(
        *(sums(made, v, 700, i, 3, bands, (1, 0, 1)) for i, v in ((1, one), (2, two))),
        claim.epsilon,
    )
    assert found <= DELTA, claim


@pytest.mark.parametrize("bands", [1, 2])
def test_what_is_claimed_of_a_client_in_every_round_holds(bands):
    made = plan(sampling.All(), Clip(1.0), BandedNoise(2.0, bands=bands))
    claim = claimed(made, 3)
    one, two = neighbours(claim.relation, -1.0)
    found = worst(
        *(sums(made, v, 900, i, 3, bands) for i, v in ((1, one), (2, two))), claim.epsilon
    )
    assert found <= DELTA, claim


# The recipe has power. Events, runs and what they find: computed by hand, and drawn, beforehand.


def epsilon_of(multiplier, kind="all", rate=1.0, rounds=1):
    charge = Charge(Release("gaussian", multiplier, 1.0), Selection(kind, rate), rounds)
    return spent([charge], DELTA).epsilon


def refuted(one, two, event, epsilon):
    """Return whether this event alone, beyond chance, contradicts (ε, δ)."""
    found, error = needed(one > event, two > event, epsilon)
    return found - 3 * error > DELTA


NOISY = (Clip(1.0), Noise(2.0))


def test_a_shift_of_two_bounds_is_found():
    """The claim for zero-out, made of any other update, needs δ = .056, not .001."""
    made, epsilon = plan(sampling.All(), *NOISY), epsilon_of(2.0)
    assert epsilon == pytest.approx(1.352, abs=5e-4)
    assert claimed(made, 1) == Claim("zero", epsilon)
    one, two = neighbours("another", 0.0)
    drawn = [sums(made, values, 2083, i) for i, values in ((1, one), (2, two))]
    assert refuted(*(x + 1 for x in drawn), 4.58, epsilon)
    assert not refuted(*(x + 1 for x in drawn), 4.58, epsilon_of(1.0))


def test_local_noise_charged_for_one_bound_is_found():
    """Any two updates are two bounds apart; noise of two, charged as if they were one."""
    honest, wrong = epsilon_of(1.0), epsilon_of(2.0)
    made = plan(sampling.All(), Clip(1.0), LocalNoise(honest, DELTA))
    assert claimed(made, 1) == Claim("another", pytest.approx(honest))
    one, two = neighbours("another", 0.0)
    alone = [sums(made, values[:1], 2083, i) + 1 for i, values in ((1, one), (2, two))]
    assert refuted(*alone, 4.58, wrong)
    assert not refuted(*alone, 4.58, honest)


def displaced(draw, runs):
    """A draw of fixed size of 21 clients and of 20, in bounds from the mean of the latter."""
    made, (one, two) = plan(draw, *NOISY), neighbours("one more", -1.0)
    return [sums(made, v, runs, i) + draw.count for i, v in ((1, one), (2, two))]


def test_a_client_that_displaces_another_is_found():
    """19 of 21 against 19 of 20, claimed as if everybody took part: needs δ = .044."""
    drawn = displaced(sampling.Uniform(count=19), 2796)
    assert refuted(*drawn, 4.71, epsilon_of(2.0))
    assert not refuted(*drawn, 4.71, 3.011)  # q = 19/21, a shift of two


def test_a_draw_of_fixed_size_taken_for_coins_is_found():
    """10 of 21 against 10 of 20, claimed as Poisson's: needs δ = .034."""
    epsilon = epsilon_of(2.0, "poisson", 10 / 21)
    assert epsilon == pytest.approx(0.763, abs=0.02)
    assert refuted(*displaced(sampling.Uniform(count=10), 3096), 4.31, epsilon)


def coins(rate, runs):
    made = plan(sampling.Poisson(rate), Clip(1.0), Noise(1.0))
    one, two = neighbours("one more", 0.0)
    return [sums(made, v, runs, i) for i, v in ((1, one), (2, two))]


def test_a_rate_that_is_too_low_is_found():
    """Coins of .3, claimed as .1: needs δ = .016."""
    drawn = coins(0.3, 8230)
    assert refuted(*drawn, 2.30, epsilon_of(1.0, "poisson", 0.1))
    assert epsilon_of(1.0, "poisson", 0.3) == pytest.approx(1.672, abs=5e-4)
    assert not refuted(*drawn, 2.30, epsilon_of(1.0, "poisson", 0.3))


def test_coins_whose_number_is_told_are_found():
    """Told how many were drawn, one sees who: needs δ = .072. So nobody is to be told, and a claim
    by coins is one against readers of the released models alone."""
    made, epsilon = plan(sampling.Poisson(0.3), Clip(1.0), Noise(1.0)), 1.672
    one, two = neighbours("one more", -1.0)
    told = []
    for i, values in ((1, one), (2, two)):
        found = []
        for run in range(1840):
            total, (cohort,) = released(made, values, 10**6 * i + run)
            found.append(_ratio(len(cohort), total[0]) > epsilon)
        told.append(np.array(found))
    found, error = needed(*told, epsilon)
    assert found - 3 * error > DELTA
    assert found == pytest.approx(0.0721, abs=5 * error)


def _ratio(size, total):
    """The logarithm of how much likelier this is with the 21st client than without."""
    p, q = 0.3, 1 - 0.3
    mass = [math.comb(N, k) * p**k * q ** (N - k) if 0 <= k <= N else 0 for k in (size, size - 1)]
    without = mass[0] * math.exp(-((total + size) ** 2) / 2)
    more = mass[1] * p * math.exp(-((total + size - 2) ** 2) / 2)
    return math.log((without * q + more) / without) if without else math.inf


def test_coins_that_are_seen_are_found():
    """Under masks members know one another: an event that begins with being there needs a tenth of
    the Gaussian's δ, .017. So masked coins are charged as none, and that holds."""
    made, runs = plan(sampling.Poisson(0.1), Clip(1.0), Noise(1.0)), 4600
    one, two = neighbours("zero", 0.0)
    seen = []
    for i, values in ((1, one), (2, two)):
        each = (released(made, values, 10**6 * i + run) for run in range(runs))
        seen.append(np.array([total[0] > 1.62 and 0 in cohort for total, (cohort,) in each]))
    found, error = needed(*seen, epsilon_of(1.0, "poisson", 0.1))
    assert found - 3 * error > DELTA
    stages = (Clip(1.0), Quantize(8), Noise(1.0), SecureSum())
    masked = claimed(plan(sampling.Poisson(0.1), *stages), 1)
    assert masked == Claim("zero", epsilon_of(1.0))
    found, error = needed(*seen, masked.epsilon)
    assert found - 5 * error <= DELTA


def encoded(stages, values, seed, names):
    """Levels of each client, with its share of the noise `(clients, 1)`."""
    built = Pipeline.build(stages, Contract((Field("delta", 1, bits=64),), cap=1.0))
    draws, rows = keys.Keys(keys.key(seed), names), np.asarray(values, float)[:, None] * FAR
    sent = (None,) * len(stages)
    return built.encode({"delta": rows}, sent, None, draws, np.ones(len(names)))[0]["delta"]


@pytest.mark.parametrize("law", ["skellam", "gaussian"])
def test_noise_that_others_know_is_found(law):
    """Three of four shares taken off halve the noise: what all four would hide needs δ = .039."""
    stages, step = (Clip(1.0), Quantize(8), DiscreteNoise(2.0, 4, law=law)), 1 / 127
    (release,) = Pipeline.build(stages, Contract((Field("delta", 1),), cap=1.0)).releases()
    for seed in range(20):  # a known share is what zeros are sent as, so one client's row is left
        total = encoded(stages, [1.0, 0, 0, 0], seed, (0, 1, 2, 3)).sum(0)
        for name in (1, 2, 3):
            total = total - encoded(stages, [0.0], seed, (name,))[0]
        assert total == encoded(stages, [1.0], seed, (0,))[0]
    one, two = (
        np.array([encoded(stages, [x], 10**6 * i + run, (0,))[0, 0] * step for run in range(3704)])
        for i, x in ((1, 1.0), (2, 0.0))
    )
    whole, rest = (spent([Charge(replace(release, known=a))], DELTA).epsilon for a in (0, 3))
    assert refuted(one, two, 2.47, whole)
    assert not refuted(one, two, 2.47, rest)


@pytest.mark.parametrize("law", ["skellam", "gaussian"])
def test_shares_claimed_for_any_other_update_are_found(law):
    """They are made for zero: against another update, twice as far, they need δ = .039."""
    stages, step = (Clip(1.0), Quantize(8), DiscreteNoise(2.0, 1, law=law)), 1 / 127
    whole = "skellam" if law == "skellam" else "discrete gaussian"
    release = Release(whole, 2.0, 128.0)
    one, two = (
        np.array([encoded(stages, [x], 10**6 * i + run, (0,))[0, 0] * step for run in range(3704)])
        for i, x in ((1, 1.0), (2, -1.0))
    )
    claim = spent([Charge(release)], DELTA).epsilon
    assert refuted(one + 1, two + 1, 4.95, claim)
    assert not refuted(one + 1, two + 1, 4.95, spent([Charge(release).doubled()], DELTA).epsilon)


# Without noise: every cohort of few clients, exactly.


def moves(made, relation, weights=None):
    """The largest L2 move of a decoded sum over all cohorts, positions and pulls of the others."""
    if relation == "one more" and hasattr(made.sampling, "count"):
        relation = "displaced"  # who is added to a draw of fixed size takes another's place
    far = 0.0
    for count in range(1, 7):
        rows = np.zeros((count + 1, 2), np.float32)
        for pull in (-FAR, 0.0, FAR):
            rows[:, 0] = pull
            for clients in _cohorts(made, count):
                for client in clients:
                    far = max(far, _move(made, relation, rows, clients, client, weights))
    return far


def _cohorts(made, count):
    size = getattr(made.sampling, "count", None)
    if isinstance(made.sampling, sampling.All):
        return [tuple(range(count))]
    if isinstance(made.sampling, sampling.Rotation):
        return [
            drawn(made, roster(count), None, r, keys.key(0))[0].clients
            for r in range(1, made.sampling.slots + 1)
        ]
    some = range(1, count + 1) if size is None else [size] * (size <= count)
    return [c for k in some for c in combinations(range(count), k)]


def _move(made, relation, rows, clients, client, weights):
    """How far the sum is from its neighbour's, where this client's update is what it can be."""
    mine, other = rows.copy(), rows.copy()
    mine[client], other[client] = (0.0, FAR), (0.0, 0.0)
    left = clients
    if relation == "another":
        other[client] = (0.0, -FAR)
    if relation == "one more":
        left = tuple(c for c in clients if c != client)
    if relation == "displaced":  # by one that pulls the other way
        left = (*(c for c in clients if c != client), len(rows) - 1)
        mine[client], other[len(rows) - 1] = (0.0, FAR), (0.0, -FAR)
    one, two = (
        added(
            made,
            who,
            values,
            made.stages.init(),
            keys.key(7),
            1,
            None if weights is None else [weights] * len(who),
        )[0]
        for who, values in ((clients, mine), (left, other))
    )
    zero = np.zeros(2)
    return float(np.linalg.norm((zero if one is None else one) - (zero if two is None else two)))


THIN = 1e-9
BARE = {
    "noise": ((Clip(0.7), Noise(THIN)), 0),
    "rounded": ((Clip(0.7), Quantize(12), Noise(THIN)), 1),
    "masked": ((Clip(0.7), Quantize(12), Noise(THIN), SecureSum()), 1),
    "banded": ((Clip(0.7), BandedNoise(THIN, bands=1)), 0),
    "moving": ((Clip(0.7), AdaptiveClip(start=9.0), Noise(THIN)), 0),
    "local": ((Clip(0.7), LocalNoise(1e6, DELTA)), 0),
    "shares": ((Clip(0.7), Quantize(12), DiscreteNoise(THIN, 2)), 1),
}
DRAWN = {
    "all": sampling.All(),
    "uniform": sampling.Uniform(count=3),
    "coins": sampling.Poisson(0.5),
    "rotation": sampling.Rotation(slots=2),
}


@pytest.mark.parametrize("draw", DRAWN)
@pytest.mark.parametrize("name", BARE)
def test_no_cohort_moves_a_sum_further_than_the_statement_says(name, draw):
    stages, rounding = BARE[name]
    made = plan(DRAWN[draw], *stages, minimum=2 if name == "shares" else 1)
    (release,) = made.stages.releases()
    step = next((c.step for c in made.stages.contracts if c.step), 1.0)
    facts = StatementInputs(
        (release,), charges(made, roster(4), "r")[0].selection, 4, PrivacyLedger(DELTA), "secret"
    )
    items = statement(facts).items
    named = re.search(
        r"times (?:the L2 norm )?([\d.e+-]*\d|a bound that moves)", items["mechanism"]
    )
    moving = named[1] == "a bound that moves"
    reach, levels = 0.7 if moving else float(named[1]) * step, rounding * step * math.sqrt(2)
    far = moves(made, related(items["unit"]))
    assert far <= reach * (1 + 1e-5)
    assert far >= (reach - 2 * levels) * (1 - 1e-5)


@pytest.mark.parametrize("cap", [1, 5])
def test_a_weight_moves_a_sum_as_far_as_its_cap(cap):
    made = plan(sampling.All(), Clip(0.7), Noise(THIN), weighting="examples", cap=cap)
    (release,) = made.stages.releases()
    assert release.sensitivity == pytest.approx(0.7 * cap)
    assert moves(made, "zero", weights=9) == pytest.approx(0.7 * cap, rel=1e-6)


def test_a_client_that_displaces_another_moves_a_sum_by_two_bounds():
    """Why a draw of fixed size has no claim under one client more or less."""
    made = plan(sampling.Uniform(count=3), Clip(0.7), Noise(THIN))
    assert moves(made, "displaced") == pytest.approx(1.4, rel=1e-6)
    assert moves(made, "zero") == pytest.approx(0.7, rel=1e-6)
