# SPDX-License-Identifier: Apache-2.0
"""Epsilons equal those of five libraries, amplification has grounds, calibration inverts."""

import math
from dataclasses import replace

import pytest

from muster.errors import PlanError
from muster.privacy import Charge, Release, Selection, noise_multiplier, rounds_for, spent
from muster.privacy.accounting import check_delta, replacement, tree_epsilon, zcdp_epsilon
from muster.privacy.distributed import rounded_norm
from muster.privacy.gaussian import gaussian_epsilon
from muster.privacy.matrix import optimal, square_root


def charge(multiplier, rate=1.0, rounds=1, mechanism="gaussian", kind="poisson", **more):
    release = Release(mechanism, multiplier, more.pop("sensitivity", 1.0), **more)
    return Charge(release, Selection(kind, rate), rounds)


# rate, multiplier, rounds, delta; then RDP, the tight value, and [low, high] of two libraries' PRV
TABLE = [
    (256 / 60000, 1.1, 14062, 1e-5, 2.5966, 2.3817, 2.2817, 2.3917),
    (250 / 60000, 1.3, 3600, 1e-5, 0.9422, 0.8530, 0.7535, 0.8630),
    (0.01, 4.0, 10_000, 1e-5, 1.0355, 0.9470, 0.8474, 0.9569),
    (1e-3, 1.0, 2000, 1e-8, 1.2657, 0.3628, 0.2624, 0.3728),
    (100 / 3400, 1.0, 1500, 3400**-1.1, 7.0706, 6.3501, 6.2497, 6.3605),
    (1.0, 1.0, 1, 1e-5, 4.7285, 4.3772, 4.37, 4.39),
    (1.0, 7.0, 100, 1e-6, 7.8581, 7.3726, 7.37, 7.38),
]


@pytest.mark.parametrize(("rate", "z", "rounds", "delta", "rdp", "tight", "low", "high"), TABLE)
def test_the_table_of_libraries(rate, z, rounds, delta, rdp, tight, low, high):
    found = spent([charge(z, rate, rounds)], delta)
    assert found.rdp == pytest.approx(rdp, abs=1e-4)
    assert found.epsilon == pytest.approx(tight, abs=1e-4)
    assert low <= found.epsilon <= high
    assert found.accountant == ("PLD" if rate < 1 else "exact")
    assert found.version == "0.6.0" or found.version > "0.6"


def test_the_table_of_trees_and_concentrated_privacy():
    assert tree_epsilon(5.0, 1024, 1e-6) == pytest.approx(3.3003, abs=1e-4)
    assert zcdp_epsilon(0.81, 1e-10) == pytest.approx(8.9223, abs=1e-4)
    assert zcdp_epsilon(0.25, 1e-10) == pytest.approx(4.6969, abs=1e-4)


def printed(number, grid=0.0):
    """This number as a table has it: to half a unit of its last digit, or of a grid."""
    digits = len(f"{number!r}".partition(".")[2])
    return pytest.approx(number, rel=0, abs=max(0.5001 * 10**-digits, grid))


# Zero-out with the cohort seen, and any other update in its place: ε at 1e-5 of 1, 10, 100 rounds.
SEEN = [
    (0.5, (9.997, 46.21, 284.4), (24.38, 133.1, 969.6)),
    (1.0, (4.377, 17.86, 91.82), (9.997, 46.21, 284.4)),
    (4.0, (0.926, 3.341, 13.21), (1.993, 7.511, 33.10)),
]


@pytest.mark.parametrize(("z", "zero", "another"), SEEN)
@pytest.mark.parametrize(
    "how",
    [Selection(), Selection("uniform", 0.5), Selection("poisson", 0.5, seen=True)],
    ids=["all", "uniform", "poisson seen"],
)
def test_a_cohort_that_is_seen_is_charged_the_gaussian_and_under_zero_out(z, zero, another, how):
    for rounds, one, two in zip((1, 10, 100), zero, another, strict=True):
        made = [Charge(Release("gaussian", z, 1.0), how, rounds)]
        assert made[0].relation == how.relation == "zero-out"
        assert spent(made, 1e-5).epsilon == printed(one)
        assert replacement(made, 1e-5) == printed(two)


