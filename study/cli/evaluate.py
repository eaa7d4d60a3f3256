"""``predictive-exit evaluate``: evaluate one network, without Ray."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from results.point_text import policy_text, setting_text
from study.cli.options import add_costs, add_network_and_data, path, requested, whole
from study.errors import UserError
from study.networks.precisions import PRECISIONS
from study.policies.base import Policy
from study.policies.criteria import CRITERIA
from study.policies.policies import POLICIES, Classic

if TYPE_CHECKING:
    from study.data.settings import ImageSet
    from study.run.one_network import ImageSource, LoadedNetwork


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of ``evaluate``."""
    add_network_and_data(parser)
    parser.add_argument(
        "--evaluate-mode", default="exits", choices=("normal", "exits"), help="normal: the whole network, no exits"
    )
    parser.add_argument(
        "--point",
        nargs=2,
        metavar=("RUN", "NUMBER"),
        help="a point of the front of a run folder: its network, precision, policy and statistic replace those options",
    )
    parser.add_argument(
        "--exported",
        type=path,
        metavar="MODEL",
        help="a folder that `export` wrote: its network, precision and policy replace those options; needs --images",
    )
    parser.add_argument(
        "--images",
        type=path,
        metavar="DIR",
        help="evaluate on the images of this folder, which has a folder for each class, instead of a split",
    )
    parser.add_argument(
        "--forward-mode",
        default="normal",
        choices=("normal", "accuracy"),
        help="normal: run the policy; accuracy: how often the engine predicts the right exit",
    )
    parser.add_argument(
        "--policy",
        default="predictive",
        choices=[name for name, kind in POLICIES.items() if name != "classic" and not kind.fitted],
        help="a fitted policy is evaluated with --point",
    )
    parser.add_argument(
        "--beta",
        type=float,
        nargs="+",
        default=[15.0],
        help="one value, or one for each exit; with --forward-mode accuracy the values to try",
    )
    parser.add_argument(
        "--criterion",
        default="logit",
        choices=[name for name in CRITERIA if name != "oracle"],
        help="exit criterion of hierarchical and placed; --beta is the threshold",
    )
    parser.add_argument("--start-layer", type=int, default=1)
    parser.add_argument("--max-jump", type=int, default=8)
    parser.add_argument("--overshoot", default="last_exit", choices=("last_exit", "classifier"))
    parser.add_argument(
        "--exits", type=int, nargs="+", metavar="EXIT", help="the exits of placed, or the one exit of static"
    )
    parser.add_argument("--statistic", default="mean_logit", choices=("mean_logit", "mean_max"))
    parser.add_argument("--stat-each-layer", action="store_true", help="print the statistics of each layer")
    parser.add_argument(
        "--figure",
        type=path,
        metavar="FILE",
        help="draw the statistics of each layer, or with --forward-mode accuracy the confusion of predicted and true "
        "distance, as .png, .svg or .pdf",
    )
    parser.add_argument("--quantization", default="fp32", choices=PRECISIONS, help="int8_all: also the exit heads")
    parser.add_argument("--compile", action="store_true", help="make the kernels with torch.compile")
    add_costs(parser)
    parser.add_argument(
        "--dvfs",
        choices=("race_to_idle", "paper", "deadline"),
        help="simulate frequency scaling on a device table with levels (--costs)",
    )
    parser.add_argument("--dvfs-slack", type=float, help="slack of the deadline (default: the smallest possible)")
    parser.add_argument("--other-device", action="store_true", help="allow a profile of another device")
    parser.add_argument(
        "--split",
        default="validation",
        choices=("validation", "test", "calibration"),
        help="the images to evaluate on (default: validation); only `test` opens the test images",
    )
    parser.add_argument("--batch-size", type=whole(2**16), default=256, help="images a batch")
    parser.add_argument("--seed", type=int, help="seed of the splits, for bare weights (default: 0)")


