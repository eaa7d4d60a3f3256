"""How many examples the property-based tests try, by the Hypothesis profile of the run."""

from __future__ import annotations

from typing import Any

from hypothesis import settings

FEWEST = 20
"""Examples that a test tries in every profile, unless its full number is lower."""


def register_profiles() -> None:
    """Register the profiles; ``max_examples`` of a profile is the percentage of each test's full number.

    A test without a number of its own tries ``max_examples`` examples.
    """
    settings.register_profile("thorough", deadline=None, max_examples=100)
    settings.register_profile("default", deadline=None, max_examples=50)


def examples(full: int, **others: Any) -> settings:
    """A decorator: the test tries ``full`` examples in the profile ``thorough``, and a share of them in others.

    Args:
        full: number of examples.
        others: further settings of Hypothesis.
    """
    share = round(full * settings.default.max_examples / 100)
    return settings(max_examples=min(full, max(FEWEST, share)), **others)
