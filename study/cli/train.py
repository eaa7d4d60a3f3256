"""``predictive-exit train``: train one network, without Ray."""

from __future__ import annotations

import argparse
from pathlib import Path

from study.cli.options import add_network_and_data, batch, data_request, positive


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of ``train``."""
    add_network_and_data(parser)
    parser.add_argument("--mode", default="original", choices=("normal", "original", "exits", "joint"))
    parser.add_argument("--epochs", type=positive, default=30)
    parser.add_argument("--batch-size", type=batch, default=128)
    parser.add_argument("--optimizer", default="adam", choices=("adam", "adamw", "sgd"))
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--weight-decay", type=float, default=0.0)
    parser.add_argument("--schedule", default="cosine", choices=("constant", "cosine"))
    parser.add_argument("--warmup-epochs", type=float, default=0.0)
    parser.add_argument("--ema-decay", type=float, default=0.0, help="keep an average of the weights (0: none)")
    parser.add_argument("--patience", type=positive, help="stop after so many epochs without a better score")
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16"))
    parser.add_argument("--head", default="bof", choices=("bof", "linear", "conv", "separable"))
    parser.add_argument("--codewords", type=int, default=64, help="of a bof head")
    parser.add_argument("--seed", type=int, help="of weights and splits (default: that of --pretrained, or 0)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--output", type=Path, metavar="DIR", help="default: models/BACKBONE-MODE-DATA[-SUFFIX]")
    where.add_argument("--suffix", help="keeps runs of other settings apart in models/")
    where.add_argument("--no-save", action="store_true", help="save nothing")


def execute(options: argparse.Namespace) -> None:
    """Train one network, without Ray."""
    from study.cli.printing import print_result
    from study.networks.settings import HeadSettings
    from study.progress import Reporter
    from study.run.train_one import ImageSource, default_folder, resolve_request, train_one
    from study.training.settings import TrainingSettings

    network, data = resolve_request(
        options.pretrained,
        backbone=options.backbone,
        width=options.width,
        head=HeadSettings(kind=options.head, codewords=options.codewords),
        data=data_request(options),
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
        ema_decay=options.ema_decay,
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
    print_result(result, options.json)
