"""The command ``profile``: measure the costs of a network on this machine and write them as files.

:mod:`study.costs.measure.bench` measures; :class:`study.costs.measure.profile.Profile` is the content of a file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from results.storage.atomic import write_atomic
from study.checkpoints.pretrained import build_pretrained, load_pretrained
from study.costs.measure.bench import measure_profile
from study.costs.measure.meters import device_name, find_meter
from study.costs.measure.profile import MeasureSettings, Profile
from study.costs.model.devices import load_device
from study.data.loading import load_dataset
from study.data.settings import DataSettings
from study.errors import UserError
from study.networks.compiler import check_compiler
from study.networks.construction import check_network
from study.networks.inference_network import RunnableNetwork
from study.networks.multi_exit import MultiExitNetwork, build_network
from study.networks.precisions import FORMATS, INT8, Precision
from study.networks.quantization import check_precision, prepare
from study.networks.settings import NetworkSettings
from study.progress import Reporter
from study.run.one_network import ImageSource, refuse_other_network
from study.storage.publish import check_writable, content_hash, safe_name
from study.traces.collect import ready

NOISE_IMAGES = 128
"""Random images from which int8 takes ranges in an untrained network; costs do not depend on the ranges."""


def profile_network(
    settings: NetworkSettings,
    data: DataSettings,
    source: ImageSource,
    *,
    pretrained: Path | None,
    classes: int,
    precisions: Sequence[str],
    batch_sizes: Sequence[int],
    device: torch.device,
    compiled: bool,
    model: str,
    metered: bool,
    measuring: MeasureSettings,
    output: Path,
    reporter: Reporter,
) -> dict[Path, Profile]:
    """Measure a network at each pair of precision and batch size, and write each profile as JSON.

    Args:
        settings, data, source: of network and images; int8 takes its ranges from the images.
        pretrained: trained weights; None: random weights, which cost the same, and ``classes`` classes.
        precisions, batch_sizes: each pair is measured.
        device, compiled: what runs the network, with ``torch.compile`` or without.
        model: device table, for the joules of a device without an energy meter.
        metered: read the energy meter of the device if it has one.
        measuring: how long and how often to measure.
        output: folder of the profiles.
        reporter: gets one line for each measurement.

    Returns:
        File -> profile.

    Raises:
        UserError: an unknown name, a device without the precision, or a window too short for its counter.
    """
    known = [check_precision(precision, device) for precision in precisions]
    if compiled:
        check_compiler(device)
    check_network(settings, data)
    table = load_device(model)
    meter = find_meter(device) if metered else None
    check_writable(output)
    if pretrained is None:
        network, make = _untrained(settings, data, classes, device)
    else:
        asked = settings
        settings, network, make = _trained(pretrained, data, source, device)
        refuse_other_network(pretrained, settings, asked)
    # The name holds a hash of network and device, so that a profile of another network cannot replace the file.
    identity = content_hash([asdict(settings), network.classes, network.input_shape, device_name(device)])[:6]
    name = f"{settings.backbone}-x{settings.width:g}-{settings.head.kind}-{network.input_shape[1]}px-{identity}"
    profiles: dict[Path, Profile] = {}
    for precision in known:
        counted = {size: table.costs(network, precision=precision, batch_size=size) for size in batch_sizes}
        runnable = make(precision, compiled)
        for size, costs in counted.items():
            reporter.line(f"measuring {name} {precision}, {size} images a batch")
            profile = measure_profile(runnable, counted=costs, batch_size=size, meter=meter, settings=measuring)
            kind = f"{name}-{precision}{'-compiled' if compiled else ''}-batch{size}"
            path = output / f"{safe_name(kind, 'the profile')}.json"
            write_atomic(path, profile.to_json().encode())
            profiles[path] = profile
    return profiles


Make = Callable[[Precision, bool], RunnableNetwork]
"""Prepares a network at a precision, compiled or not."""


def _untrained(
    settings: NetworkSettings, data: DataSettings, classes: int, device: torch.device
) -> tuple[MultiExitNetwork, Make]:
    assert data.image_size is not None and data.channels is not None, "the data settings are resolved"
    torch.manual_seed(data.seed)
    network = build_network(settings, classes=classes, image_size=data.image_size, channels=data.channels)
    network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    noise = torch.randn(NOISE_IMAGES, *network.input_shape)
    return network, lambda precision, compiled: prepare(network, precision, calibration=noise, compiled=compiled)


def _trained(
    pretrained: Path, data: DataSettings, source: ImageSource, device: torch.device
) -> tuple[NetworkSettings, MultiExitNetwork, Make]:
    checkpoint, tensors = load_pretrained(pretrained)
    if checkpoint is None:
        raise UserError(
            f"profile: {pretrained} holds bare weights: give a checkpoint folder, or leave --pretrained out"
        )
    network = build_pretrained(pretrained, checkpoint, tensors, device)

    def make(precision: Precision, compiled: bool) -> RunnableNetwork:
        if FORMATS[precision].backbone is not INT8:
            return prepare(network, precision, compiled=compiled)
        dataset = load_dataset(data, source.data_root, download=source.download)
        return ready(network, precision, dataset.calibration, dataset.info, compiled=compiled)

    return checkpoint.network, network, make
