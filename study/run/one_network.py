"""One network without Ray: what the commands ``train``, ``evaluate`` and ``profile`` load, train and measure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from results.storage.atomic import write_atomic
from search_spaces.settings import BackboneFields, identity, settings_of
from study.checkpoints.description import read_description
from study.checkpoints.initial import fit_initial, initial_id, load_initial
from study.checkpoints.pretrained import build_pretrained, check_fit, load_pretrained
from study.costs.measure.bench import measure_profile
from study.costs.measure.meters import device_name, find_meter
from study.costs.measure.profile import MeasureSettings, Profile
from study.costs.model.devices import load_device
from study.data.loading import load_dataset, load_test_set
from study.data.settings import Dataset, DataSettings, ImageSet, resolve
from study.errors import UserError
from study.execution.reached import refuse_few_images
from study.execution.trial import train_in_folder
from study.execution.trial_plan import TrialPlan
from study.networks.compiler import check_compiler
from study.networks.construction import check_network, described_network, meta_network, new_network, with_code
from study.networks.inference_network import RunnableNetwork
from study.networks.multi_exit import MultiExitNetwork, build_network, load_backbone_weights
from study.networks.precisions import FORMATS, INT8, Precision
from study.networks.quantization import check_precision, prepare
from study.networks.registry import native_image_size
from study.networks.settings import HeadSettings, NetworkSettings
from study.progress import Reporter
from study.run.folder import differences_of
from study.run.images_line import images_line
from study.storage.publish import check_writable, content_hash, safe_name
from study.traces.collect import ready
from study.training.learning_curves import Epoch, best_epoch
from study.training.loop import fast_precision, forbid_tf32, pick_device
from study.training.optimizer import frozen_segments
from study.training.settings import TrainingSettings

NOISE_IMAGES = 128
"""Random images from which int8 takes ranges in an untrained network; costs do not depend on the ranges."""
Make = Callable[[Precision, bool], RunnableNetwork]
"""Prepares a network at a precision, compiled or not."""
Split = Literal["calibration", "validation", "test"]


def resolve_request(
    pretrained: Path | None,
    *,
    asked: dict[str, Any],
    head: HeadSettings,
    data: dict[str, Any],
) -> tuple[NetworkSettings, DataSettings]:
    """The settings of network and data that a command asks for.

    A setting that the command leaves open (None) comes from the checkpoint folder ``pretrained``, or else from the
    defaults. ``asked`` has the fields of :class:`BackboneFields`, ``data`` those of :class:`DataSettings`. Images have
    the size that the backbone is made for, unless the command or the checkpoint says another one.
    """
    known_network, known_data = NetworkSettings(backbone="vgg19"), dict[str, Any](name="digits")
    if pretrained is not None and pretrained.is_dir():
        checkpoint, _ = load_pretrained(pretrained)
        if checkpoint is not None:
            known_network = checkpoint.network
            if data["name"] in (None, checkpoint.data.name):
                known_data = dict(checkpoint.data.settings)
    known = {name: getattr(known_network, name) for name in settings_of(BackboneFields)}
    if asked["backbone"] not in (None, known_network.backbone):
        known = {name: setting.default for name, setting in settings_of(BackboneFields).items()}
    named = _filled(known, asked)
    code = known_network.code if named["backbone"] == known_network.backbone else None
    network = with_code(NetworkSettings(**named, head=head, code=code))
    values = _filled(known_data, data)
    if values.get("image_size") is None:
        values["image_size"] = native_image_size(network.backbone)
    return network, resolve(DataSettings(**values))


def _filled(known: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    return {**known, **{name: value for name, value in asked.items() if value is not None}}


@dataclass(frozen=True, kw_only=True)
class ImageSource:
    """The place of the images."""

    data_root: Path
    download: bool = False


@dataclass(frozen=True)
class LoadedNetwork:
    """A trained network and the data set of its training."""

    network: MultiExitNetwork
    runnable: RunnableNetwork
    """The network at the precision of the command."""
    dataset: Dataset
    data: DataSettings
    heads_trained: bool


def load_network(
    pretrained: Path,
    source: ImageSource,
    device: torch.device,
    settings: NetworkSettings,
    data: DataSettings,
    *,
    precision: str = "fp32",
    compiled: bool = False,
) -> LoadedNetwork:
    """Load a network, from a checkpoint folder or bare weights, and its data set.

    int8 takes its ranges from the calibration split; ``compiled`` makes the kernels with ``torch.compile``.

    Raises:
        UserError: the network or the images are not those of the checkpoint. With other images, the splits would mix.
    """
    known = check_precision(precision, device)
    if compiled:
        check_compiler(device)
    checkpoint, tensors = load_pretrained(pretrained)
    if checkpoint is not None:
        refuse_other_network(pretrained, checkpoint.network, settings)
    dataset = load_dataset(data, source.data_root, download=source.download)
    if checkpoint is None:
        check_fit(pretrained, tensors, settings, dataset.info)
        network = new_network(settings, dataset.info, data.seed)
        load_backbone_weights(network, tensors)
        network.to(device).eval()
    elif dataset.info.digest != checkpoint.data.digest:
        raise UserError(
            f"these {data.name} images are not those that {pretrained} was trained with "
            f"(digest {dataset.info.digest[:12]}, expected {checkpoint.data.digest[:12]}): the splits would mix"
        )
    else:
        network = build_pretrained(pretrained, checkpoint, tensors, device)
    runnable = ready(network, known, dataset.calibration, dataset.info, compiled=compiled)
    trained = checkpoint is not None and checkpoint.training.trains_heads
    return LoadedNetwork(network, runnable, dataset, data, heads_trained=trained)


def refuse_other_network(pretrained: Path, stored: NetworkSettings, asked: NetworkSettings) -> None:
    """Refuse (``UserError``) a checkpoint of another backbone or width than the command names."""
    for name in (*settings_of(BackboneFields), "code"):
        if getattr(stored, name) != getattr(asked, name):
            raise UserError(
                f"{pretrained} holds a network of {name} {getattr(stored, name)}, not {getattr(asked, name)}"
            )


def split_images(loaded: LoadedNetwork, split: Split, source: ImageSource) -> ImageSet:
    """The images of a split; only ``test`` opens the test images."""
    if split == "test":
        return load_test_set(loaded.data, source.data_root, download=source.download)
    images: ImageSet = getattr(loaded.dataset, split)
    return images


def train_one(
    network: NetworkSettings,
    training: TrainingSettings,
    data: DataSettings,
    source: ImageSource,
    *,
    epochs: int,
    device: str,
    folder: Path | None,
    pretrained: Path | None,
    initial: str | None,
    reporter: Reporter,
) -> Epoch:
    """Train one network, or resume the unfinished run of the same settings in ``folder``.

    Args:
        network: for mode ``exits`` and ``joint`` with ``pretrained``, its backbone must fit those weights.
        training, data, source: the settings of training and images, and the place of the images.
        epochs: the budget of all starts together.
        device: ``auto``, ``cpu``, ``cuda``.
        folder: receives the checkpoints ``last`` and ``best``; None: nothing is saved.
        pretrained: backbone weights to start from; required by mode ``exits``.
        initial: weights to fine-tune, as of :func:`load_initial`; the output layer may be of other classes.
        reporter: receives a line for each epoch.

    Returns:
        The best epoch.

    Raises:
        UserError: mode ``exits`` without weights, or a folder that holds another run.
    """
    if training.mode == "exits" and pretrained is None:
        raise UserError("train: mode exits trains heads on a trained backbone: name one with --pretrained")
    if pretrained is not None and initial is not None:
        raise UserError("train: --initial and --pretrained both name weights to start from: give one")
    where = pick_device(device)
    forbid_tf32()
    frozen_segments(described_network(network, data), training)
    if folder:
        check_writable(folder)
    checkpoint, tensors = load_pretrained(pretrained) if pretrained else (None, None)
    if initial is not None:
        tensors = load_initial(initial, [network.backbone], download=source.download)
    parent = None if tensors is None else initial_id(tensors)
    dataset = load_dataset(data, source.data_root, download=source.download)
    if checkpoint and checkpoint.data.name == data.name and checkpoint.data.digest != dataset.info.digest:
        raise UserError(
            f"{pretrained} was trained on other splits of {data.name}: its training images would be validation images "
            "here; use the same image settings and seed"
        )
    refuse_few_images(training, dataset)
    if pretrained and tensors is not None:
        check_fit(pretrained, tensors, network, dataset.info)
    if initial is not None and tensors is not None:
        for line in fit_initial(initial, meta_network(network, dataset.info), tensors).changes:
            reporter.line(line)
    if training.precision == "auto":
        found = read_description(folder / "last") if folder else None
        training = replace(training, precision=found.training.precision if found else fast_precision(where))
    plan = TrialPlan(phase="train", network=network, training=training, data_digest=dataset.info.digest, parent=parent)
    if folder:
        _refuse_other_run(folder, plan)
    reporter.line(images_line(data.name, dataset.image_counts, dataset.notes))
    with reporter.task(f"train {training.mode}", epochs) as task:
        history = train_in_folder(
            plan,
            dataset,
            folder,
            epochs=epochs,
            device=where,
            backbone_weights=None if tensors is None else lambda: tensors,
            on_epoch=lambda row: task.advance(
                row.epoch, f"loss {row.train_loss:.4f}  validation score {row.score:.4f}  {row.seconds:.1f} s"
            ),
        )
    return best_epoch(history)


def _refuse_other_run(folder: Path, plan: TrialPlan) -> None:
    found = read_description(folder / "last")
    if found is None:
        return
    for what, stored, asked in (
        ("network", asdict(found.network), asdict(plan.network)),
        ("training", asdict(found.training), asdict(plan.training)),
        ("images", found.data.digest, plan.data_digest),
        ("pretrained weights", found.parent, plan.parent),
    ):
        for difference in differences_of(stored, asked):
            told = str(difference).removeprefix(" is ")  # a value that is no mapping has no key
            raise UserError(f"{folder} holds a run with other {what}: {told}; choose another --suffix or --output")


def default_folder(network: NetworkSettings, mode: str, data: DataSettings, suffix: str | None) -> Path:
    """``models/<backbone>-<mode>-<data>[-<suffix>]``, with ``-`` for a colon."""
    parts = [network.backbone, mode, data.name, *([suffix] if suffix else [])]
    return Path("models") / safe_name("-".join(parts).replace(":", "-"), "the model's name")


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
    digest = content_hash([identity(settings), network.classes, network.input_shape, device_name(device)])[:6]
    name = f"{settings.backbone}-x{settings.width:g}-{settings.head.kind}-{network.input_shape[1]}px-{digest}"
    profiles: dict[Path, Profile] = {}
    for precision in known:
        counted = {size: table.costs(network, precision=precision, batch_size=size) for size in batch_sizes}
        runnable = make(precision, compiled)
        for size, costs in counted.items():
            reporter.line(f"measuring {name} {precision}, {size} images a batch")
            profile = measure_profile(runnable, counted=costs, batch_size=size, meter=meter, settings=measuring)
            kind = f"{name}-{precision}{'-compiled' if compiled else ''}-batch{size}"
            path = output / f"{safe_name(kind.replace(':', '-'), 'the profile')}.json"
            write_atomic(path, profile.to_json().encode())
            profiles[path] = profile
    return profiles


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
