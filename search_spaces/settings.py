"""The settings of data, networks and training: name, type, default, bounds and meaning of each, stated once.

Three things are made from these dataclasses: the schema of a study file (``search_spaces.spec``), the options of the
command line (``study.cli.options``) and the classes that the program computes with (``study.data.settings``,
``study.networks.settings`` and ``study.training.settings``). The module imports only the standard library, because a
machine that only trains may lack every other library.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import KW_ONLY, MISSING, dataclass, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin, get_type_hints

Mode = Literal["normal", "original", "exits", "joint"]
"""``normal`` trains the backbone alone. ``original`` trains the backbone of the multi-exit network while its heads are
idle. ``exits`` trains the heads on the frozen backbone. ``joint`` trains both."""
BackboneMode = Literal["normal", "original"]
"""The modes of phase 1a."""
HeadMode = Literal["exits", "joint"]
"""The modes of phase 1b: the modes in which exit heads are trained."""
HEAD_MODES: tuple[HeadMode, ...] = get_args(HeadMode)
Optimizer = Literal["adam", "adamw", "sgd", "muon"]
Schedule = Literal["constant", "cosine"]
ClassWeights = Literal["none", "balanced"]
"""``balanced``: an image of a class with n_c of the N training images in C classes weighs N / (C n_c)."""
TrainingPrecision = Literal["auto", "fp32", "bf16"]
HeadKind = Literal["bof", "linear", "conv", "separable"]
Sharing = Literal["paper", "none"]
Tokens = Literal["class", "mean"]
ExitGradientRule = Literal["constant", "equilibrium"]
DistillationKind = Literal["softened", "decoupled"]
CropFill = Literal["black", "reflected"]

SMALLEST_IMAGE = 8
"""Pixels a side. Below this size, a crop padding of an eighth of the side would be 0."""
LARGEST_IMAGE = 4096
"""Pixels a side."""
LARGEST_SEED = 2**63 - 1
MOST = 10**9
"""The largest count that a setting may have, where no smaller bound is stated."""
DEFAULT_DEVICE = "horowitz-2014-45nm"
"""The device table that gives the energies where no other one is named."""
MEASURED = "measured"
"""The value of ``operating_points.costs`` for costs that are measured where the study runs."""


@dataclass(frozen=True)
class Description:
    """The meaning of a setting in a few words, and the numbers that the setting may have."""

    meaning: str
    _: KW_ONLY
    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    below: float = math.inf
    searched: bool = True
    """Whether a study file may give several values, to be searched."""
    option: str | None = None
    """The name in study files and on the command line; None: the name of the field."""
    added: bool = False
    """Whether there were trials before there was the setting: with its default, it is no part of a trial's name."""

    def hold(self, number: float) -> bool:
        """Whether a number keeps to the bounds; no infinite number and no NaN does."""
        return math.isfinite(number) and self.least <= number <= self.most and self.above < number < self.below

    def words(self) -> str:
        """The bounds, as in ``from 0 to below 1``."""
        low = f"from {self.least:g}" if math.isfinite(self.least) else ""
        low = f"above {self.above:g}" if math.isfinite(self.above) else low
        joint = "and" if math.isfinite(self.above) else "to"
        if math.isfinite(self.below):
            return f"{low} {joint} below {self.below:g}"
        if math.isfinite(self.most):
            return f"{low} {joint} at most {self.most:.10g}" if joint == "and" else f"{low} to {self.most:.10g}"
        return low


