"""Where images stop: the shares that a benchmark of exported models gives to the exits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from results.parts import read_table

STUDIES = {
    "vgg19:1": "vgg19-cifar10",
    "vgg19:0.25": "vgg19-quarter-fashion-mnist",
    "resnet34:1": "resnet34-quarter-cifar10",
    "resnet34:0.25": "resnet34-quarter-cifar10",
}
"""Network -> the study whose recommended point is taken. ResNet-34 has one at a quarter of the width alone."""
PLACES, SHARES = (0.25, 0.5, 0.75), (0.5, 0.3, 0.1)
"""Of the three exits of :func:`three_stops`, as shares of all exits; and the images that stop there."""


@dataclass(frozen=True)
class Stops:
    """The tried exits, and the shares of all images that stop there; the others go to the classifier."""

    exits: Sequence[int]
    shares: Sequence[float]
    source: str


def three_stops(exit_count: int) -> Stops:
    """Three exits at which 50, 30 and 10 % of the images stop."""
    places = {max(1, round(place * exit_count)): share for place, share in zip(PLACES, SHARES, strict=True)}
    return Stops(list(places), list(places.values()), "50, 30 and 10 % stop at three exits")


def reference_stops(network: str, exit_count: int) -> Stops:
    """The exits at which test images stop under the recommended point of a reference study.

    Raises:
        SystemExit: no study has this network.
    """
    if network not in STUDIES:
        raise SystemExit(f"no reference study has {network}: use {', '.join(STUDIES)}, or --stops three")
    tables = Path(__file__).parents[2] / "results" / "reference" / STUDIES[network] / "tables"
    front, exits = read_table(tables, "front"), read_table(tables, "exits")
    point = front.loc[front["recommended"].fillna(False).astype(bool), "number"].iloc[0]
    rows = exits[(exits["split"] == "test") & (exits["point"] == point) & (exits["share_stopped"] > 0)]
    rows = rows[rows["exit"] <= exit_count].sort_values("exit")
    source = f"stops of point {point} of {STUDIES[network]}: mean exit {rows['exit'] @ rows['share_stopped']:.1f}"
    return Stops(rows["exit"].tolist(), rows["share_stopped"].tolist(), f"{source}, {len(rows)} exits")
