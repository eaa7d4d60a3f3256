"""Seconds of the points of a front on this machine, from a short measurement of their networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pandas as pd
import torch

from results.parts import rows_of
from results.storage.paths import Location
from results.summary import FrontSummary
from study.costs.costs import Costs
from study.costs.measure.bench import measure_profile
from study.costs.measure.meters import device_name
from study.costs.measure.profile import MeasureSettings
from study.errors import UserError
from study.networks.quantization import int8_execution, prepare
from study.progress import Reporter
from study.run.network_work import untrained_network
from study.run.one_network import NOISE_IMAGES
from study.run.reader import stored_networks, stored_study
from study.search.operating_point import point_of
from study.search.traced_network import TracedNetwork
from study.training.loop import forbid_tf32, pick_device

SHORT = MeasureSettings(repeats=3, warm_up_seconds=0.3)
_COLUMNS = ("latency_mean_seconds", "latency_p50_seconds", "latency_p99_seconds", "latency_source", "device")


def with_machine_seconds(
    folder: Location, summary: FrontSummary, *, data: str | None, reporter: Reporter
) -> FrontSummary:
    """The summary of a front with the latencies of this machine.

    Args:
        folder: run folder, or a pack.
        summary: of its front.
        data: the data set; may be left out where the study has one.
        reporter: gets a line for each network that is measured.

    Raises:
        UserError: the points run at frequencies that are only simulated, or a network is not known here.
    """
    points, reference = summary.points, summary.reference
    if (points["dvfs"].fillna("none") != "none").any():
        raise UserError("--cost seconds: the points of this study run at simulated frequencies")
    networks = stored_networks(folder, stored_study(folder).operating_points, data)
    wanted = set(zip(points["trial_id"], points["precision"], strict=True)) | {
        (reference.trial_id, reference.precision)
    }
    device = pick_device("auto")
    costs: dict[tuple[str, str], Costs | None] = {
        (one.trial_id, one.precision): _measured(folder, one, device, reporter)
        for one in networks
        if (one.trial_id, one.precision) in wanted
    }
    timed = [replace(one, costs=costs.get((one.trial_id, one.precision)) or one.costs) for one in networks]
    measured = pd.DataFrame([_latencies(row, timed, costs) for row in rows_of(points)], index=points.index)
    classic = costs[reference.trial_id, reference.precision]
    seconds = classic.classic("seconds") if classic else float("nan")
    return replace(
        summary,
        points=points.assign(**measured, latency_share=measured["latency_mean_seconds"] / seconds),
        reference=replace(reference, latency_seconds=seconds),
        latency_source="measured",
        device=device_name(device),
    )


def _measured(folder: Location, network: TracedNetwork, device: torch.device, reporter: Reporter) -> Costs | None:
    """The costs with seconds of this machine; None where int8 is only simulated.

    A network with random weights takes the same time.
    """
    name, precision = network.trial_id, network.precision
    if precision.startswith("int8") and int8_execution(device) == "simulated":
        reporter.line(f"{name} {precision}: int8 is only simulated on this {device.type}; its points have no seconds")
        return None
    reporter.line(f"measuring {name} {precision}, {network.costs.batch_size} images a batch")
    forbid_tf32()
    torch.manual_seed(0)
    classes = network.validation.logits.shape[2]
    built = untrained_network(folder, stored_study(folder).data, name, classes, device="cpu")
    built.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    noise = torch.randn(NOISE_IMAGES, *built.input_shape)
    runnable = prepare(built, precision, calibration=noise)
    return measure_profile(
        runnable, counted=network.costs, batch_size=network.costs.batch_size, meter=None, settings=SHORT
    ).costs


def _latencies(
    row: Mapping[str, object], networks: list[TracedNetwork], costs: Mapping[tuple[str, str], Costs | None]
) -> dict[str, object]:
    if costs[str(row["trial_id"]), str(row["precision"])] is None:
        return dict.fromkeys(_COLUMNS)
    metrics = point_of(row, networks).evaluate()
    return {name: metrics[name] for name in _COLUMNS}