@dataclass(frozen=True, kw_only=True)
class DataFields:
    """Which images a study takes, and how they are cut into splits. None: the default of the data set."""

    name: Annotated[
        str, Description("the data set, as digits, cifar10 or image_folder", searched=False, option="data")
    ] = "digits"
    image_size: Annotated[
        int | None,
        Description(
            "pixels a side, else what is usual for the data set",
            least=SMALLEST_IMAGE,
            most=LARGEST_IMAGE,
            searched=False,
        ),
    ] = None
    channels: Annotated[
        Literal[1, 3] | None,
        Description("3: colour; 1: grey (ITU-R 601 luma); else what is usual for the data set", searched=False),
    ] = None
    normalization: Annotated[
        Literal["images", "imagenet"],
        Description("mean and deviation of the train images, or those of ImageNet", searched=False, added=True),
    ] = "images"
    calibration: Annotated[
        float, Description("share of the training part that calibrates", above=0, below=1, searched=False)
    ] = 0.1
    validation: Annotated[
        float, Description("share of the training part that validates", above=0, below=1, searched=False)
    ] = 0.1
    certification: Annotated[
        float | None,
        Description("share of the training part that certifies a guarantee", least=0, below=1, searched=False),
    ] = None
    """None: 0; in a study with a guarantee a tenth (:class:`search_spaces.spec.StudySpec`)."""
    limit: Annotated[
        int | None, Description("most images of the training part", least=1, most=MOST, searched=False)
    ] = None
    """The images are a stratified sample, drawn by the seed."""
    test_limit: Annotated[
        int | None, Description("most images of the test part", least=1, most=MOST, searched=False)
    ] = None
    """The images are a stratified sample, the same for every seed."""
    folder: Annotated[str | None, Description("image_folder: the folder with the images", searched=False)] = None
    """An absolute path, or a path below the data root."""
    table: Annotated[
        str | None,
        Description("image_folder: a CSV or parquet file of paths and labels in place of folder", searched=False),
    ] = None
    """As ``folder``."""
    white_level: Annotated[
        int | None,
        Description("white in greys of 16 bits, as 4095 of 12-bit cameras", least=1, most=65535, searched=False),
    ] = None
    """None: 65535; images that stay far below are refused then."""
    max_pixels: Annotated[
        int | None,
        Description("most pixels of a file, else about 89 million", least=1, most=MOST, searched=False),
    ] = None


@dataclass(frozen=True, kw_only=True)
class BackboneFields:
    """Which backbone a network has."""

    backbone: Annotated[str, Description("the backbone, as vgg19 or resnet34")] = "vgg19"
    width: Annotated[float, Description("factor on channel counts", above=0)] = 1.0
    exits_at: Annotated[
        tuple[str, ...] | None,
        Description("places of the exits, else all usual ones of the backbone", searched=False, added=True),
    ] = None
    weight_init: Annotated[
        Literal["usual", "dirac"], Description("dirac: convolutions start by passing their inputs on", added=True)
    ] = "usual"
    """:func:`study.networks.construction.start_from_dirac`."""


@dataclass(frozen=True, kw_only=True)
class HeadFields:
    """Which exit heads a network has.

    ``bof``: Bag-of-Features pooling and linear layers. ``linear``: one linear layer after global average pooling.
    ``conv``: a few small convolutions. ``separable``: the same, each a depthwise and a 1x1 convolution.
    """

    kind: Annotated[HeadKind, Description("kind of the exit heads", option="head")] = "bof"
    codewords: Annotated[int, Description("codewords of a bof head", least=1, most=2**16)] = 64
    sharing: Annotated[Sharing, Description("bof heads share parts as in the paper, or share none")] = "paper"
    conv_channels: Annotated[
        int, Description("channels of the first two convolutions of a head", least=1, most=2**16)
    ] = 64
    """After every second convolution the channels double where the map can halve."""
    conv_side: Annotated[
        int, Description("maps larger than this are averaged down to it before the convolutions", least=1, most=2**16)
    ] = 8
    conv_layers: Annotated[int, Description("convolutions of a conv or separable head", least=1, most=16)] = 2
    tokens: Annotated[
        Tokens | None,
        Description("what token models give heads, else their class token", searched=False, added=True),
    ] = None
    pooling: Annotated[
        Literal["average", "max_average"],
        Description("last pooling of heads but bof; max_average: a learned mixture", added=True),
    ] = "average"
    pooling_side: Annotated[
        int, Description("side of the map that the last pooling of a head leaves", least=1, most=2**16, added=True)
    ] = 1
    cascade: Annotated[
        float, Description("share of the answer before that an exit adds to its own", least=0, most=1, added=True)
    ] = 0.0
    """:mod:`study.networks.cascade`."""


