"""Options of the command ``predictive-exit``."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from results.storage.paths import Location, location
from search_spaces.study_files import bundled
from study.networks.precisions import PRECISIONS
from study.policies.criteria import CRITERIA

DEFAULT_COSTS = "horowitz-2014-45nm"


def _positive(text: str) -> int:
    return _whole(text, 10**9)


def _batch(text: str) -> int:
    return _whole(text, 2**16)


def _classes(text: str) -> int:
    return _whole(text, 10**5)


def _whole(text: str, most: int) -> int:
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text[:60]!r} is no whole number") from None
    if not 1 <= number <= most:
        raise argparse.ArgumentTypeError(f"{number} is not a whole number from 1 to {most}")
    return number


def _positive_number(text: str) -> float:
    number = float(text)
    if not (math.isfinite(number) and number > 0):
        raise argparse.ArgumentTypeError(f"{text} is not a finite number above 0")
    return number


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"expected a share from 0 to below 1, as 0.01 for one point, got {text}")
    return value


def _location(text: str) -> Location:
    try:
        return location(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_run(parser: argparse.ArgumentParser) -> None:
    """Options of ``run``."""
    parser.add_argument("space", help=f"a study file, or one that comes with the program: {', '.join(bundled())}")
    parser.add_argument(
        "--storage",
        default="runs",
        metavar="DIR",
        help="of the run folders: a folder, or s3://bucket/folder (default: runs)",
    )
    parser.add_argument("--name", help="name of the run folder (default: the study's)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="e.g. --set backbones.epochs=5")
    add_image_source(parser)
    parser.add_argument("--folder", help="data set image_folder: the folder with the images")
    parser.add_argument("--pretrained", metavar="PATH", help="your own weights in place of phase 1's backbones")
    parser.add_argument("--dry-run", action="store_true", help="print what would run and about how long; start nothing")
    parser.add_argument("--extend", action="store_true", help="let the study of this run folder grow to what is asked")
    parser.add_argument("--address", metavar="RAY", help="of a running Ray cluster (default: Ray on this machine)")
    parser.add_argument("--json", action="store_true", help="print the front as JSON")


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


def add_train(parser: argparse.ArgumentParser) -> None:
    """Options of ``train``."""
    add_network_and_data(parser)
    parser.add_argument("--mode", default="original", choices=("normal", "original", "exits", "joint"))
    parser.add_argument("--epochs", type=_positive, default=30)
    parser.add_argument("--batch-size", type=_batch, default=128)
    parser.add_argument("--optimizer", default="adam", choices=("adam", "adamw", "sgd"))
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--weight-decay", type=float, default=0.0)
    parser.add_argument("--schedule", default="cosine", choices=("constant", "cosine"))
    parser.add_argument("--warmup-epochs", type=float, default=0.0)
    parser.add_argument("--ema-decay", type=float, default=0.0, help="keep an average of the weights (0: none)")
    parser.add_argument("--patience", type=_positive, help="stop after so many epochs without a better score")
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16"))
    parser.add_argument("--head", default="bof", choices=("bof", "linear", "conv", "separable"))
    parser.add_argument("--codewords", type=int, default=64, help="of a bof head")
    parser.add_argument("--seed", type=int, help="of weights and splits (default: that of --pretrained, or 0)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--output", type=Path, metavar="DIR", help="default: models/BACKBONE-MODE-DATA[-SUFFIX]")
    where.add_argument("--suffix", help="keeps runs of other settings apart in models/")
    where.add_argument("--no-save", action="store_true", help="save nothing")


def add_evaluate(parser: argparse.ArgumentParser) -> None:
    """Options of ``evaluate``."""
    add_network_and_data(parser)
    parser.add_argument("--evaluate-mode", default="exits", choices=("normal", "exits"), help="normal: without exits")
    parser.add_argument(
        "--forward-mode",
        default="normal",
        choices=("normal", "accuracy"),
        help="accuracy: how often the engine predicts the right exit, by predicted and true distance",
    )
    parser.add_argument("--policy", default="predictive", choices=("predictive", "hierarchical", "placed", "static"))
    parser.add_argument("--beta", type=float, nargs="+", default=[15.0], help="one, or one for each exit")
    parser.add_argument(
        "--criterion",
        default="logit",
        choices=[name for name in CRITERIA if name != "oracle"],
        help="of hierarchical and placed; --beta is its threshold",
    )
    parser.add_argument("--start-layer", type=int, default=1)
    parser.add_argument("--max-jump", type=int, default=8)
    parser.add_argument("--overshoot", default="last_exit", choices=("last_exit", "classifier"))
    parser.add_argument("--exits", type=int, nargs="+", metavar="EXIT", help="of placed (several) and static (one)")
    parser.add_argument("--statistic", default="mean_logit", choices=("mean_logit", "mean_max"))
    parser.add_argument("--stat-each-layer", action="store_true", help="print the statistics of each layer")
    parser.add_argument("--quantization", default="fp32", choices=PRECISIONS, help="int8_all: exit heads too")
    parser.add_argument("--compile", action="store_true", help="let torch.compile make the kernels")
    add_costs(parser)
    parser.add_argument(
        "--dvfs",
        choices=("race_to_idle", "paper", "deadline"),
        help="simulate frequency scaling on a device table with levels (--costs)",
    )
    parser.add_argument("--dvfs-slack", type=float, help="of the deadline (default: the smallest that can be kept)")
    parser.add_argument("--other-device", action="store_true", help="use a profile of another device all the same")
    parser.add_argument("--split", default="test", choices=("test", "validation", "calibration"))
    parser.add_argument("--batch-size", type=_batch, default=256, help="1: image by image")
    parser.add_argument("--seed", type=int, help="of the splits, for bare weights (default: 0)")


def add_costs(parser: argparse.ArgumentParser) -> None:
    """Where energies come from."""
    parser.add_argument(
        "--costs",
        default=DEFAULT_COSTS,
        metavar="TABLE",
        help="a device table by name or path, or (evaluate) a profile's .json (default: %(default)s)",
    )


def add_profile(parser: argparse.ArgumentParser) -> None:
    """Options of ``profile``."""
    add_network_and_data(parser)
    parser.add_argument(
        "--head", default=None, choices=("bof", "linear", "conv", "separable"), help="of an untrained network"
    )
    parser.add_argument("--classes", type=_classes, help="of an untrained network (default: 10)")
    parser.add_argument("--quantization", nargs="+", default=["fp32"], choices=PRECISIONS)
    parser.add_argument("--batch-size", nargs="+", type=_batch, default=[1])
    parser.add_argument("--compile", action="store_true", help="let torch.compile make the kernels")
    add_costs(parser)
    parser.add_argument("--no-meter", action="store_true", help="measure seconds only; joules come from the table")
    parser.add_argument("--repeats", type=_positive, default=3, help="of every measurement, interleaved")
    parser.add_argument(
        "--window", type=_positive_number, default=3.0, metavar="SECONDS", help="of energy (default: 3)"
    )
    parser.add_argument("--output", type=Path, default=Path("profiles"), metavar="DIR", help="default: profiles")
    parser.add_argument("--seed", type=int, help="of the splits (default: that of --pretrained, or 0)")


def add_front(parser: argparse.ArgumentParser) -> None:
    """Options of ``front``."""
    parser.add_argument("folder", type=_location, help="run folder")
    parser.add_argument(
        "--exact",
        action="store_true",
        help="compute the exact front of all betas and start layers from the stored traces, on validation",
    )
    _add_stored_space(parser, "beside --exact: another space, as --set operating_points.policy=hierarchical")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the front as .csv or .parquet")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw it as .png, .svg or .pdf")
    parser.add_argument("--json", action="store_true", help="print the front as JSON")


def _add_stored_space(parser: argparse.ArgumentParser, text: str) -> None:
    """Which networks of a run folder, in which space."""
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=text)
    parser.add_argument("--data", metavar="NAME", help="of a study of several data sets: this one")


def add_compare(parser: argparse.ArgumentParser) -> None:
    """Options of ``compare``."""
    parser.add_argument("folder", type=_location, help="run folder")
    parser.add_argument(
        "--drop",
        nargs="+",
        type=_share,
        metavar="SHARE",
        help="accuracy that may be lost against the network without exits, on validation (default: 0 0.005 0.01 0.02)",
    )
    parser.add_argument("--objective", default="flops", choices=("flops", "energy"), help="what is to be least")
    _add_stored_space(parser, "other costs, precisions, jumps, constraints, as operating_points.statistic=mean_max")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write all rows as .csv or .parquet")
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_pack(parser: argparse.ArgumentParser) -> None:
    """Options of ``pack``."""
    parser.add_argument("folder", type=_location, help="run folder")
    parser.add_argument("destination", type=Path, help="a new folder")


def add_status(parser: argparse.ArgumentParser) -> None:
    """Options of ``status``."""
    parser.add_argument("folder", type=_location, help="run folder")
    parser.add_argument("--json", action="store_true")
