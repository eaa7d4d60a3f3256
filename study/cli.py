"""The command ``predictive-exit``: parse, call, print."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

from results.tables import TableError
from search_spaces.spec import SpecError, bundled, load_space, parse_change
from study.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 0, or 2 for a user's mistake, told in one line on stderr."""
    options = build_parser().parse_args(arguments)
    try:
        options.run(options)
        sys.stdout.flush()
    except (UserError, SpecError, TableError) as error:
        print(f"predictive-exit: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of a pipe (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        print(f"predictive-exit: {place}{error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("predictive-exit: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def build_parser() -> argparse.ArgumentParser:
    """All commands and options."""
    parser = _Parser(
        prog="predictive-exit", description="Early-exit image classifiers that predict where they will stop."
    )
    parser.add_argument("--version", action="version", version=metadata.version("predictive-exit"))
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_run(commands.add_parser("run", help="run a study, or go on with it"))
    _add_train(commands.add_parser("train", help="train one network, without Ray"))
    _add_evaluate(commands.add_parser("evaluate", help="evaluate one network, without Ray"))
    _add_front(commands.add_parser("front", help="print, write or draw the front of a study"))
    _add_status(commands.add_parser("status", help="what of a study is done and what is left"))
    return parser


class _Parser(argparse.ArgumentParser):
    """Tells a wrong option in one line, like every other mistake."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not above 0")
    return number


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("space", help=f"a study file, or one that comes with the program: {', '.join(bundled())}")
    parser.add_argument("--storage", default="runs", metavar="DIR", help="parent of the run folders (default: runs)")
    parser.add_argument("--name", help="name of the run folder (default: the study's)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="e.g. --set backbones.epochs=5")
    _add_image_source(parser)
    parser.add_argument("--folder", help="data set image_folder: the folder with the images")
    parser.add_argument("--pretrained", metavar="PATH", help="your own weights in place of phase 1's backbones")
    parser.add_argument("--address", metavar="RAY", help="of a running Ray cluster (default: Ray on this machine)")
    parser.add_argument("--json", action="store_true", help="print the front as JSON")
    parser.set_defaults(run=_run)


def _add_image_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data-root", default="data", type=Path, metavar="DIR", help="of data sets (default: data)")
    parser.add_argument("--download", action="store_true", help="fetch a missing data set")


def _add_network_and_data(parser: argparse.ArgumentParser) -> None:
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
    _add_image_source(parser)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def _add_train(parser: argparse.ArgumentParser) -> None:
    _add_network_and_data(parser)
    parser.add_argument("--mode", default="original", choices=("normal", "original", "exits", "joint"))
    parser.add_argument("--epochs", type=_positive, default=30)
    parser.add_argument("--batch-size", type=_positive, default=128)
    parser.add_argument("--optimizer", default="adam", choices=("adam", "adamw", "sgd"))
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--weight-decay", type=float, default=0.0)
    parser.add_argument("--schedule", default="cosine", choices=("constant", "cosine"))
    parser.add_argument("--warmup-epochs", type=float, default=0.0)
    parser.add_argument("--patience", type=_positive, help="stop after so many epochs without a better score")
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16"))
    parser.add_argument("--head", default="bof", choices=("bof", "linear", "conv"))
    parser.add_argument("--codewords", type=int, default=64, help="of a bof head")
    parser.add_argument("--seed", type=int, help="of weights and splits (default: that of --pretrained, or 0)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: models/BACKBONE-MODE-DATA[-SUFFIX]")
    parser.add_argument("--suffix", help="keeps runs of other settings apart in models/")
    parser.add_argument("--no-save", action="store_true", help="save nothing")
    parser.set_defaults(run=_train)


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    _add_network_and_data(parser)
    parser.add_argument("--evaluate-mode", default="exits", choices=("normal", "exits"), help="normal: without exits")
    parser.add_argument(
        "--forward-mode",
        default="normal",
        choices=("normal", "accuracy"),
        help="accuracy: how often the engine predicts the right exit",
    )
    parser.add_argument("--policy", default="predictive", choices=("predictive", "hierarchical", "placed", "static"))
    parser.add_argument("--beta", type=float, default=15.0)
    parser.add_argument("--start-layer", type=int, default=1)
    parser.add_argument("--max-jump", type=int, default=8)
    parser.add_argument("--overshoot", default="last_exit", choices=("last_exit", "classifier"))
    parser.add_argument("--exits", type=int, nargs="+", metavar="EXIT", help="of placed (several) and static (one)")
    parser.add_argument("--statistic", default="mean_logit", choices=("mean_logit", "mean_max"))
    parser.add_argument("--stat-each-layer", action="store_true", help="print the statistics of each layer")
    parser.add_argument("--quantization", default="fp32", choices=("fp32",), help="int8 comes in a later version")
    parser.add_argument("--split", default="test", choices=("test", "validation", "calibration"))
    parser.add_argument("--batch-size", type=_positive, default=256, help="1: image by image")
    parser.add_argument("--seed", type=int, help="of the splits, for bare weights (default: 0)")
    parser.set_defaults(run=_evaluate)


def _add_front(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="run folder")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the front as .csv or .parquet")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw it as .png, .svg or .pdf")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(run=_front)


def _add_status(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="run folder")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(run=_status)


def _run(options: argparse.Namespace) -> None:
    from study.progress import Reporter
    from study.run import Surroundings, run_study
    from study.run_folder import run_folder
    from study.views import print_front

    changes = [parse_change(text) for text in options.set]
    if options.folder:
        changes.append(("data.folder", str(Path(options.folder).absolute())))
    if options.pretrained:
        changes.append(("backbones.pretrained", options.pretrained))
    spec = load_space(options.space, changes)
    where = Surroundings(
        folder=run_folder(options.storage, options.name or spec.name),
        data_root=options.data_root,
        download=options.download,
        address=options.address,
        reporter=Reporter(),
    )
    run_study(spec, where)
    print_front(where.folder, as_json=options.json)


def _train(options: argparse.Namespace) -> None:
    from study.networks.heads import HeadSettings
    from study.progress import Reporter
    from study.single import ImageSource, default_folder, resolve_request, train_one
    from study.training import TrainingSettings

    network, data = resolve_request(
        options.pretrained,
        backbone=options.backbone,
        width=options.width,
        head=HeadSettings(kind=options.head, codewords=options.codewords),
        data=_data_request(options),
    )
    constant = options.schedule == "constant"
    training = TrainingSettings(
        mode=options.mode,
        batch_size=options.batch_size,
        optimizer=options.optimizer,
        learning_rate=options.learning_rate,
        weight_decay=options.weight_decay,
        schedule=options.schedule,
        schedule_epochs=1 if constant else options.epochs,
        warmup_epochs=options.warmup_epochs,
        patience=options.patience,
        precision=options.precision,
        seed=data.seed,
    )
    folder = None if options.no_save else options.output or default_folder(network, options.mode, data, options.suffix)
    best = train_one(
        network,
        training,
        data,
        ImageSource(data_root=options.data_root, download=options.download),
        epochs=options.epochs,
        device=options.device,
        folder=folder,
        pretrained=options.pretrained,
        reporter=Reporter(),
    )
    result = {
        "folder": str(folder) if folder else None,
        "best_epoch": best.epoch,
        "split": "validation",
        "classifier_accuracy": best.classifier_accuracy,
        "exit_accuracies": list(best.exit_accuracies),
    }
    _print_result(result, options.json)


def _data_request(options: argparse.Namespace) -> dict[str, Any]:
    names = {"name": "data", **{name: name for name in ("folder", "image_size", "channels", "limit", "seed")}}
    request = {name: getattr(options, option) for name, option in names.items()}
    # A folder on the command line is meant from where one stands; in a study file, from the data root.
    return {**request, "folder": str(Path(options.folder).absolute()) if options.folder else None}


def _evaluate(options: argparse.Namespace) -> None:
    from study.networks.heads import HeadSettings
    from study.progress import Reporter
    from study.single import ImageSource, accuracy_forward, evaluate_one, load_network, resolve_request, split_images
    from study.training import pick_device

    if options.pretrained is None:
        raise UserError("evaluate: name a trained network with --pretrained")
    policy = _policy(options)
    source = ImageSource(data_root=options.data_root, download=options.download)
    network, data = resolve_request(
        options.pretrained,
        backbone=options.backbone,
        width=options.width,
        head=HeadSettings(),
        data=_data_request(options),
    )
    loaded = load_network(options.pretrained, source, pick_device(options.device), network, data)
    if options.forward_mode == "accuracy":
        result = accuracy_forward(
            loaded,
            split_images(loaded, options.split, source),
            beta=options.beta,
            start_layer=options.start_layer,
            max_jump=options.max_jump,
            statistic=options.statistic,
        )
        _print_result({"split": options.split, **result}, options.json)
        if not result["predictions"]:
            print(f"every image stops at exit {options.start_layer}: raise --beta to see predictions", file=sys.stderr)
        return
    evaluation = evaluate_one(
        loaded,
        split_images(loaded, options.split, source),
        policy,
        split=options.split,
        statistic=options.statistic,
        batch_size=options.batch_size,
        each_layer=options.stat_each_layer,
        reporter=Reporter(),
    )
    result = evaluation.summary()
    if options.stat_each_layer:
        result["layers"] = json.loads(evaluation.statistics().to_json(orient="records"))
    _print_result(result, options.json)


def _policy(options: argparse.Namespace) -> Any:
    from study.policies import Classic, Hierarchical, Placed, Predictive, Static

    if options.evaluate_mode == "normal":
        return Classic()
    if options.policy == "hierarchical":
        return Hierarchical(options.beta, options.start_layer)
    if options.policy in ("placed", "static"):
        if not options.exits or (options.policy == "static" and len(options.exits) != 1):
            raise UserError(f"evaluate: policy {options.policy} needs --exits (static: one)")
        return Placed(options.beta, options.exits) if options.policy == "placed" else Static(options.exits[0])
    return Predictive(options.beta, options.start_layer, options.max_jump, options.overshoot)


def _front(options: argparse.Namespace) -> None:
    from study.views import print_front, write_front

    if options.output:
        write_front(options.folder, options.output)
    if options.figure:
        from results.figures import front_figure

        if options.figure.suffix not in (".png", ".svg", ".pdf"):
            raise UserError(f"front: --figure {options.figure} must end in .png, .svg or .pdf")
        front_figure(options.folder / "tables", options.figure)
    print_front(options.folder, as_json=options.json)


def _status(options: argparse.Namespace) -> None:
    from study.views import print_status

    print_status(options.folder, as_json=options.json)


def _print_result(result: dict[str, Any], as_json: bool) -> None:
    from study.views import print_mapping

    if as_json:
        print(json.dumps(result, indent=1))
    else:
        print_mapping(result)


if __name__ == "__main__":
    sys.exit(main())
