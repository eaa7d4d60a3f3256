"""Which image belongs to which split: stratified, drawn by a seed, the same on every platform.

The rule, for a class c with n_c of the N images in the training part (after ``limit``):

- Calibration, validation and certification are cut out, in this order. Certification may have the share 0. The images
  of the other two do not depend on its share.
- A split with share s takes floor(s n_c) images or one more. The classes with the largest remainders give one more,
  until the split has round(s N) images. The train split has all other images.
- If round(s N) is at least the number of classes, the split has at least one image of every class. Otherwise some
  classes are missing in the split. A split without any image is refused, unless its share is 0.
- The train split has at least one image of every class. A class that is too small is refused by name.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from study.errors import UserError

Indices = npt.NDArray[np.int64]

# The purpose of random numbers is the first word of their seed, so that no two purposes share a stream.
_LIMIT, _HOLD_OUT, _CALIBRATE, _TEST_LIMIT, _TEST_PART, _CERTIFY = range(6)

_VERBS = {"calibration": "calibrate", "validation": "validate", "certification": "certify"}
TEST_SHARE = 0.2  # of the images, in data sets without a test part of their own


def cut(
    labels: Indices,
    class_names: Sequence[str],
    *,
    calibration: float,
    validation: float | None,
    certification: float = 0.0,
    limit: int | None,
    seed: int,
    test_sizes: Indices | None = None,
) -> dict[str, Indices]:
    """Cut the training part in three, or in four.

    Args:
        labels: ``[N]``, each in 0..len(class_names)-1.
        calibration, validation, certification: shares of the images that ``limit`` leaves. ``validation`` is None where
            the user has a validation split: none is cut then.
        limit: the most images that are used.
        test_sizes: ``[C]``, images of each class that the test part took from the same files, for messages.

    Returns:
        ``train``, ``calibration``, ``validation`` and, where it has a share, ``certification`` -> ascending indices
        into ``labels``.

    Raises:
        UserError: a class or a split would be left without the images that it needs.
    """
    kept = np.arange(len(labels))
    if limit is not None and limit < len(labels):
        if limit < len(class_names):
            raise UserError(f"limit {limit} is too small for {len(class_names)} classes: each needs an image")
        kept = _sample(labels, len(class_names), limit, (_LIMIT, seed))
    used = labels[kept]
    shares = {"calibration": calibration}
    if validation is not None:
        shares["validation"] = validation
    if certification:
        shares["certification"] = certification
    counts = _split_counts(np.bincount(used, minlength=len(class_names)), class_names, shares, test_sizes)
    held_out = _draw(used, counts["calibration"] + counts.get("validation", 0), (_HOLD_OUT, seed))
    # The second draw divides the images of the first one, so that the two splits cannot overlap.
    of_held_out = _draw(used[held_out], counts["calibration"], (_CALIBRATE, seed))
    splits = {"train": np.delete(kept, held_out), "calibration": kept[held_out[of_held_out]]}
    if validation is not None:
        splits["validation"] = kept[np.delete(held_out, of_held_out)]
    if certification:
        rest = splits["train"]
        certifying = _draw(labels[rest], counts["certification"], (_CERTIFY, seed))
        splits |= {"train": np.delete(rest, certifying), "certification": rest[certifying]}
    return splits


def limited_test_part(labels: Indices, classes: int, test_limit: int | None) -> Indices:
    """Ascending indices of the test images to use: stratified, and the same for every seed of a study."""
    if test_limit is None or test_limit >= len(labels):
        return np.arange(len(labels))
    return _sample(labels, classes, test_limit, (_TEST_LIMIT,))


def fixed_test_part(labels: Indices, classes: int) -> Indices:
    """Ascending indices of a fifth of each class: the test part of a data set without a test part of its own."""
    return _sample(labels, classes, _rounded(TEST_SHARE * len(labels)), (_TEST_PART,))


def _sample(labels: Indices, classes: int, total: int, seed: tuple[int, ...]) -> Indices:
    return _draw(labels, apportion(np.bincount(labels, minlength=classes), total), seed)


def apportion(sizes: Indices, total: int) -> Indices:
    """Seats for classes of the given sizes ``[C]``, in proportion, by largest remainder: ``[C]``, sum ``total``.

    Each class with an image gets a seat if there are enough seats. Requires total <= sizes.sum().
    """
    quota = total * sizes / max(1, sizes.sum())
    counts = np.floor(quota).astype(np.int64)
    if total >= np.count_nonzero(sizes):
        counts = np.maximum(counts, np.minimum(sizes, 1))
    counts = _hand_out(counts, quota, total, room=sizes - counts)
    while counts.sum() > total:  # classes with the largest excess give back the seats of tiny classes
        excess = np.where(counts > 1, counts - quota, -np.inf)
        counts[int(np.argmax(excess))] -= 1
    return counts


def _split_counts(
    sizes: Indices, class_names: Sequence[str], shares: Mapping[str, float], test_sizes: Indices | None
) -> dict[str, Indices]:
    """Images per class ``[C]`` of each split that has a share, by the rule of this module."""
    images = int(sizes.sum())
    totals = [_rounded(share * images) for share in shares.values()]
    for (name, share), total in zip(shares.items(), totals, strict=True):
        if total == 0:
            raise UserError(
                f"{name} share {share} of {images} images is less than one image: make it {1 / images:.2g} or more"
            )
    quotas = np.outer(list(shares.values()), sizes)
    at_least = [[1 if total >= len(sizes) else 0] for total in totals]
    counts = np.maximum(np.floor(quotas).astype(np.int64), at_least)
    room = sizes - counts.sum(axis=0) - 1  # one image of each class stays in the train split
    *verbs, last = ("train", *(_VERBS[name] for name in shares))
    uses = f"{', '.join(verbs)} and {last} on"
    if (room < 0).any():
        smallest = int(np.argmin(room))
        has = "1 image" if sizes[smallest] == 1 else f"{sizes[smallest]} images"
        rest = "" if test_sizes is None else f" ({test_sizes[smallest]} more in the test part)"
        raise UserError(
            f"class {class_names[smallest]!r} has {has} to {uses}{rest} "
            f"but needs {counts[:, smallest].sum() + 1}: add images, drop the class, "
            f"raise limit, or make {' and '.join(', '.join(shares).rsplit(', ', 1))} smaller"
        )
    found = {}
    for name, count, quota, total in zip(shares, counts, quotas, totals, strict=True):
        found[name] = _hand_out(count, quota, total, room=room)
        room = room - (found[name] - count)
    if not all(split.any() for split in found.values()):
        raise UserError(
            f"{images} images in {len(sizes)} classes are too few to {uses}: "
            "each class needs an image to train on, and the other splits need images too"
        )
    return found


def _hand_out(counts: Indices, quota: npt.NDArray[np.float64], total: int, *, room: Indices) -> Indices:
    """Give one more to the classes ``[C]`` with the largest remainders and room, until ``total`` is reached."""
    remainder = np.where((room > 0) & (quota > counts), quota - counts, 0.0)
    order = np.argsort(-remainder, kind="stable")  # equal remainders: the lower class first
    winners = order[: max(0, total - int(counts.sum()))]
    winners = winners[remainder[winners] > 0]
    handed_out = counts.copy()
    handed_out[winners] += 1
    return handed_out


def _draw(labels: Indices, counts: Indices, seed: tuple[int, ...]) -> Indices:
    """Ascending indices of ``counts[c]`` random images of each class c.

    Raw 64-bit words of the bit generator rank the images. Numpy promises the same words for every version and platform;
    for ``permutation`` and ``choice`` there is no such promise.
    """
    words = np.random.default_rng(np.random.SeedSequence(seed)).bit_generator.random_raw(len(labels))
    order = np.lexsort((words, labels))  # by class, and at random within each
    ranked = labels[order]
    rank = np.arange(len(labels)) - np.searchsorted(ranked, ranked)  # 0, 1, 2 .. within each class
    return np.sort(order[rank < counts[ranked]]).astype(np.int64)


def _rounded(value: float) -> int:
    """Halves upwards (Python's round takes them to the even neighbour)."""
    return int(np.floor(value + 0.5))
