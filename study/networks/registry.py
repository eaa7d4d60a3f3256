"""Backbones: what a backbone is, and how the program finds a backbone by its name.

A backbone is an ordinary torch model and a view of the model as *segments* and a *classifier*. Exits, costs, traces and
searches work on the view. A new backbone is one function: see ``register_backbone``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Literal, Protocol, TypeAlias, TypeVar

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from study.errors import UserError
from study.networks.own_code import LIBRARIES, is_own

WIDEST = 1000
LEAST_MOMENTUM = 0.1
"""Of batch normalisation in models of a library; torch's default."""
ENTRY_POINT_GROUP = "predictive_exit.backbones"

State: TypeAlias = tuple[Tensor, ...]
"""``(feature, *carried)``: the map that an exit reads, then the tensors that later segments need (a ResNet's skip)."""

Form: TypeAlias = Literal["map", "map_channels_last", "tokens", "tokens_behind_class"]
"""What the feature at an exit is: a map ``[B, C, H, W]`` (or values ``[B, C]``), a map ``[B, H, W, C]``, tokens
``[B, T, C]``, or tokens of which the first one stands for the image (a class token)."""


@dataclass(frozen=True)
class ExitPoint:
    """The place of an exit, and the parts of its head that it shares with other exits.

    Attributes:
        name: the place ("conv1_2", "pool1", "layer2.0.conv1").
        codebook: exits with the same key share their codewords, and must have the same number of channels.
        linear: exits with the same key share their linear layers.
        grid: side g of the g x g grid onto which Bag-of-Features pooling averages.
        form: what the feature is; heads read any form as a map.

    Both keys become part of parameter names: they must be identifiers.
    """

    name: str
    codebook: str
    linear: str
    grid: int
    form: Form = "map"

    def __post_init__(self) -> None:
        for key in (self.codebook, self.linear):
            if not key.isidentifier():
                raise ValueError(f"exit {self.name}: the sharing key {key!r} is not an identifier")


@dataclass(frozen=True, eq=False)
class Segmented:
    """A backbone and its view as segments and classifier: the result of a backbone builder.

    Attributes:
        model: the whole network as its library has it: ``model(images) -> logits [B, C]``.
        segments: E modules, ``segment(state) -> state``; the first one gets ``(images,)``. Exit l reads the feature
            that segment l returns. A segment must not change a tensor of its input.
        classifier: the rest of the network, ``classifier(state) -> logits [B, C]``.
        exits: one ``ExitPoint`` behind each segment.
        map_shapes: (channels, height, width) of the map that each head reads, where they are known already.

    Segments and classifier hold the layers of ``model``, all of them and no others.

    Raises:
        ValueError: the parts do not fit together.
    """

    model: nn.Module
    segments: tuple[nn.Module, ...]
    classifier: nn.Module
    exits: tuple[ExitPoint, ...]
    map_shapes: tuple[tuple[int, int, int], ...] | None = None

    def __post_init__(self) -> None:
        if not self.exits or len(self.segments) != len(self.exits):
            raise ValueError(f"{len(self.segments)} segments for {len(self.exits)} exits: one each, at least one")
        # With ``keep_vars``, a state dict holds the tensors themselves.
        whole = {id(tensor): f"model's {name}" for name, tensor in self.model.state_dict(keep_vars=True).items()}
        walked = {
            id(tensor): f"segments' {type(part).__name__} {name}"
            for part in (*self.segments, self.classifier)
            for name, tensor in part.state_dict(keep_vars=True).items()
        }
        if apart := whole.keys() ^ walked.keys():
            place = next(place for key, place in {**whole, **walked}.items() if key in apart)
            raise ValueError(f"segments and classifier must hold the layers of model, all of them: {place}")


def feature_shape(feature: Tensor, form: Form) -> tuple[int, int, int]:
    """(channels, height, width) of the map that a head reads from a feature."""
    if form.startswith("tokens"):
        return feature.shape[2], 1, 1
    if feature.dim() == 2:
        return feature.shape[1], 1, 1
    one, two, three = feature.shape[1:]
    return (three, one, two) if form == "map_channels_last" else (one, two, three)


class FeatureSegment(nn.Sequential):
    """A segment that carries nothing: layers in a row from feature to feature."""

    def forward(self, state: State) -> State:
        """From ``(feature,)`` to ``(feature,)``."""
        return (super().forward(state[0]),)  # type: ignore[no-untyped-call]


class FeatureClassifier(nn.Sequential):
    """A classifier that reads the feature only: layers in a row from feature to logits."""

    def forward(self, state: State) -> Tensor:
        """From ``(feature, ...)`` to logits [B, C]."""
        logits: Tensor = super().forward(state[0])  # type: ignore[no-untyped-call]
        return logits


class BackboneBuilder(Protocol):
    """Builds one untrained backbone for ``image_size`` x ``image_size`` images of ``channels`` planes."""

    def __call__(self, *, classes: int, image_size: int, channels: int, width: float) -> Segmented:
        """Return the segmented backbone; ``width`` scales every channel count."""


_Builder = TypeVar("_Builder", bound=BackboneBuilder)
_builders: dict[str, BackboneBuilder] = {}


def register_backbone(name: str) -> Callable[[_Builder], _Builder]:
    """Add a backbone under ``name``; a study file can then name the backbone.

    A backbone is one function that returns segments; the page "Backbones" of the documentation has an example. Worker
    processes of a cluster find a backbone in an installed distribution whose ``pyproject.toml`` says::

        [project.entry-points."predictive_exit.backbones"]
        tiny = "my_package.my_module:tiny"

    Such a backbone needs no decorator.

    Raises:
        ValueError: a backbone of this name is registered already.
    """

    def register(builder: _Builder) -> _Builder:
        if name in _builders:
            raise ValueError(f"a backbone named {name!r} is registered already")
        _builders[name] = builder
        return builder

    return register