# rate, multiplier, and ε at 1e-5 of 1, 10, 100 rounds of coins that nobody sees, where it is tight
HIDDEN = [
    (0.5, 0.5, (8.981, 31.37)),
    (0.5, 1.0, (3.534, 10.46, 39.98)),
    (0.5, 4.0, (0.536, 1.665, 5.869)),
    (0.05, 0.5, (5.517, 8.554, 18.19)),
    (0.05, 1.0, (1.033, 1.656, 3.502)),
    (0.05, 4.0, (0.052, 0.144, 0.462)),
]


@pytest.mark.parametrize(("q", "z", "wanted"), HIDDEN)
def test_coins_that_nobody_sees_are_charged_less_and_under_add_or_remove(q, z, wanted):
    for rounds, epsilon in zip((1, 10, 100), wanted, strict=False):
        made = charge(z, q, rounds)
        assert made.relation == made.selection.relation == "add-or-remove"
        assert spent([made], 1e-5).epsilon == printed(epsilon, grid=2e-3)


def test_coins_against_another_update_are_the_published_pair():
    """(1 − q) N(0) + q N(1) against (1 − q) N(0) + q N(−1), q = .3, z = 1: 1.672 is 2.021 there."""
    assert spent([charge(1.0, 0.3)], 1e-3).epsilon == pytest.approx(1.672, abs=5e-4)
    assert replacement([charge(1.0, 0.3)], 1e-3) == pytest.approx(2.021, abs=1e-3)
    assert (
        replacement([charge(1.0, 0.01, 1000)], 1e-6)
        < 3 * spent([charge(1.0, 0.01, 1000)], 1e-6).epsilon
    )
    mixed = [charge(1.0, 0.3), charge(9.0, kind="all")]
    assert 2.021 < replacement(mixed, 1e-3) < replacement([charge(0.99, kind="all")], 1e-3)
    local = Charge(Release("local gaussian", 2.0, 2.0))
    assert replacement([local], 1e-3) == spent([local], 1e-3).epsilon


# slots (N/m of 100 of 100, 50 of 1000, 100 of 10^5), and ε of 100 rounds at multipliers .5, 1, 4
ROTATION = [
    (2, (159.4, 54.38, 8.596)),
    (20, (28.37, 11.48, 2.258)),
    (1000, (9.997, 4.377, 0.926)),
]


