"""Backbones: what a backbone is, and how the program finds a backbone by its name.

A backbone is an ordinary torch model and a view of the model as *segments* and a *classifier*. Exits, costs, traces and
searches work on the view. A new backbone is one function: see ``register_backbone``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Protocol, TypeAlias, TypeVar

from torch import Tensor, nn

from study.errors import UserError

WIDEST = 1000
ENTRY_POINT_GROUP = "predictive_exit.backbones"

State: TypeAlias = tuple[Tensor, ...]
"""``(feature, *carried)``: the map that an exit reads, then the tensors that later segments need (a ResNet's skip)."""


@dataclass(frozen=True)
class ExitPoint:
    """The place of an exit, and the parts of its head that it shares with other exits.

    Attributes:
        name: the place ("conv1_2", "pool1", "layer2.0.conv1").
        codebook: exits with the same key share their codewords, and must have the same number of channels.
        linear: exits with the same key share their linear layers.
        grid: side g of the g x g grid onto which Bag-of-Features pooling averages.

    Both keys become part of parameter names: they must be identifiers.
    """

    name: str
    codebook: str
    linear: str
    grid: int

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

    Segments and classifier hold the layers of ``model``, all of them and no others.

    Raises:
        ValueError: the parts do not fit together.
    """

    model: nn.Module
    segments: tuple[nn.Module, ...]
    classifier: nn.Module
    exits: tuple[ExitPoint, ...]

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


def build_backbone(name: str, *, classes: int, image_size: int, channels: int, width: float) -> Segmented:
    """Build the untrained backbone ``name``.

    Raises:
        UserError: the name is unknown, a size is impossible, or the backbone refuses the image size.
    """
    if min(classes, image_size, channels) < 1 or not 0 < width <= WIDEST:
        raise UserError(
            f"a backbone needs classes, image_size, channels and width above 0, and width at most {WIDEST}, "
            f"got {classes}, {image_size}, {channels} and {width}"
        )
    return _find(name)(classes=classes, image_size=image_size, channels=channels, width=width)


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
    raise UserError(f"unknown backbone {name!r}; known are {', '.join(backbone_names())}")
