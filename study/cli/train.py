"""``predictive-exit train``: train one network, without Ray."""

from __future__ import annotations

import argparse
from typing import get_args

from search_spaces.settings import HeadFields, Mode, TrainingFields
from study.cli.options import add_network_and_data, add_settings, given, name_or_path, path, requested, whole


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of ``train``."""
    add_network_and_data(parser)
    parser.add_argument("--mode", default="original", choices=get_args(Mode), help="what is trained")
    parser.add_argument("--epochs", type=whole(), default=30)
    add_settings(parser, TrainingFields)
    add_settings(parser, HeadFields)
    parser.add_argument(
        "--initial",
        type=name_or_path,
        metavar="PATH",
        help="weights to fine-tune: as --pretrained, or as torchvision:IMAGENET1K_V1",
    )
    parser.add_argument("--seed", type=int, help="seed of weights and splits (default: as --pretrained, or 0)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--output", type=path, metavar="DIR", help="default: models/BACKBONE-MODE-DATA[-SUFFIX]")
    where.add_argument("--suffix", help="end of the folder's name, for other settings")
    where.add_argument("--no-save", action="store_true", help="save nothing")


def execute(options: argparse.Namespace) -> None:
    """Train one network, without Ray."""
    from study.cli.printing import print_result
    from study.networks.settings import HeadSettings
    from study.progress import Reporter
    from study.run.one_network import default_folder, train_one
    from study.training.settings import TrainingSettings

    network, data, source = requested(options, HeadSettings(**given(options, HeadFields)))
    training = TrainingSettings(
        mode=options.mode,
        schedule_epochs=1 if options.schedule == "constant" else options.epochs,
        seed=data.seed,
        **given(options, TrainingFields),
    )
    folder = None if options.no_save else options.output or default_folder(network, options.mode, data, options.suffix)
    best = train_one(
        network,
        training,
        data,
        source,
        epochs=options.epochs,
        device=options.device,
        folder=folder,
        pretrained=options.pretrained,
        initial=options.initial,
        reporter=Reporter(),
    )
    result = {
        "folder": str(folder) if folder else None,
        "best_epoch": best.epoch,
        "split": "validation",
        "classifier_accuracy": best.classifier_accuracy,
        "classifier_balanced_accuracy": best.classifier_balanced_accuracy,
        "exit_accuracies": list(best.exit_accuracies),
    }
    print_result(result, options.json)