@pytest.mark.parametrize(("slots", "wanted"), ROTATION)
def test_a_rotation_is_charged_its_turns(slots, wanted):
    how = Selection("rotation", 1 / slots, separation=slots)
    for z, epsilon in zip((0.5, 1.0, 4.0), wanted, strict=True):
        rounds = [Charge(Release("gaussian", z, 1.0), how, run="a")] * 100
        found = spent(rounds, 1e-5).epsilon
        assert found == printed(epsilon)
        assert found == spent([replace(rounds[0], rounds=100)], 1e-5).epsilon
        turns = -(-100 // slots)
        assert found == gaussian_epsilon(1e-5, z / math.sqrt(turns))


def test_turns_are_those_of_one_run_and_of_all_its_rounds():
    """Rounds of two runs do not share a turn, nor do rounds of one run gain by changing."""
    how = Selection("rotation", 0.25, separation=4)
    a = Charge(Release("gaussian", 2.0, 1.0), how, run="a")
    other = replace(a, release=Release("gaussian", 2.5, 1.0))
    one = spent([a] * 4, 1e-5).epsilon
    assert spent([a] * 2 + [replace(a, run="b")] * 2, 1e-5).epsilon > one
    assert spent([a, other] * 4, 1e-5).epsilon == pytest.approx(
        gaussian_epsilon(1e-5, (2 * 2.0**-2 + 2 * 2.5**-2) ** -0.5)
    )
    shares = Charge(Release("skellam", 4.0, 1000.0, 100, 9), how, run="a")
    plain = replace(shares, selection=Selection())
    assert spent([shares] * 8, 1e-5).epsilon == spent([plain] * 2, 1e-5).epsilon


# Noise in shares: of n₀ those that others know, and ε of (z 1, one round) and (z 4, 40 rounds)
SHARES = {
    36: [
        (0, 4.753, 8.088),
        (1, 4.824, 8.231),
        (3, 4.980, 8.542),
        (4, 5.065, 8.713),
        (12, 6.003, 10.43),
        (16, 6.688, 11.55),
        (20, 7.588, 13.24),
    ],
    100: [
        (0, 4.753, 8.088),
        (1, 4.778, 8.138),
        (10, 5.031, 8.643),
        (33, 5.984, 10.40),
        (43, 6.597, 11.38),
        (53, 7.343, 12.78),
    ],
}


@pytest.mark.parametrize("law", ["skellam", "discrete gaussian"])
@pytest.mark.parametrize("survivors", SHARES)
def test_shares_that_others_know_hide_nothing(law, survivors):
    norm = rounded_norm(32767.0, 650)
    for known, one, forty in SHARES[survivors]:
        for z, rounds, wanted in ((1.0, 1, one), (4.0, 40, forty)):
            release = Release(law, z, norm, 650, survivors, known=known)
            found = spent([Charge(release, rounds=rounds)], 1e-5).epsilon
            assert found == printed(wanted)
    for z, rounds, wanted in ((1.0, 1, 10.80), (4.0, 40, 19.80)):
        whole = Charge(Release(law, z, norm, 650, survivors), rounds=rounds)
        assert whole.relation == "zero-out"
        assert replacement([whole], 1e-5) == printed(wanted)


@pytest.mark.parametrize("known", [-1, 4, 5, 1.5])
def test_shares_of_which_none_is_left_are_refused(known):
    with pytest.raises(PlanError, match="noise in shares of 4, of which others know"):
        Release("skellam", 1.0, 10.0, 3, 4, known=known)


@pytest.mark.parametrize("kind", ["uniform", "all"])
def test_a_cohort_of_fixed_size_is_not_amplified(kind):
    whole = spent([charge(7.0, 1.0, 100)], 1e-6).epsilon
    assert spent([charge(7.0, 0.01, 100, kind=kind)], 1e-6).epsilon == whole
    assert spent([charge(7.0, 0.01, 100, kind="poisson")], 1e-6).epsilon < whole / 10


@pytest.mark.parametrize("mechanism", ["local gaussian", "skellam", "discrete gaussian", "matrix"])
def test_only_a_central_gaussian_is_amplified(mechanism):
    more = {"dimension": 100, "sensitivity": 500.0, "survivors": 9}
    more |= {"coefficients": (1.0,)} if mechanism == "matrix" else {}
    poisson = spent([charge(4.0, 0.01, 5, mechanism, **more)], 1e-6).epsilon
    assert poisson == spent([charge(4.0, 1.0, 5, mechanism, **more)], 1e-6).epsilon


@pytest.mark.parametrize("kind", ["weighted", "oort", ""])
def test_sampling_without_a_proof_is_refused(kind):
    with pytest.raises(PlanError, match=r"has no privacy accounting: .*; use Poisson\(rate\)"):
        Selection(kind, 0.1)


def test_an_unknown_mechanism_is_refused():
    with pytest.raises(PlanError, match=r"no accountant knows this mechanism; use one of gaussian"):
        Release("laplace", 1.0, 1.0)


def test_a_release_without_what_its_accountant_needs_is_refused():
    with pytest.raises(PlanError, match="skellam noise needs an L2 sensitivity in levels"):
        Release("skellam", 1.0, None)
    with pytest.raises(PlanError, match="matrix noise needs its coefficients"):
        Release("matrix", 1.0, 1.0)


@pytest.mark.parametrize("multiplier", [0, -1.0, math.inf, math.nan])
def test_a_multiplier_without_noise_is_refused(multiplier):
    with pytest.raises(PlanError, match="finite number above 0 is needed; without noise nothing"):
        Release("gaussian", multiplier, 1.0)


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.1, math.nan])
def test_a_rate_that_is_none_is_refused(rate):
    with pytest.raises(PlanError, match="sampling rate"):
        Selection("poisson", rate)


