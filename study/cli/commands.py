"""What each command does with its options: a call, and what is printed of its result. No logic.

Everything is imported by the command that needs it: ``--help`` and ``status`` answer without torch.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from search_spaces.spec import parse_change
from search_spaces.study_files import load_space
from study.errors import UserError


def run(options: argparse.Namespace) -> None:
    """Run a study, or go on with it; ``--dry-run``: say what that would do."""
    from study.cli.printing import print_front
    from study.progress import Reporter
    from study.run.folder import run_folder
    from study.run.run import RunContext, run_study

    changes = [parse_change(text) for text in options.set]
    if options.folder:
        changes.append(("data.folder", str(Path(options.folder).absolute())))
    if options.pretrained:
        changes.append(("backbones.pretrained", options.pretrained))
    spec = load_space(options.space, changes)
    where = RunContext(
        folder=run_folder(options.storage, spec.name if options.name is None else options.name),
        data_root=options.data_root,
        download=options.download,
        address=options.address,
        reporter=Reporter(),
    )
    if options.dry_run:
        from study.run.dry_run import show_dry_run

        show_dry_run(spec, where, extend=options.extend, as_json=options.json)
        return
    run_study(spec, where, extend=options.extend)
    print_front(where.folder, as_json=options.json)


def train(options: argparse.Namespace) -> None:
    """Train one network, without Ray."""
    from study.networks.settings import HeadSettings
    from study.progress import Reporter
    from study.run.train_one import ImageSource, default_folder, resolve_request, train_one
    from study.training.settings import TrainingSettings

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
    _print_result(result, options.json)


def _data_request(options: argparse.Namespace) -> dict[str, Any]:
    names = {"name": "data", **{name: name for name in ("folder", "image_size", "channels", "limit", "seed")}}
    request = {name: getattr(options, option) for name, option in names.items()}
    # A folder on the command line is meant from where one stands; in a study file, from the data root.
    return {**request, "folder": str(Path(options.folder).absolute()) if options.folder else None}


def evaluate(options: argparse.Namespace) -> None:
    """Evaluate one network, without Ray."""
    from study.networks.settings import HeadSettings
    from study.progress import Reporter
    from study.run.evaluate import (
        accuracy_forward,
        check_cost_options,
        check_slack,
        costs_of,
        evaluate_one,
        levels_of,
        load_network,
        split_images,
    )
    from study.run.train_one import ImageSource, resolve_request
    from study.training.loop import pick_device

    if options.pretrained is None:
        raise UserError("evaluate: name a trained network with --pretrained")
    policy = _policy(options)
    check_cost_options(options.costs, options.dvfs, options.dvfs_slack)
    source = ImageSource(data_root=options.data_root, download=options.download)
    network, data = resolve_request(
        options.pretrained,
        backbone=options.backbone,
        width=options.width,
        head=HeadSettings(),
        data=_data_request(options),
    )
    loaded = load_network(
        options.pretrained,
        source,
        pick_device(options.device),
        network,
        data,
        precision=options.quantization,
        compiled=options.compile,
    )
    if options.forward_mode == "accuracy":
        if options.criterion != "logit":
            raise UserError("evaluate: --forward-mode accuracy is about the engine, which knows --criterion logit only")
        result = accuracy_forward(
            loaded,
            split_images(loaded, options.split, source),
            betas=options.beta,
            start_layer=options.start_layer,
            max_jump=options.max_jump,
            statistic=options.statistic,
        )
        _print_result({"split": options.split, **result}, options.json)
        if result.get("predictions") == 0:
            print(f"every image stops at exit {options.start_layer}: raise --beta to see predictions", file=sys.stderr)
        return
    costs = costs_of(loaded, options.costs, other_device=options.other_device)
    levels = levels_of(loaded, options.costs) if options.dvfs else None
    if levels is not None:
        check_slack(levels, options.dvfs, policy, options.dvfs_slack)
    evaluation = evaluate_one(
        loaded,
        split_images(loaded, options.split, source),
        policy,
        split=options.split,
        statistic=options.statistic,
        batch_size=options.batch_size,
        each_layer=options.stat_each_layer,
        costs=costs,
        reporter=Reporter(),
    )
    result = evaluation.summary()
    if levels is not None:
        result |= evaluation.under_rule(levels, options.dvfs, options.dvfs_slack)
    if options.stat_each_layer:
        result["layers"] = json.loads(evaluation.statistics().to_json(orient="records"))
    _print_result(result, options.json)


def _policy(options: argparse.Namespace) -> Any:
    from study.policies.policies import Classic, Hierarchical, Placed, Predictive, Static

    if options.evaluate_mode == "normal":
        return Classic()
    beta = options.beta if len(options.beta) > 1 else options.beta[0]
    if options.criterion != "logit" and options.policy not in ("hierarchical", "placed"):
        raise UserError(f"evaluate: --criterion {options.criterion} goes with --policy hierarchical or placed")
    if options.exits and options.policy not in ("placed", "static"):
        raise UserError(f"evaluate: --exits goes with --policy placed or static, not with {options.policy}")
    if options.policy == "hierarchical":
        return Hierarchical(beta, options.start_layer, options.criterion)
    if options.policy in ("placed", "static"):
        if not options.exits or (options.policy == "static" and len(options.exits) != 1):
            raise UserError(f"evaluate: policy {options.policy} needs --exits (static: one)")
        return (
            Placed(beta, options.exits, options.criterion) if options.policy == "placed" else Static(options.exits[0])
        )
    return Predictive(beta, options.start_layer, options.max_jump, options.overshoot)


def profile(options: argparse.Namespace) -> None:
    """Measure what a network costs on this device."""
    from study.costs.measure.profile import MeasureSettings
    from study.networks.settings import HeadSettings
    from study.progress import Reporter
    from study.run.profile import profile_network
    from study.run.train_one import ImageSource, resolve_request
    from study.training.loop import pick_device

    if options.pretrained and (options.head or options.classes):
        raise UserError("profile: --head and --classes are of an untrained network; --pretrained knows its own")
    network, data = resolve_request(
        options.pretrained,
        backbone=options.backbone,
        width=options.width,
        head=HeadSettings(kind=options.head or "bof"),
        data=_data_request(options),
    )
    profiles = profile_network(
        network,
        data,
        ImageSource(data_root=options.data_root, download=options.download),
        pretrained=options.pretrained,
        classes=options.classes or 10,
        precisions=options.quantization,
        batch_sizes=options.batch_size,
        device=pick_device(options.device),
        compiled=options.compile,
        model=options.costs,
        metered=not options.no_meter,
        measuring=MeasureSettings(repeats=options.repeats, energy_window_seconds=options.window),
        output=options.output,
        reporter=Reporter(),
    )
    first = profiles[0].profile
    result = {
        "device": first.costs.device,
        "threads": first.threads,
        "folder": str(options.output),
        # The names would make the printed table too wide to read.
        "profiles": [
            profiled.summary() | ({"file": str(profiled.path)} if options.json else {}) for profiled in profiles
        ],
    }
    _print_result(result, options.json)


def front(options: argparse.Namespace) -> None:
    """Print, write or draw the front of a study."""
    from study.cli.printing import check_output, print_front, write_front

    check_output("front: --figure", options.figure, ".png", ".svg", ".pdf")
    check_output("front: --output", options.output, ".csv", ".parquet")
    if options.exact:
        from study.cli.exact_front_view import show_exact_front

        changes = [parse_change(text) for text in options.set]
        show_exact_front(
            options.folder,
            changes,
            data=options.data,
            output=options.output,
            figure=options.figure,
            as_json=options.json,
        )
        return
    if options.set:
        raise UserError("front: --set belongs to --exact: the front of a study is that of its own space")
    if options.output:
        write_front(options.folder, options.output, data=options.data)
    if options.figure:
        from results.figures import front_figure

        front_figure(options.folder / "tables", options.figure, data=options.data)
    print_front(options.folder, as_json=options.json, data=options.data)


def compare(options: argparse.Namespace) -> None:
    """Compare policies at equal accuracy."""
    from study.cli.comparison_view import show_comparison
    from study.cli.printing import check_output
    from study.search.compare import DROPS

    check_output("compare: --output", options.output, ".csv", ".parquet")
    show_comparison(
        options.folder,
        [parse_change(text) for text in options.set],
        data=options.data,
        drops=options.drop or DROPS,
        objective=options.objective,
        output=options.output,
        as_json=options.json,
    )


def pack(options: argparse.Namespace) -> None:
    """Make a small copy of a study."""
    from study.cli.printing import print_front
    from study.progress import Reporter
    from study.run.pack import pack

    pack(options.folder, options.destination, Reporter())
    print_front(options.destination, as_json=False)


def status(options: argparse.Namespace) -> None:
    """Print what of a study is done and what is left."""
    from study.run.status import print_status

    print_status(options.folder, as_json=options.json)


def _print_result(result: dict[str, Any], as_json: bool) -> None:
    from study.cli.printing import print_mapping

    if as_json:
        print(json.dumps(result, indent=1))
    else:
        print_mapping(result)
