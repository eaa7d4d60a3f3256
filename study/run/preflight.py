"""What is checked before a study starts: every name and value, while nothing is read, trained or written."""

from __future__ import annotations

from typing import cast

import torch

from search_spaces.spec import StudySpec
from study.checkpoints.pretrained import load_pretrained
from study.costs.flops import count_work
from study.data.settings import DataInfo, DataSettings
from study.errors import UserError
from study.execution.executor import device_of
from study.networks.construction import check_network, new_network
from study.networks.precisions import Precision
from study.networks.quantization import check_precision
from study.run.plan import data_settings, plan_trials
from study.search.cost_source import check_costs, check_slack
from study.search.exact_search import check_covered
from study.search.space import check_depth, check_names
from study.storage.home import user_path


def check(spec: StudySpec) -> list[DataSettings]:
    """Resolve every name of a study before any work starts; returns the settings of its data sets.

    Raises:
        UserError: a name or value that the program does not know.
    """
    points = spec.operating_points
    device = device_of(spec.resources)
    at_hand = device.type == "cpu" or torch.cuda.is_available()  # the driver of a cluster may have no GPU itself
    try:
        check_names(points)
        precisions = [check_precision(str(name), device if at_hand else None) for name in points.quantization.values]
        elsewhere = spec.resources.profiles_of_other_device or not at_hand
        check_costs(points, precisions, device, stored_will_do=elsewhere)
        check_covered(points)
    except UserError as error:
        raise UserError(f"{spec.name}: {error}") from None
    all_settings = [data_settings(spec, name) for name in spec.data.names]
    backbones = plan_trials(spec, "backbones", "")
    networks = {plan.network for plan in backbones}
    exits = [plan for network in networks for plan in plan_trials(spec, "exits", "", backbone=network)]
    all_networks = networks | {plan.network for plan in exits}
    depth = min(check_network(network, settings) for network in all_networks for settings in all_settings)
    try:
        check_depth(points, depth)
    except UserError as error:
        raise UserError(f"{spec.name}: {error}") from None
    if spec.backbones.pretrained and len(backbones) != 1:
        raise UserError(
            f"{spec.name}: backbones.pretrained needs one backbone and one width, "
            f"not {len(backbones)} trials: --set backbones.trials=1 --set backbones.width=..."
        )
    if spec.backbones.pretrained:
        pretrained = user_path(spec.backbones.pretrained)
        if not pretrained.exists():
            raise UserError(f"{spec.name}: backbones.pretrained: {pretrained} does not exist")
        load_pretrained(pretrained)
    return all_settings


def check_deadlines(spec: StudySpec, info: DataInfo) -> None:
    """Refuse a slack that no policy can keep. What a network costs is known before it is trained.

    Raises:
        UserError: it is too small.
    """
    points = spec.operating_points
    if "deadline" not in points.dvfs.values or points.dvfs_slack == "auto":
        return
    backbones = {plan.network for plan in plan_trials(spec, "backbones", "")}
    networks = {plan.network for one in backbones for plan in plan_trials(spec, "exits", "", backbone=one)}
    works = [count_work(new_network(network, info, spec.seed)) for network in networks]
    try:
        check_slack(points, works, [cast(Precision, name) for name in points.quantization.values])
    except UserError as error:
        raise UserError(f"{spec.name}: {error}") from None
