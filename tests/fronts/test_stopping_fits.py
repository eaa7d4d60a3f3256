"""The fits of optimal stopping and of thresholds of each head: equal to plain twins, and what they promise."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.exact_spaces import traced
from support.laws import examples
from support.random_traces import learned_trace, rounded_costs

from study import Costs, OptimalStopping, UserError, fit_head_thresholds, fit_optimal_stopping, replay, tally
from study.fronts.head_thresholds import head_thresholds
from study.fronts.matched_cost import matched_costs
from study.fronts.priced_paths import PRICES, PathShares
from study.fronts.stopping_regression import Basis, fit_by_regression
from study.policies.optimal_stopping import STOP, decision_flops

ROOT = Path(__file__).parents[2] / "results" / "reference"
seeds = st.integers(0, 10_000)


def drawn(seed, *, most_samples=60, exits=4):
    """Scores, right answers and costs of some samples; half of the scores have ties, and later exits are better."""
    random = np.random.default_rng(seed)
    samples, exits = int(random.integers(4, most_samples + 1)), int(random.integers(1, exits + 1))
    scores = random.exponential(2.0, (samples, exits))
    if seed % 2:
        scores = np.round(scores * 2) / 2 + 0.5
    sure = np.append(scores / (1 + scores), np.full((samples, 1), 0.8), axis=1)
    right = (random.random((samples, exits + 1)) < sure).astype(np.int8)
    reach = random.uniform(0.1, 1.0, exits + 1).cumsum()
    return scores, right, PathShares(reach / reach[-1], np.append(random.uniform(0.001, 0.05, exits), 0.0))


# --- regressions -----------------------------------------------------------------------------------------------------


def plain_fit(scores, right, paths, price, basis):
    """Least-squares Monte Carlo from the formulas: for each exit its knots and the values there; the first exit.

    The values ``[K, 1 + E + 1 - l]`` are those of stopping and of going on to exits l + 1 .. E + 1.
    """
    samples, exits = scores.shape
    returns, fits = [None] * exits + [right[:, -1].astype(float)], {}
    for exit in range(exits, 0, -1):
        own = scores[:, exit - 1]
        knots = basis.at(own)
        functions = np.stack([np.interp(own, knots, unit) for unit in np.eye(len(knots))], axis=1)
        way = price * (paths.reach - paths.reach[exit - 1])
        going_on = [returns[later - 1] - way[later - 1] for later in range(exit + 1, exits + 2)]
        targets = np.stack([right[:, exit - 1].astype(float), *going_on], axis=1)
        mean = targets.mean(axis=0)
        system = functions.T @ functions + basis.ridge * np.eye(len(knots))
        values = mean + np.linalg.solve(system, functions.T @ (targets - mean))
        chosen = (functions @ values).argmax(axis=1)
        returns[exit - 1] = targets[np.arange(samples), chosen] - price * paths.head[exit - 1]
        fits[exit] = knots, values
    means = [one.mean() - price * reach for one, reach in zip(returns, paths.reach, strict=True)]
    return fits, int(np.argmax(means)) + 1


@given(seed=seeds, price=st.sampled_from([0.02, 0.2, 1.0, 3.0]), basis=st.sampled_from([Basis(6, 3.0), Basis(3, 0.1)]))
@examples(60)
def test_the_tables_hold_the_best_action_of_the_plain_regressions_at_every_score(seed, price, basis):
    scores, right, paths = drawn(seed)
    (policy,) = fit_by_regression(scores, right, paths, [price], basis)
    fits, first = plain_fit(scores, right, paths, price, basis)
    assert policy.first == first and policy.price == price
    random = np.random.default_rng(seed)
    for exit, table in policy.tables.items():
        knots, values = fits[exit]
        asked = np.concatenate([random.uniform(-1.0, knots[-1] + 1.0, 100), knots, scores[:, exit - 1]])
        found = np.stack([np.interp(asked, knots, column) for column in values.T], axis=1)
        second, best = np.sort(found, axis=1)[:, -2:].T
        clear = best > second + 1e-9
        expected = found.argmax(axis=1)
        expected = np.where(expected == 0, STOP, exit + expected)
        assert table.at(asked)[clear].tolist() == expected[clear].tolist()
        assert len(set(table.actions)) > 1 or not table.bounds
        assert all(one != other for one, other in zip(table.actions, table.actions[1:], strict=False))


def test_a_price_of_0_runs_to_the_classifier_where_it_is_always_right():
    scores, right, paths = drawn(1)
    right[:, -1], right[:, :-1] = 1, 0
    (policy,) = fit_by_regression(scores, right, paths, [0.0], Basis())
    assert policy.depth(scores.shape[1]) == scores.shape[1] + 1
    assert all(STOP not in table.actions for table in policy.tables.values())


def test_a_score_that_is_the_same_for_all_images_gives_one_action():
    scores, right, paths = drawn(2)
    (policy,) = fit_by_regression(np.full_like(scores, 1.5), right, paths, [0.3], Basis())
    assert all(not table.bounds or not table.bounds[0] <= 1.5 for table in policy.tables.values())


# --- thresholds of each head -----------------------------------------------------------------------------------------


def returned(thresholds, scores, right, paths, price):
    """The sum of the returns of all samples: what the thresholds are chosen for."""
    total, exits = 0.0, scores.shape[1]
    tried = np.isfinite(thresholds)
    for own, answers in zip(scores, right, strict=True):
        end = next((exit for exit in range(exits) if tried[exit] and own[exit] >= thresholds[exit]), exits)
        cost = paths.reach[end] + sum(paths.head[exit] for exit in range(min(end + 1, exits)) if tried[exit])
        total += answers[end] - price * cost
    return total


def every_threshold(own):
    """One threshold for each set of samples that a threshold of an exit can stop."""
    values = np.unique(own)
    return [np.inf, *values.tolist()]


@given(seed=seeds, price=st.sampled_from([0.02, 0.2, 1.0, 3.0]))
@examples(40)
def test_no_change_of_one_threshold_improves_the_return(seed, price):
    scores, right, paths = drawn(seed, most_samples=14)
    (found,) = head_thresholds(scores, right, paths, [price])
    reached = returned(found, scores, right, paths, price)
    for exit in range(scores.shape[1]):
        for threshold in every_threshold(scores[:, exit]):
            other = found.copy()
            other[exit] = threshold
            assert returned(other, scores, right, paths, price) <= reached + 1e-6


def test_on_tiny_traces_the_thresholds_are_nearly_always_the_best_of_all():
    gaps = []
    for seed in range(40):
        scores, right, paths = drawn(seed, most_samples=8, exits=3)
        for price in (0.1, 0.6):
            (found,) = head_thresholds(scores, right, paths, [price])
            every = product(*map(every_threshold, scores.T))
            best = max(returned(np.array(one), scores, right, paths, price) for one in every)
            gaps.append((best - returned(found, scores, right, paths, price)) / len(scores))
    assert min(gaps) > -1e-9
    assert np.mean(np.array(gaps) < 1e-9) > 0.8
    assert np.mean(gaps) < 0.01


def test_equal_scores_stop_together_from_every_start():
    """All scores of exit 1 are equal: either all samples stop there, or none."""
    right = np.array([[1, 1]] * 4 + [[0, 1]] * 6, dtype=np.int8)
    paths = PathShares(np.array([0.2, 1.0]), np.array([0.0, 0.0]))
    for price, share in ((0.5, 0.0), (1.0, 1.0)):
        (found,) = head_thresholds(np.ones((10, 1)), right, paths, [price])
        assert (np.ones(10) >= found[0]).mean() == share


def test_neighbouring_scores_are_told_apart():
    low = 1.0
    high = float(np.nextafter(low, 2.0))
    scores, right = np.array([[high], [low]]), np.array([[1, 1], [0, 1]], dtype=np.int8)
    (found,) = head_thresholds(scores, right, PathShares(np.array([0.1, 1.0]), np.zeros(2)), [0.5])
    assert low < found[0] <= high


# --- what both promise -----------------------------------------------------------------------------------------------

TRACE, COSTS = learned_trace(samples=400), rounded_costs()
FITS = {
    "regression": lambda trace, costs, **options: fit_optimal_stopping(trace, costs, form="regression", **options),
    "head_thresholds": lambda trace, costs, **options: fit_optimal_stopping(
        trace, costs, form="head_thresholds", **options
    ),
    "thresholds by softmax": lambda trace, costs, **options: fit_head_thresholds(
        trace, costs, "max_softmax", **options
    ),
}


@pytest.mark.parametrize("name", FITS)
def test_larger_prices_do_not_stop_later_on_the_images_that_were_fitted(name):
    found = FITS[name](TRACE, COSTS)
    spent = np.array([COSTS.mean(tally(TRACE, policy), "flops") for policy in found]) / COSTS.classic("flops")
    assert (np.diff(spent) <= 0.02).all()  # the fits are not exact: a small step back is possible
    assert spent[0] > 0.6 and spent[-1] < 0.2
    prices = [policy.price for policy in found]
    assert prices == sorted(prices) and set(prices) <= set(PRICES)


@pytest.mark.parametrize("name", FITS)
def test_the_measure_that_has_the_price_is_the_one_that_is_saved(name):
    """Energies of another shape than the FLOPs give other rules; costs without energies are refused."""
    costs = replace(COSTS, segment_energy=np.geomspace(1.0, 1e-3, 7), head_energy=np.full(6, 1e-3))
    flops, energy = (FITS[name](TRACE, costs, measure=measure) for measure in ("flops", "energy"))
    assert flops != energy
    with pytest.raises(UserError, match="seconds"):
        FITS[name](TRACE, costs, measure="seconds")


def test_costs_of_nothing_have_no_shares():
    with pytest.raises(UserError, match="costs nothing"):
        fit_optimal_stopping(TRACE, Costs(segment_flops=np.zeros(7), head_flops=np.zeros(6)))


@pytest.mark.parametrize("price", [-1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("form", ["regression", "head_thresholds"])
def test_an_impossible_price_is_refused(price, form):
    with pytest.raises(UserError, match="price"):
        fit_optimal_stopping(TRACE, COSTS, [price], form=form)


def test_the_form_is_chosen_and_the_fit_is_the_same_every_time():
    first, second = (fit_optimal_stopping(TRACE, COSTS, PRICES[::8]) for _ in range(2))
    assert first == second
    assert {type(policy) for policy in first} == {OptimalStopping}
    others = replace(TRACE, logits=TRACE.logits[::-1])
    assert fit_optimal_stopping(others, COSTS, PRICES[::8]) != first


def test_a_mean_return_is_never_below_that_of_the_classic_network():
    """On the images that fitted the rule; the ridge and the knots cost a little."""
    shares = PathShares.of(COSTS, "flops", decision_flops(5))
    for price, policy in zip(PRICES, fit_optimal_stopping(TRACE, COSTS, form="regression"), strict=True):
        walk = replay(TRACE, policy)
        gain = walk.accuracy(TRACE.labels) - price * shares.of_walk(walk).mean()
        assert gain >= TRACE.classic_accuracy - price - 1e-9


def test_rules_are_fitted_to_calibration_images_only():
    one = traced("one", 4, 0)
    other = replace(one, validation=traced("other", 4, 7).validation)
    again = replace(one, calibration=traced("other", 4, 7).calibration)
    for kind, criterion in (
        (OptimalStopping, "logit"),
        (type(fit_head_thresholds(TRACE, COSTS, "margin")[0]), "margin"),
    ):
        own, same, different = (
            list(network.fitted(kind, PRICES, criterion=criterion)) for network in (one, other, again)
        )
        assert own == same
        assert own != different


# --- cost at equal loss ----------------------------------------------------------------------------------------------


def test_matched_costs_lie_on_the_monotone_curve_to_the_classic_network():
    costs, losses = np.array([0.2, 0.4]), np.array([0.04, 0.02])
    assert matched_costs(costs, losses, [0.04, 0.03, 0.02, 0.01, 0.0]) == pytest.approx([0.2, 0.3, 0.4, 0.7, 1.0])
    assert matched_costs(costs, losses, [0.5]) == pytest.approx([0.2])
    lucky = matched_costs(np.array([0.2, 0.3, 0.4]), np.array([0.01, 0.03, 0.02]), [0.02])
    assert 0.2 <= lucky[0] <= 0.4


# --- operations of a decision ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reference",
    [
        *("vgg19-cifar10", "resnet34-quarter-cifar10", "vgg19-quarter-fashion-mnist"),
        *("vgg19-quarter-cifar10", "vgg19-quarter-tiny-imagenet", "vgg19-cifar10-published"),
    ],
)
def test_decisions_need_less_than_a_fivehundredth_of_the_network(reference):
    """Even of an image that tries every exit, and of a network of half the width (the quickstart has an eighth)."""
    profile = next((ROOT / reference / "profiles").glob("*-fp32-batch1.json"))
    costs = Costs.from_json(profile.read_bytes())
    assert costs.exit_count * decision_flops(20) < 0.002 * costs.classic("flops") / 4