@pytest.mark.parametrize("rounds", [0, -1, 1.5])
def test_rounds_are_whole(rounds):
    with pytest.raises(PlanError, match="whole number above 0"):
        Charge(Release("gaussian", 1.0, 1.0), rounds=rounds)


def test_charges_compose_in_any_order_and_grouping():
    one, two = charge(1.5, 0.01, 30), charge(8.0, 1.0, 4)
    together = spent([one, two], 1e-6).epsilon
    assert spent([two, one], 1e-6).epsilon == pytest.approx(together, rel=1e-6)
    pieces = [charge(1.5, 0.01, 10)] * 3 + [charge(8.0, 1.0, 1)] * 4
    assert spent(pieces, 1e-6).epsilon == together
    assert together > max(spent([c], 1e-6).epsilon for c in (one, two))
    assert together < sum(spent([c], 1e-6).epsilon for c in (one, two))


def test_nothing_released_is_nothing_spent():
    assert spent([], 1e-6).epsilon == 0


def test_an_epsilon_beyond_meaning_is_bounded_by_rdp_alone():
    found = spent([charge(0.2, 0.5, 200)], 1e-6)
    assert (found.accountant, found.epsilon) == ("RDP", found.rdp)
    assert found.epsilon > 100


def test_integer_noise_comes_close_to_the_gaussian_and_never_below():
    """At sixteen bits a coordinate both laws cost what a Gaussian of the same width costs."""
    for z in (0.7, 2.0, 8.0):
        gaussian = spent([charge(z, rounds=10)], 1e-6)
        for law in ("skellam", "discrete gaussian"):
            wide = charge(z, 1.0, 10, law, sensitivity=32767.0, dimension=10**6, survivors=90)
            found = spent([wide], 1e-6)
            assert found.accountant == "RDP"
            assert gaussian.epsilon < found.epsilon <= gaussian.rdp * 1.1
        narrow = charge(z, 1.0, 10, "skellam", sensitivity=3.0, dimension=1000)
        assert spent([narrow], 1e-6).epsilon > found.epsilon


def test_skellam_takes_the_better_of_its_two_bounds():
    """At small noise the second term of the minimum counts, at large noise the first."""
    for z, norm in ((0.05, 2.0), (2.0, 1000.0)):
        wide = charge(z, 1.0, 1, "skellam", sensitivity=norm, dimension=100)
        total, one = (z * norm) ** 2, min(norm**2, 10 * norm)
        least = math.inf
        for a in range(2, 1025):
            extra = min(((2 * a - 1) * norm**2 + 6 * one) / (4 * total**2), 1.5 * one / total)
            rdp = a * norm**2 / (2 * total) + extra
            least = min(least, rdp + math.log1p(-1 / a) - math.log(1e-6 * a) / (a - 1))
        assert spent([wide], 1e-6).epsilon == pytest.approx(least, rel=0.02)
        assert spent([wide], 1e-6).epsilon >= least * (1 - 1e-9)


