"""Checks for authors of backbones, heads, criteria and policies; an ``AssertionError`` says what does not hold.

The checks need no images and no training: they run on random numbers, in seconds, and those of int8 in about a second
a segment.
"""

from study.testing.networks import check_backbone, check_head
from study.testing.rules import check_criterion, check_policy

__all__ = ["check_backbone", "check_criterion", "check_head", "check_policy"]
