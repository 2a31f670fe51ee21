# SPDX-License-Identifier: Apache-2.0
"""Epsilons equal those of five libraries, amplification has grounds, calibration inverts."""

import math

import pytest

from muster.errors import PlanError
from muster.privacy import Charge, Release, Selection, noise_multiplier, rounds_for, spent
from muster.privacy.accounting import check_delta, tree_epsilon, zcdp_epsilon
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