def backbone_names() -> list[str]:
    """Sorted names of all backbones: registered ones, and entry points of other distributions."""
    from study.networks import resnet, vgg  # noqa: F401  # they register the built-in backbones

    return sorted(_builders.keys() | entry_points(group=ENTRY_POINT_GROUP).names)


def build_backbone(
    name: str,
    *,
    classes: int,
    image_size: int,
    channels: int,
    width: float,
    exits_at: Sequence[str] | None = None,
    code: str | None = None,
) -> Segmented:
    """Build the untrained backbone ``name``, with its usual exits or with those at the places ``exits_at``.

    ``code`` is the digest that the file of the user's own backbone must have.

    Raises:
        UserError: the name or a place is unknown, a size is impossible, or the backbone refuses the image size.
    """
    if min(classes, image_size, channels) < 1 or not 0 < width <= WIDEST:
        raise UserError(
            f"a backbone needs classes, image_size, channels and width above 0, and width at most {WIDEST}, "
            f"got {classes}, {image_size}, {channels} and {width}"
        )
    library, _, model = name.partition(":")
    if library in LIBRARIES:
        from study.networks.timm_models import build_timm
        from study.networks.torchvision_models import build_torchvision

        if width != 1:
            raise UserError(f"backbone {name} has one width: leave width out, or 1, not {width:g}")
        build = build_torchvision if library == "torchvision" else build_timm
        found = build(name, model, classes=classes, image_size=image_size, channels=channels, exits_at=exits_at)
        _hasten_statistics(found.model)
        return found
    if is_own(name):
        from study.networks.own_backbone import build_own

        return build_own(
            name, code, classes=classes, image_size=image_size, channels=channels, width=width, exits_at=exits_at
        )
    segmented = _find(name)(classes=classes, image_size=image_size, channels=channels, width=width)
    return segmented if exits_at is None else keep_exits(segmented, exits_at, name)


def _hasten_statistics(model: nn.Module) -> None:
    """Let the statistics of batch normalisation move by at least a tenth a step.

    MobileNetV3 (0.01) and MnasNet (0.0003) are made for hundreds of thousands of steps. After some hundred steps their
    statistics are still near the start, and the network in eval mode answers by chance.
    """
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.momentum is not None:
            module.momentum = max(module.momentum, LEAST_MOMENTUM)


def native_image_size(name: str) -> int | None:
    """Pixels a side of the images that a backbone is made for; None where any size will do.

    Raises:
        UserError: the name is unknown.
    """
    library, _, model = name.partition(":")
    if library not in LIBRARIES:
        return None
    from study.networks.timm_models import timm_size
    from study.networks.torchvision_models import native_size

    return native_size(name, model) if library == "torchvision" else timm_size(name, model)


def usual_image_size(names: Sequence[str]) -> int | None:
    """The size that all backbones of a study are made for; None where any size will do.

    Raises:
        UserError: a name is unknown, or the backbones are made for several sizes.
    """
    sizes = {name: native_image_size(name) for name in names}
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{name} {size or 'any'}" for name, size in sizes.items())
        raise UserError(f"the backbones are made for images of different sizes ({told}): set data.image_size")
    return next(iter(sizes.values()))


def keep_exits(segmented: Segmented, places: Sequence[str], name: str) -> Segmented:
    """A backbone with some of its exits: segments between two of them become one segment.

    Raises:
        UserError: a place is unknown, named twice, or not in the order of the network.
    """
    known = [point.name for point in segmented.exits]
    for place in places:
        if place not in known:
            raise UserError(f"backbone {name} has no exit at {place!r}: known are {', '.join(known)}")
    numbers = [known.index(place) for place in places]
    if numbers != sorted(set(numbers)) or not numbers:
        order = f", which is {', '.join(known[number] for number in sorted(set(numbers)))}" if numbers else ""
        raise UserError(f"backbone {name}: name one or more exits, each once, in the order of the network{order}")
    starts = [0, *(number + 1 for number in numbers)]
    segments = tuple(
        _Row(segmented.segments[start : number + 1]) for start, number in zip(starts[:-1], numbers, strict=True)
    )
    classifier = _Row((*segmented.segments[starts[-1] :], segmented.classifier))
    return Segmented(segmented.model, segments, classifier, tuple(segmented.exits[number] for number in numbers))


class _Row(nn.Module):
    """Parts one after the other, each from the state of the one before."""

    def __init__(self, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, state: State) -> State | Tensor:
        """The state, or the logits, behind the last part."""
        for part in self.parts:
            state = part(state)
        return state


def scale_channels(channels: int, width: float) -> int:
    """``channels`` times ``width``, rounded to a multiple of 8, at least 8. Matrix units compute multiples of 8."""
    return max(8, 8 * round(channels * width / 8))


def _find(name: str) -> BackboneBuilder:
    from study.networks import resnet, vgg  # noqa: F401  # they register the built-in backbones

    if name in _builders:
        return _builders[name]
    for entry_point in entry_points(group=ENTRY_POINT_GROUP, name=name):
        builder: BackboneBuilder = entry_point.load()
        return _builders.setdefault(name, builder)  # the import may have run the decorator
    known = f"{', '.join(backbone_names())}; torchvision:NAME, as torchvision:resnet50; timm:NAME; my_module:build"
    raise UserError(f"unknown backbone {name!r}; known are {known}")
