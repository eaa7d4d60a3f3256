"""Sizes of the subjects of `replay.py`."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from report import register_tiny


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of the traces, grids and batches that `replay.py` measures."""

    backbone: str = "vgg19"
    samples: int = 10_000
    exits: int = 20
    grid_betas: tuple[int, ...] = (10, 100, 1000)
    tallies: int = 200
    """Number of points of a grid that are replayed one at a time."""
    plain_samples: tuple[int, ...] = (500, 10_000)
    live_images: int = 256
    live_batch: int = 256
    single_images: int = 32
    many_samples: tuple[int, ...] = (1_000, 3_000, 10_000, 30_000, 100_000)
    many_exits: tuple[int, ...] = (5, 10, 20, 35, 50)
    disk: tuple[int, int, int] = (5_000, 50, 1_000)
    """Samples, exits and classes of the trace that stays on disk."""
    window: float = 0.05
    """Seconds for which a short call is repeated."""
    repeats: int = 5


def sizes_of(options: argparse.Namespace) -> Sizes:
    """Sizes of a full run or of a smoke run."""
    if not options.quick:
        return Sizes(repeats=options.repeats, disk=(50_000, 50, 1_000) if options.big else Sizes.disk)
    return Sizes(
        backbone=register_tiny(),
        samples=500,
        exits=6,
        grid_betas=(10, 100),
        tallies=20,
        plain_samples=(100,),
        live_images=16,
        live_batch=8,
        single_images=2,
        many_samples=(100, 200, 400),
        many_exits=(3, 6, 9),
        disk=(1_000, 10, 100),
        window=0.002,
        repeats=2,
    )
