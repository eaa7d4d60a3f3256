"""The betting bound and fixed-sequence testing, by simulation from known populations."""

from __future__ import annotations

import math

import numpy as np
import pytest

from study.search.betting_bound import betting_order, count_certified, drop_bound, images_needed, keeps_limit

CONFIDENCE, DRAWS = 0.9, 2000
SLACK = 3 * math.sqrt(0.1 * 0.9 / DRAWS)
"""Three standard deviations of the share of draws that break a limit, where the truth is 1 - confidence."""


def draw(means: list[float], draws: int, images: int, seed: int = 0) -> np.ndarray:
    """``[draws, settings, images]`` losses: 3 % of the images win, the mean plus 3 % of the images lose."""
    where = np.random.default_rng(seed).random((draws, len(means), images))
    lost = where < 0.03 + np.asarray(means)[:, None]
    return lost.astype(np.float64) - (where > 0.97)


@pytest.mark.parametrize(
    "of_classes",
    [np.full(10, 0.05), np.linspace(0.0, 0.1, 10), np.append(np.zeros(9), 0.5)],
    ids=["classes alike", "classes differ", "one class loses all"],
)
def test_the_bound_covers_the_mean_where_the_images_are_stratified(of_classes: np.ndarray) -> None:
    """The proof takes independent images. A certification split has the same number of each class, drawn without
    replacement, and may be stored class by class."""
    rng = np.random.default_rng(1)
    where = rng.random((10, 5000))
    population = (where < 0.03 + of_classes[:, None]).astype(np.float64) - (where > 0.97)
    broken = {}
    for images in (200, 1000):
        drawn = [[rng.choice(one, images // 10, replace=False) for one in population] for _ in range(DRAWS)]
        bounds = drop_bound(np.reshape(drawn, (DRAWS, images)), CONFIDENCE)
        broken[images] = float((bounds < population.mean()).mean())
    print(f"share of bounds below the mean, by the number of images: {broken}")
    assert max(broken.values()) <= 0.1 + SLACK


@pytest.mark.parametrize("mean", [0.0, 0.05, 0.3])
def test_the_bound_covers_the_mean(mean: float) -> None:
    bounds = drop_bound(draw([mean], DRAWS, 200)[:, 0], CONFIDENCE)
    assert (bounds < mean).mean() <= 0.1 + SLACK
    assert np.median(bounds) < mean + 0.15


def test_one_walk_keeps_the_limit_and_the_wrong_variants_break_it() -> None:
    """Two settings are safe; ten more lose hardly more than the limit, each on images of its own."""
    limit, means = 0.05, [0.0, 0.01] + [0.051] * 10
    draws = draw(means, DRAWS, 200)
    passed = keeps_limit(draws, limit, CONFIDENCE)
    certified = np.where(passed.all(axis=1), len(means), passed.argmin(axis=1))
    broken = np.append(0.0, means) > limit  # by the number of certified settings
    assert broken[certified].mean() <= 0.1 + SLACK
    assert (certified >= 2).mean() > 0.3
    first_that_failed = np.minimum(certified + 1, len(means))
    assert broken[first_that_failed].mean() > 0.1 + SLACK
    cheapest_of_all_that_pass = np.where(passed.any(axis=1), len(means) - passed[:, ::-1].argmax(axis=1), 0)
    assert broken[cheapest_of_all_that_pass].mean() > 0.1 + SLACK
    for number in range(20):
        assert count_certified(draws[number], limit, CONFIDENCE) == certified[number]


def test_the_walk_ends_at_the_first_setting_that_fails() -> None:
    safe, bad = np.zeros(1000), np.ones(1000)
    asked = []

    def path():
        for losses in (safe, safe, bad, safe):
            asked.append(losses)
            yield losses

    assert count_certified(path(), 0.01, CONFIDENCE) == 2 and len(asked) == 3
    assert count_certified([], 0.01, CONFIDENCE) == 0


def plain_capital(losses: np.ndarray, mean: float, confidence: float) -> float:
    """The largest capital of a bet against a mean, image by image, from the formulas."""
    count, capital, best, total, squares = len(losses), 1.0, 1.0, 0.0, 0.0
    for number, value in enumerate((losses[betting_order(count)] + 1) / 2):
        variance = (0.25 + squares) / (number + 1)
        bet = min(1.0, math.sqrt(2 * math.log(1 / (1 - confidence)) / (count * variance)))
        capital *= 1 + bet * (mean - value)
        best = max(best, capital)
        total += value
        squares += (value - (0.5 + total) / (number + 2)) ** 2
    return best


@pytest.mark.parametrize("confidence", [0.8, 0.99])
def test_the_bound_is_the_least_mean_at_which_the_capital_is_reached(confidence: float) -> None:
    for losses in [*draw([0.1], 5, 150)[:, 0], np.zeros(60), np.ones(60), -np.ones(60)]:
        bound = float(drop_bound(losses, confidence))
        needed, mean = 1 / (1 - confidence), (bound + 1) / 2
        assert plain_capital(losses, mean - 1e-9, confidence) < needed
        assert bound == 1 or plain_capital(losses, mean + 1e-9, confidence) >= needed
        for limit in (bound - 1e-6, bound + 1e-6):
            if limit < 1:
                assert bool(keeps_limit(losses, limit, confidence)) == (limit > bound)


def test_the_order_of_the_stored_images_does_not_matter_for_long() -> None:
    """Images sorted by loss give about the bound of mixed ones: they are taken in a random order."""
    mixed = draw([0.05], 1, 2000)[0, 0]
    bounds = [float(drop_bound(losses, CONFIDENCE)) for losses in (mixed, np.sort(mixed), np.sort(mixed)[::-1])]
    assert max(bounds) - min(bounds) < 0.01


@pytest.mark.parametrize("mean", [-0.01, 0.0, 0.02])
def test_about_half_of_the_draws_certify_with_the_number_of_images_needed(mean: float) -> None:
    needed = images_needed(draw([mean], 1, 20_000)[0, 0], 0.05, CONFIDENCE)
    assert needed is not None
    share = {
        times: keeps_limit(draw([mean], 200, int(times * needed))[:, 0], 0.05, CONFIDENCE).mean()
        for times in (0.5, 1, 2)
    }
    assert share[0.5] < share[1] < share[2] and 0.4 < share[1] < 0.85


def test_no_number_of_images_certifies_a_point_at_the_limit() -> None:
    assert images_needed(np.repeat([1.0, 0.0], [1, 99]), 0.01, CONFIDENCE) is None
    assert images_needed(np.repeat([1.0, -1.0], [504_999, 495_001]), 0.01, CONFIDENCE) is None
    exact = images_needed(np.zeros(10), 0.01, CONFIDENCE)
    assert exact is not None and 461 <= exact < 600, "2.3 / log(1.005), and bets that begin small"
