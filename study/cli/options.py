"""Types and groups of options that several commands share."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from results.storage.paths import Location, location

DEFAULT_COSTS = "horowitz-2014-45nm"


def positive(text: str) -> int:
    """A whole number of at least 1."""
    return whole(text, 10**9)


def batch(text: str) -> int:
    """A number of images a batch."""
    return whole(text, 2**16)


def whole(text: str, most: int) -> int:
    """A whole number from 1 to ``most``."""
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text[:60]!r} is no whole number") from None
    if not 1 <= number <= most:
        raise argparse.ArgumentTypeError(f"{number} is not a whole number from 1 to {most}")
    return number


def positive_number(text: str) -> float:
    """A finite number above 0."""
    number = float(text)
    if not (math.isfinite(number) and number > 0):
        raise argparse.ArgumentTypeError(f"{text} is not a finite number above 0")
    return number


def run_folder(text: str) -> Location:
    """A run folder on a disk or in an object store."""
    try:
        return location(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_image_source(parser: argparse.ArgumentParser) -> None:
    """Where data sets are."""
    parser.add_argument("--data-root", default="data", type=Path, metavar="DIR", help="of data sets (default: data)")
    parser.add_argument("--download", action="store_true", help="fetch a missing data set")


def add_network_and_data(parser: argparse.ArgumentParser) -> None:
    """Which network, on which images, on which device."""
    parser.add_argument("--pretrained", type=Path, metavar="PATH", help="checkpoint folder, .safetensors or state_dict")
    parser.add_argument("--backbone", help="e.g. vgg19, resnet34 (default: that of --pretrained, or vgg19)")
    parser.add_argument("--width", type=float, help="factor on channel counts (default: that of --pretrained, or 1)")
    parser.add_argument(
        "--data",
        help="digits, cifar10, cifar100, svhn, stl10, fashion_mnist or image_folder"
        " (default: that of --pretrained, or digits)",
    )
    parser.add_argument("--folder", help="data set image_folder: the folder with the images")
    parser.add_argument("--image-size", type=int, help="pixels a side (default: the data set's)")
    parser.add_argument("--channels", type=int, choices=(1, 3), help="default: the data set's")
    parser.add_argument("--limit", type=int, help="train on at most so many images")
    add_image_source(parser)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def add_costs(parser: argparse.ArgumentParser) -> None:
    """Where energies come from."""
    parser.add_argument(
        "--costs",
        default=DEFAULT_COSTS,
        metavar="TABLE",
        help="a device table by name or path, or (evaluate) a profile's .json (default: %(default)s)",
    )


def add_stored_space(parser: argparse.ArgumentParser, text: str) -> None:
    """Which networks of a run folder, in which space."""
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=text)
    parser.add_argument("--data", metavar="NAME", help="of a study of several data sets: this one")


def data_request(options: argparse.Namespace) -> dict[str, Any]:
    """The fields of the data settings that the options name; None where an option was left out."""
    names = {"name": "data", **{name: name for name in ("folder", "image_size", "channels", "limit", "seed")}}
    request = {name: getattr(options, option) for name, option in names.items()}
    # A folder on the command line is meant from where one stands; in a study file, from the data root.
    return {**request, "folder": str(Path(options.folder).absolute()) if options.folder else None}