def test_the_rounds_of_a_matrix_run_are_one_gaussian():
    """k turns at least b apart cost √k: 16 rounds of 4 bands are 4 turns, the noise halves."""

    def matrix(rounds, bands, separation, run="a"):
        made = Release("matrix", 3.0, 1.0, coefficients=square_root(bands), separation=separation)
        return Charge(made, rounds=rounds, run=run)

    turns = spent([matrix(16, 4, 4)], 1e-6).epsilon
    assert turns == pytest.approx(gaussian_epsilon(1e-6, 3.0 / 2), rel=1e-9)
    assert spent([matrix(1, 4, 4)] * 16, 1e-6).epsilon == turns
    assert spent([matrix(13, 4, 4)], 1e-6).epsilon < turns
    independent = spent([matrix(16, 1, 1)], 1e-6).epsilon
    assert independent == pytest.approx(gaussian_epsilon(1e-6, 3.0 / 4), rel=1e-9)
    assert spent([matrix(16, 4, 1)], 1e-6).epsilon > independent  # the bands overlap and add up
    apart = spent([matrix(8, 4, 4, "a"), matrix(8, 4, 4, "b")], 1e-6).epsilon
    assert apart == pytest.approx(turns, rel=1e-9)  # two runs: twice two turns
    assert len(optimal(64, 4)) == 4


def test_calibration_gives_the_published_multiplier():
    found = noise_multiplier(2.0, 1e-6, 1000, Selection("poisson", 0.01))
    assert found == pytest.approx(1.0290, abs=2e-4)
    assert spent([charge(found, 0.01, 1000)], 1e-6).epsilon <= 2.0


@pytest.mark.parametrize(
    ("epsilon", "delta", "rounds"), [(2.0, 1e-6, 100), (0.1, 1e-9, 7), (30.0, 1e-5, 1)]
)
def test_calibration_without_sampling_inverts_the_gaussian(epsilon, delta, rounds):
    found = noise_multiplier(epsilon, delta, rounds)
    assert 1.999 / 2 * epsilon <= spent([charge(found, rounds=rounds)], delta).epsilon <= epsilon


def test_calibration_of_integer_noise():
    release = Release("skellam", 1.0, 1000.0, 100, 9)
    found = noise_multiplier(3.0, 1e-6, 10, release=release)
    made = Charge(Release("skellam", found, 1000.0, 100, 9), rounds=10)
    assert 2.99 < spent([made], 1e-6).epsilon <= 3.0


def test_rounds_are_the_most_that_fit():
    for rate, z in ((1.0, 20.0), (0.01, 1.5)):
        release, selection = Release("gaussian", z, 1.0), Selection("poisson", rate)
        rounds = rounds_for(2.0, 1e-6, release, selection)
        assert spent([Charge(release, selection, rounds)], 1e-6).epsilon <= 2.0
        assert spent([Charge(release, selection, rounds + 1)], 1e-6).epsilon > 2.0


def test_no_round_fits_a_budget_that_one_passes():
    assert rounds_for(0.1, 1e-6, Release("gaussian", 0.5, 1.0)) == 0


def test_a_budget_that_is_never_spent_ends_the_search():
    assert rounds_for(10.0, 1e-6, Release("gaussian", 1e6, 1.0)) >= 1 << 24


@pytest.mark.parametrize("delta", [1e-3, 0.5])
def test_delta_must_lie_below_one_over_the_clients(delta):
    with pytest.raises(
        PlanError, match=r"with 3400 clients: it must lie below 1/3400.*use 0.00013"
    ):
        check_delta(delta, 3400)
    check_delta(3400**-1.1, 3400)


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-6, math.nan])
def test_a_delta_that_is_no_probability_is_refused(delta):
    with pytest.raises(PlanError, match=r"delta=.*a number in \(0, 1\) is needed"):
        spent([charge(1.0)], delta)


@pytest.mark.parametrize("epsilon", [0.0, -1.0, math.inf, math.nan])
def test_an_epsilon_that_promises_nothing_is_refused(epsilon):
    with pytest.raises(PlanError, match=r"epsilon=.*a finite number above 0 is needed"):
        noise_multiplier(epsilon, 1e-6, 10)
