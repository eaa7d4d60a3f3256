"""``predictive-exit predict``: classify image files with an exported model."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search_spaces.words import printable
from study.cli.options import path, whole
from study.errors import UserError

if TYPE_CHECKING:
    from study.deploy.early_exit import EarlyExit, Prediction
    from study.deploy.image_stream import Problem


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of ``predict``."""
    parser.add_argument("model", type=path, metavar="MODEL", help="folder that `export` wrote")
    parser.add_argument(
        "images",
        nargs="+",
        type=path,
        metavar="IMAGE",
        help="image files, and folders with all images below them; -: read such names from stdin, one a line",
    )
    parser.add_argument(
        "--json", action="store_true", help="print a JSON object for each image, and the summary as the last one"
    )
    parser.add_argument("--batch-size", type=whole(2**16), default=256, help="images that run together")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")


def execute(options: argparse.Namespace) -> int:
    """Print a line for each image on stdout, and a summary on stderr.

    Returns:
        1 if a name gave no image, else 0.
    """
    from study.deploy.early_exit import EarlyExit
    from study.deploy.image_stream import answered_images, images_under

    from_stdin = options.images == [Path("-")]
    if Path("-") in options.images and not from_stdin:
        raise UserError("predict: - stands for the names on stdin: give it alone")
    model = EarlyExit.load(options.model, device=options.device)
    tally = _Tally(model)
    names = _names_on_stdin() if from_stdin else options.images
    for found in answered_images(model, images_under(names), options.batch_size):
        for problem in found.problems:
            tally.unreadable(problem)
            if options.json:
                _print_json({"image": str(problem.path), "error": problem.reason})
        if found.paths:
            tally.add(found.prediction)
            _print(found.paths, found.prediction, options.json)
        sys.stdout.flush()
    if options.json:
        _print_json({"summary": tally.summary()})
    else:
        print(tally.text(), file=sys.stderr)
    return 1 if tally.unreadable.count else 0


class _Tally:
    """What was done so far."""

    def __init__(self, model: EarlyExit) -> None:
        self.model, self.start = model, time.perf_counter()
        self.exits, self.unreadable, self.flops = [0] * (model.exit_count + 1), Unreadable(), 0.0

    def add(self, prediction: Prediction) -> None:
        """Count the answers of a batch."""
        for exit in prediction.exits.tolist():
            self.exits[exit - 1] += 1
        self.flops += float(self.model.flops(prediction).sum())

    def summary(self) -> dict[str, Any]:
        """``exits``: number of an exit -> images that stopped there; E + 1 is the classifier.

        Images a second include the reading of the files. The share of FLOPs is that of the whole network.
        """
        images = sum(self.exits)
        return {
            "images": images,
            "unreadable": self.unreadable.count,
            "exits": {str(exit): count for exit, count in enumerate(self.exits, start=1) if count},
            "images_per_second": images / (time.perf_counter() - self.start),
            "flops_share_of_classic": self.flops / (images * self.model.classic_flops) if images else None,
        }

    def text(self) -> str:
        """The summary in one line."""
        found, last = self.summary(), str(self.model.exit_count + 1)
        exits = [
            f"{'classifier' if exit == last else f'exit {exit}'} {count:,}" for exit, count in found["exits"].items()
        ]
        parts = [f"{found['images']:,} images"]
        if exits:
            parts += [f"{', '.join(exits)}", f"{found['images_per_second']:,.0f} images/s"]
            parts += [f"{found['flops_share_of_classic']:.1%} of the whole network's FLOPs"]
        return "; ".join([*parts, *([f"{self.unreadable.count:,} not read"] if self.unreadable.count else [])])


def _names_on_stdin() -> Iterator[Path]:
    """Names, one a line. stdin is read through a copy, which a thread may still hold when the program ends."""
    with open(os.dup(sys.stdin.fileno()), "rb") as lines:  # noqa: PTH123 (a descriptor has no path)
        for line in lines:
            if name := line.rstrip(b"\r\n"):
                yield Path(os.fsdecode(name))


def _print(paths: Sequence[Path], prediction: Prediction, as_json: bool) -> None:
    rows = zip(
        paths,
        prediction.names,
        prediction.classes.tolist(),
        prediction.exits.tolist(),
        prediction.confidences.tolist(),
        strict=True,
    )
    for file, name, number, exit, confidence in rows:
        if as_json:
            _print_json(
                {"image": str(file), "class": name, "class_number": number, "exit": exit, "confidence": confidence}
            )
        else:
            print(f"{_cell(file)}\t{_cell(name)}\t{exit}\t{confidence:.6f}")


def _print_json(value: dict[str, Any]) -> None:
    from study.storage.strict_json import dumps

    print(dumps(value))


class Unreadable:
    """Tells on stderr of each name that gives no image, and counts them."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, problem: Problem) -> None:
        """Print a line."""
        self.count += 1
        print(f"predictive-exit: cannot read image {_cell(problem)}", file=sys.stderr)


def _cell(value: object) -> str:
    """A text in one line, its control characters escaped."""
    return printable(str(value)).replace("\n", "\\n")