@dataclass(frozen=True, kw_only=True)
class TrainingFields:
    """What decides the result of a training run, beside its network, its images, its mode and its epochs."""

    batch_size: Annotated[int, Description("images a batch", least=2, most=2**16)] = 128
    """Batch normalisation needs two images."""
    optimizer: Annotated[Optimizer, Description("the optimizer; sgd and muon have Nesterov momentum")] = "adam"
    learning_rate: Annotated[float, Description("peak of the learning rate", above=0)] = 1e-3
    weight_decay: Annotated[float, Description("weight decay of matrices and kernels", least=0)] = 0.0
    momentum: Annotated[float, Description("momentum of sgd and muon", least=0, below=1)] = 0.9
    kernel_rate: Annotated[float, Description("muon: factor on the rate of kernels", above=0, added=True)] = 1.0
    bias_rate: Annotated[float, Description("factor on the rate of batch-norm biases", above=0, added=True)] = 1.0
    norm_scales: Annotated[
        Literal["trained", "fixed"], Description("fixed: batch-norm scales stay as they start", added=True)
    ] = "trained"
    schedule: Annotated[Schedule, Description("learning rate: constant, or cosine from the peak to 0")] = "cosine"
    warmup_epochs: Annotated[
        float, Description("epochs in which the learning rate rises linearly at the start", least=0)
    ] = 0.0
    label_smoothing: Annotated[float, Description("label smoothing", least=0, below=1)] = 0.0
    ema_decay: Annotated[float, Description("decay of an average of the weights; 0: none", least=0, below=1)] = 0.0
    """The averaged weights are those that are validated and kept."""
    class_weights: Annotated[
        ClassWeights, Description("weights of classes in the loss; balanced: N / (C n_c)", added=True)
    ] = "none"
    backbone_rate: Annotated[
        float, Description("factor on the learning rate of all but heads and output layer", above=0, added=True)
    ] = 1.0
    frozen_to: Annotated[
        str | None,
        Description("place of the last exit up to which the backbone stays frozen", searched=False, added=True),
    ] = None
    crop_scale: Annotated[
        float, Description("smallest area of random resized crops; 0: padded crops", least=0, most=1, added=True)
    ] = 0.0
    """Of images in training; their ratios of sides are torchvision's."""
    crop_padding: Annotated[
        int | None,
        Description("pixels of padding, else an eighth of the side", least=0, most=2**12, searched=False, added=True),
    ] = None
    crop_fill: Annotated[CropFill, Description("what padded crops are padded with", added=True)] = "black"
    mirroring: Annotated[
        Literal["random", "alternating"],
        Description("alternating: each image is mirrored in every other epoch", added=True),
    ] = "random"
    color_jitter: Annotated[
        float, Description("strength of random brightness, contrast and saturation", least=0, most=1, added=True)
    ] = 0.0
    rand_augment: Annotated[int, Description("magnitude of RandAugment; 0: none", least=0, most=30, added=True)] = 0
    cutout: Annotated[
        float, Description("side of a black square, as a share of the image's", least=0, below=1, added=True)
    ] = 0.0
    mixup: Annotated[float, Description("alpha of mixup; 0: none", least=0, added=True)] = 0.0
    exit_loss_base: Annotated[
        float, Description("exit l of E weighs base + slope * l / E in the loss: the base", least=0)
    ] = 1.0
    """The classifier weighs 1."""
    exit_loss_slope: Annotated[
        float, Description("exit l of E weighs base + slope * l / E in the loss: the slope", least=0)
    ] = 0.0
    exit_gradient: Annotated[
        float, Description("mode joint: factor on the gradients from exits into the backbone", least=0)
    ] = 1.0
    """The heads themselves learn at the full rate."""
    exit_gradient_rule: Annotated[
        ExitGradientRule,
        Description("mode joint: equilibrium divides a segment's gradient by the outputs that share it", added=True),
    ] = "constant"
    """:mod:`study.training.gradient_rules`."""
    distillation: Annotated[
        float, Description("share of an exit's loss that compares it with the classifier", least=0, most=1)
    ] = 0.0
    """The comparison is with the classifier's softened probabilities (Zhang et al., "Be Your Own Teacher", ICCV 2019,
    equation 2)."""
    temperature: Annotated[float, Description("divides both logits in the distillation", above=0)] = 3.0
    distillation_kind: Annotated[
        DistillationKind,
        Description("decoupled: the class of the label and the other classes are compared apart", added=True),
    ] = "softened"
    """The distances are in :mod:`study.training.distillation`."""
    target_weight: Annotated[
        float, Description("decoupled distillation: weight of the share of the label's class", least=0, added=True)
    ] = 1.0
    other_weight: Annotated[
        float, Description("decoupled distillation: weight of the shares among the other classes", least=0, added=True)
    ] = 1.0
    teacher: Annotated[
        Literal["classifier", "average"],
        Description("whose answers exits learn from; average: averaged weights", added=True),
    ] = "classifier"
    difficulty: Annotated[
        float, Description("how much more easy images weigh early, and hard images late", least=0, most=1, added=True)
    ] = 0.0
    """:func:`study.training.loss.weights_by_difficulty`."""
    reach: Annotated[
        float, Description("how much more images weigh that reach an exit", least=0, most=1, added=True)
    ] = 0.0
    """:func:`study.training.loss.weights_by_reach`."""
    reach_epochs: Annotated[
        int, Description("last epochs of the schedule in which reach holds", least=1, most=MOST, added=True)
    ] = 2
    patience: Annotated[
        int | None,
        Description("stop after this many epochs without a better score", least=1, most=MOST, searched=False),
    ] = None
    precision: Annotated[
        TrainingPrecision, Description("bf16: autocast with fp32 weights; auto: bf16 where it is fast", searched=False)
    ] = "auto"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One field of one of the dataclasses above."""

    name: str
    """The name of the field."""
    option: str
    """The name in study files and on the command line."""
    kind: type
    """``int``, ``float`` or ``str``; of a list of texts ``tuple``."""
    choices: tuple[Any, ...]
    """All values that the setting may have; empty where there are others."""
    optional: bool
    """Whether the setting may be None."""
    default: Any
    hint: Any
    """The type of the field."""
    description: Description

    def expected(self) -> str:
        """What the setting must be, in words."""
        if self.choices:
            *some, last = map(str, self.choices)
            return f"{', '.join(some)} or {last}"
        if self.kind is str:
            return "a text"
        if self.kind is tuple:
            return "a list of texts"
        return f"a {'whole ' if self.kind is int else ''}number {self.description.words()}".rstrip()

    def allows(self, value: object) -> bool:
        """Whether the setting may have a value."""
        if value is None:
            return self.optional
        if self.choices:
            return any(value == choice and type(value) is type(choice) for choice in self.choices)
        if self.kind is str:
            return isinstance(value, str)
        if self.kind is tuple:
            return isinstance(value, tuple) and bool(value) and all(isinstance(one, str) and one for one in value)
        kinds = (int,) if self.kind is int else (int, float)
        return isinstance(value, kinds) and not isinstance(value, bool) and self.description.hold(value)


@cache
def settings_of(kind: type) -> dict[str, Setting]:
    """The fields of a dataclass that have a :class:`Description`, by name, those of its base classes included."""
    found: dict[str, Setting] = {}
    hints = get_type_hints(kind, include_extras=True)
    for field in fields(kind):
        hint, *extras = get_args(hints[field.name]) if get_origin(hints[field.name]) is Annotated else (None,)
        description = next((extra for extra in extras if isinstance(extra, Description)), None)
        if description is None:
            continue
        parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        (main,) = (part for part in parts if part is not NoneType)
        choices = get_args(main) if get_origin(main) is Literal else ()
        found[field.name] = Setting(
            name=field.name,
            option=description.option or field.name,
            kind=type(choices[0]) if choices else get_origin(main) or main,
            choices=choices,
            optional=NoneType in parts,
            default=None if field.default is MISSING else field.default,
            hint=hint,
            description=description,
        )
    return found


def first_problem(settings: object) -> str | None:
    """The first field of a dataclass whose value is not allowed, in words; None where all values are allowed."""
    for setting in settings_of(cast(Hashable, type(settings))).values():
        value = getattr(settings, setting.name)
        if not setting.allows(value):
            return f"{setting.option} must be {setting.expected()}, got {repr(value)[:60]}"
    return None


def identity(settings: Any) -> dict[str, Any]:
    """The fields of a dataclass that name what it decides: all but added settings that have their default.

    A setting that the program learns later does not rename the trials of before.
    """
    known = settings_of(cast(Hashable, type(settings)))
    found: dict[str, Any] = {}
    for field in fields(settings):
        value = getattr(settings, field.name)
        setting = known.get(field.name)
        if setting is None or not (setting.description.added and value == setting.default):
            found[field.name] = identity(value) if is_dataclass(value) else value
    return found
