"""An upper bound on the mean loss of accuracy on new images, by betting.

The loss of an image is x = (reference right) - (point right), one of -1, 0 and 1. The mean of x on new images is the
loss of accuracy. With u = (x + 1) / 2 the mean m of u lies between 0 and 1.

**The bound** (Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", JRSS B, 2023). Assume
that the mean of u is at least m. Then a gambler who bets that the next u lies below m cannot expect to win. He starts
with a capital of 1 and multiplies it by 1 + nu (m - u) at each image, where nu was fixed before the image was seen. The
capital is a nonnegative supermartingale, and with a chance of at least 1 - delta it stays below 1/delta for ever
(Ville's inequality). Where it reaches 1/delta, the assumption is given up. The capital rises with m; the bound is the
least m that is given up.

**The bets** are the predictable plug-in bets of the paper: nu_i = min(1, sqrt(2 ln(1/delta) / (n s^2))), where s^2 is
the variance of the images before image i, with one image at 1/2 and a variance of 1/4 to begin with. The factor
1 + nu (m - u) is least at u = 1, where it is 1 - nu (1 - m): bets up to 1 keep it at m or above, for every m.

The bound holds for images in the order in which they are drawn. Stored images may be sorted. Therefore they are taken
in one random order, the same for every point.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from study.arrays import Booleans, Floats, Integers

_STEPS = 40  # of the bisection: the bound is known to 1e-12
_MOST_IMAGES = 10**6
_SEED = 0x62657473


def drop_bound(losses: Floats, confidence: float) -> Floats:
    """The upper bound on the mean loss, for each row of ``losses [..., N]``: ``[...]``."""
    values, bets = _values_and_bets(losses, confidence)
    low, high = np.zeros(losses.shape[:-1]), np.ones(losses.shape[:-1])
    for _ in range(_STEPS):
        middle = (low + high) / 2
        given_up = _given_up(values, bets, middle, confidence)
        low, high = np.where(given_up, low, middle), np.where(given_up, middle, high)
    return np.asarray(2 * high - 1)


def keeps_limit(losses: Floats, limit: float, confidence: float) -> Booleans:
    """Whether the upper bound on the mean loss is at most ``limit``, for each row of ``losses [..., N]``: ``[...]``."""
    mean = np.full(losses.shape[:-1], (limit + 1) / 2)
    return _given_up(*_values_and_bets(losses, confidence), mean, confidence)


def count_certified(path: Iterable[Floats], limit: float, confidence: float) -> int:
    """How many settings at the beginning of an ordered path keep the limit: fixed-sequence testing.

    The walk ends at the first setting that does not keep the limit. Only the first setting of the path that breaks the
    limit in truth can go wrong, and the walk tests it once: hence the confidence holds for the whole path, without a
    correction for many tests. The path must be fixed before the images of ``losses`` are looked at.

    Args:
        path: the losses ``[N]`` of each setting, from safe to cheap, on the same images.
        limit: the most accuracy that may be lost.
        confidence: 1 - delta.
    """
    certified = 0
    for losses in path:
        if not keeps_limit(losses, limit, confidence):
            break
        certified += 1
    return certified


def images_needed(losses: Floats, limit: float, confidence: float) -> int | None:
    """About how many images certify a setting, if they have the mean and the variance of ``losses [N]``.

    The logarithm of the capital is expected to reach ln(1/delta) at this number of images. None where the mean loss is
    at the limit or above, or where more than a million images would be needed.
    """
    if losses.mean() >= limit:
        return None
    few, many = 1, 1
    while _expected_log_capital(losses, many, limit, confidence) < -np.log(1 - confidence):
        few, many = many, 2 * many
        if many > _MOST_IMAGES:
            return None
    while many - few > max(1, few // 1000):
        middle = (few + many) // 2
        if _expected_log_capital(losses, middle, limit, confidence) < -np.log(1 - confidence):
            few = middle
        else:
            many = middle
    return many


def betting_order(images: int) -> Integers:
    """``[N]``: the random order in which images are bet on. No other random number has this seed."""
    # Numpy promises the same words for every version and platform; for `permutation` there is no such promise.
    words = np.random.default_rng(np.random.SeedSequence(_SEED)).bit_generator.random_raw(images)
    return np.asarray(np.argsort(words, kind="stable"), dtype=np.int64)


def _expected_log_capital(losses: Floats, images: int, limit: float, confidence: float) -> float:
    """Of that many images with the distribution of some losses."""
    variance = losses.var() / 4
    spread = (0.25 + np.arange(images) * variance) / (np.arange(images) + 1)
    bets = np.minimum(1.0, np.sqrt(-2 * np.log(1 - confidence) / (images * spread)))
    kinds, counts = np.unique(losses, return_counts=True)
    gains = ((limit - kind) / 2 for kind in kinds)  # m - u
    pairs = zip(gains, counts / len(losses), strict=True)
    return float(sum(share * np.log1p(bets * gain).sum() for gain, share in pairs))


def _values_and_bets(losses: Floats, confidence: float) -> tuple[Floats, Floats]:
    """u of the images ``[..., N]`` in the random order, and the bets, each from the images before."""
    count = losses.shape[-1]
    values = (losses[..., betting_order(count)] + 1) / 2
    seen = np.arange(2, count + 2)
    means = (0.5 + values.cumsum(axis=-1)) / seen
    spread = (0.25 + ((values - means) ** 2).cumsum(axis=-1)) / seen
    before = np.concatenate([np.full((*losses.shape[:-1], 1), 0.25), spread[..., :-1]], axis=-1)
    return values, np.minimum(1.0, np.sqrt(-2 * np.log(1 - confidence) / (count * before)))


def _given_up(values: Floats, bets: Floats, mean: Floats, confidence: float) -> Booleans:
    """Whether the capital of a bet against the mean ``[...]`` reaches 1/delta."""
    with np.errstate(divide="ignore"):  # a capital of 0 stays 0
        logs = np.log1p(bets * (mean[..., None] - values)).cumsum(axis=-1)
    return np.asarray((logs >= -np.log(1 - confidence)).any(axis=-1))