def execute(options: argparse.Namespace) -> int:
    """Evaluate one trained network on a split, or on a folder of images.

    Returns:
        1 if images of the folder cannot be read and were passed over, else 0.
    """
    from study.cli.printing import check_output, print_result
    from study.networks.settings import HeadSettings
    from study.progress import Reporter
    from study.run.evaluate import accuracy_forward, costs_of, evaluate_one, levels_of, load_costs
    from study.run.one_network import load_network
    from study.training.loop import forbid_tf32, pick_device

    check_output("evaluate: --figure", options.figure, ".png", ".svg", ".pdf")
    if options.exported is not None:
        return _evaluate_export(options)
    if options.images is not None and options.split != "validation":
        raise UserError("evaluate: --split has no effect beside --images")
    confusion = options.forward_mode == "accuracy"
    if options.figure and not (options.stat_each_layer or confusion):
        raise UserError("evaluate: --figure draws what --stat-each-layer or --forward-mode accuracy measures: add one")
    if options.figure and confusion and len(options.beta) > 1:
        raise UserError("evaluate: --figure draws the confusion at one --beta")
    if options.point is not None:
        policy = _policy_of_point(options)
    elif options.pretrained is None:
        raise UserError(
            "evaluate: name a trained network with --pretrained, a point of a front with --point, or an exported model "
            "with --exported"
        )
    else:
        policy = _policy(options)
    cost_source = load_costs(options.costs, options.dvfs, options.dvfs_slack)
    network, data, source = requested(options, HeadSettings())
    forbid_tf32()
    loaded = load_network(
        options.pretrained,
        source,
        pick_device(options.device),
        network,
        data,
        precision=options.quantization,
        compiled=options.compile,
    )
    images, unreadable = _images_of(options, loaded, source)
    split = options.split if options.images is None else str(options.images)
    if confusion:
        if options.criterion != "logit":
            raise UserError("evaluate: --forward-mode accuracy is about the engine, which knows --criterion logit only")
        result = accuracy_forward(
            loaded,
            images,
            betas=options.beta,
            start_layer=options.start_layer,
            max_jump=options.max_jump,
            statistic=options.statistic,
        )
        if options.figure:
            from results.figures.exits import confusion_figure

            setting = f"beta {options.beta[0]:g}, from exit {options.start_layer}, at most {options.max_jump} exits on"
            confusion_figure(result["confusion"], f"{network.backbone}, {setting}, {_images(options)}", options.figure)
        print_result({"split": split, **result}, options.json)
        if result.get("predictions") == 0:
            print(f"every image stops at exit {options.start_layer}: raise --beta to see predictions", file=sys.stderr)
        return 1 if unreadable else 0
    costs = costs_of(loaded, options.costs, cost_source, other_device=options.other_device)
    levels = levels_of(loaded, cost_source, policy, options.dvfs, options.dvfs_slack) if options.dvfs else None
    evaluation = evaluate_one(
        loaded,
        images,
        policy,
        split=split,
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
        statistics = evaluation.statistics()
        result["layers"] = json.loads(statistics.to_json(orient="records"))
        if options.figure:
            from results.figures.exits import exits_figure

            setting = ", ".join(filter(None, (policy_text(policy.to_row()), setting_text(policy.to_row()))))
            exits_figure(statistics, f"{network.backbone}, {setting}, {_images(options)}", options.figure)
    if options.images is not None:
        from study.deploy.labelled_folder import class_scores

        scores = class_scores(evaluation.labels, evaluation.walk.predictions, loaded.dataset.info.class_names)
        result |= {"unreadable": unreadable, "classes": scores}
    print_result(result, options.json)
    return 1 if unreadable else 0


def _images_of(options: argparse.Namespace, loaded: LoadedNetwork, source: ImageSource) -> tuple[ImageSet, int]:
    """The images to evaluate on, and how many of a folder cannot be read."""
    from study.run.one_network import split_images

    if options.images is None:
        return split_images(loaded, options.split, source), 0
    from study.cli.predict import Unreadable
    from study.deploy.folder import Preprocessing
    from study.deploy.labelled_folder import LabelledFolder
    from study.export.export import preprocessing_of

    info, unreadable = loaded.dataset.info, Unreadable()
    folder = LabelledFolder(options.images, info.class_names)
    return folder.read(Preprocessing(**preprocessing_of(info)), unreadable), unreadable.count


_BESIDE_AN_EXPORT = ("exported", "images", "device", "batch_size", "json")
"""Options that an exported model leaves open."""


def _evaluate_export(options: argparse.Namespace) -> int:
    """Evaluate an exported model on a folder of images."""
    from study.cli.main import build_parser
    from study.cli.predict import Unreadable
    from study.cli.printing import print_result
    from study.deploy.early_exit import EarlyExit
    from study.deploy.labelled_folder import LabelledFolder, evaluate_export

    for name, usual in vars(build_parser().parse_args(["evaluate"])).items():
        if name not in _BESIDE_AN_EXPORT and getattr(options, name) != usual:
            raise UserError(f"evaluate: --{name.replace('_', '-')} has no effect beside --exported, which decides it")
    if options.images is None:
        raise UserError("evaluate: --exported needs --images, a folder with a folder of images for each class")
    unreadable = Unreadable()
    model = EarlyExit.load(options.exported, device=options.device)
    folder = LabelledFolder(options.images, model.class_names)
    result = evaluate_export(model, folder, batch_size=options.batch_size, told=unreadable)
    classes = result.pop("classes")
    result |= {"unreadable": unreadable.count, "classes": classes}
    print_result({"split": str(options.images), **result}, options.json)
    return 1 if unreadable.count else 0


_OF_A_POINT = (
    *("evaluate_mode", "forward_mode", "policy", "beta", "criterion", "start_layer", "max_jump", "overshoot"),
    *("exits", "statistic", "quantization", "pretrained", "backbone", "width"),
)
"""Options that a point of a front decides."""


def _policy_of_point(options: argparse.Namespace) -> Policy:
    """The policy of the point that ``--point`` names; network, precision and statistic go into the options.

    Raises:
        UserError: the run folder has no such point, or no checkpoint of its network.
    """
    from search_spaces.settings import MEASURED
    from study.cli.main import build_parser
    from study.cli.options import run_folder
    from study.export.point import checkpoint_folder, front_row
    from study.policies.policies import policy_from_row
    from study.run.reader import stored_study
    from study.run.stored_front import require_front

    usual = build_parser().parse_args(["evaluate"])
    for name in _OF_A_POINT:
        if getattr(options, name) != getattr(usual, name):
            raise UserError(f"evaluate: --{name.replace('_', '-')} has no effect beside --point, which decides it")
    folder, number = run_folder(options.point[0]), options.point[1]
    require_front(folder)
    row = front_row(folder, number, options.data)
    options.pretrained = checkpoint_folder(folder, row["trial_id"])
    costs = stored_study(folder).operating_points.costs
    if options.costs == usual.costs and costs != MEASURED:
        options.costs = costs
    options.quantization, options.statistic = row["precision"], row["statistic"] or options.statistic
    if row["dvfs"] != "none":
        options.dvfs, options.dvfs_slack = options.dvfs or row["dvfs"], options.dvfs_slack or row["dvfs_slack"]
    return policy_from_row(row)


def _images(options: argparse.Namespace) -> str:
    where = f"{options.split} images" if options.images is None else f"images of {options.images.name}"
    return f"{options.quantization}, {where}"


def _policy(options: argparse.Namespace) -> Policy:
    if options.evaluate_mode == "normal":
        return Classic()
    kind = POLICIES[options.policy]
    settings = kind.settings()
    if options.criterion != "logit" and "criterion" not in settings:
        raise UserError(f"evaluate: --criterion {options.criterion} goes with --policy {_having('criterion')}")
    if options.exits and not {"exit", "exits"} & set(settings):
        raise UserError(f"evaluate: --exits goes with --policy {_having('exit', 'exits')}, not with {options.policy}")
    if ("exits" in settings and not options.exits) or ("exit" in settings and len(options.exits or ()) != 1):
        raise UserError(f"evaluate: policy {options.policy} needs --exits (static: one)")
    beta = options.beta if len(options.beta) > 1 else options.beta[0]
    return kind.from_settings({**vars(options), "beta": beta, "exit": (options.exits or [0])[0]})


def _having(*settings: str) -> str:
    """The names of the policies that have one of these settings."""
    return " or ".join(name for name, kind in POLICIES.items() if set(settings) & set(kind.settings()))
