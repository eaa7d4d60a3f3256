"""A backbone with exit heads: the network that is trained, traced, quantized and run exit by exit."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from study.networks.heads import Shape, build_heads
from study.networks.inference_network import all_logits, eval_mode
from study.networks.registry import Segmented, State, build_backbone, feature_shape
from study.networks.settings import HeadSettings, NetworkSettings
from study.networks.weight_names import plain_names, refuse_misfit


class MultiExitNetwork(nn.Module):
    """A backbone and its exit heads; :func:`all_logits` runs it exit by exit.

    Attributes:
        backbone: the whole model, with its library's parameter names.
        segments: E modules, ``segment(state) -> state``, ``state = (feature, *carried)``; the first one gets
            ``(images,)``.
        heads: ``heads(feature, exit) -> logits [B, C]``, exits from 1; in a cascade, of the head alone.
        cascade: the share of the answer before that an exit adds to its own (:mod:`study.networks.cascade`).
        exits: place and sharing keys of each exit.
        classes: C.
        input_shape: (channels, height, width) of an image.
        exit_shapes: (channels, height, width) of the map that the head of each exit reads.

    Segments and classifier are views of ``backbone``, not submodules: they hold the layers of ``backbone`` (also in a
    deep copy, and after ``.to()``), and ``state_dict()`` has each tensor once. ``backbone.train()`` and
    ``heads.train()`` set the mode of the layers.
    """

    def __init__(self, segmented: Segmented, head: HeadSettings, *, classes: int, input_shape: Shape) -> None:
        super().__init__()
        self._segmented = segmented  # a dataclass, so that the classifier is not registered a second time
        self.segments, self.exits, self.backbone = segmented.segments, segmented.exits, segmented.model
        self.classes, self.input_shape, self.cascade = classes, input_shape, head.cascade
        self.exit_shapes = segmented.map_shapes or _measure(segmented, input_shape)
        self.heads = build_heads(head, segmented.exits, shapes=self.exit_shapes, classes=classes)

    @property
    def classifier(self) -> nn.Module:
        """The part behind the last exit: ``classifier(state) -> logits [B, C]``."""
        return self._segmented.classifier

    @property
    def exit_count(self) -> int:
        """E; the classifier does not count."""
        return len(self.exits)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.parameters()).device

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, E+1, C] of all exits and the classifier for images [B, channels, height, width]."""
        return all_logits(self, images)

    def classify(self, images: Tensor) -> Tensor:
        """Logits [B, C] of the classifier, without running a head."""
        state: State = (images,)
        for segment in self.segments:
            state = segment(state)
        logits: Tensor = self.classifier(state)
        return logits


def build_network(settings: NetworkSettings, *, classes: int, image_size: int, channels: int) -> MultiExitNetwork:
    """Build an untrained network for ``image_size`` x ``image_size`` images of ``channels`` planes.

    Raises:
        UserError: the backbone is unknown or a size is impossible (see ``build_backbone``).
    """
    segmented = build_backbone(
        settings.backbone,
        classes=classes,
        image_size=image_size,
        channels=channels,
        width=settings.width,
        exits_at=settings.exits_at,
        code=settings.code,
    )
    input_shape = (channels, image_size, image_size)
    return MultiExitNetwork(segmented, settings.head, classes=classes, input_shape=input_shape)


def load_backbone_weights(network: MultiExitNetwork, tensors: Mapping[str, Tensor]) -> None:
    """Copy trained weights into the backbone; the heads stay unchanged.

    Args:
        network: changed in place; unchanged after an error.
        tensors: state_dict of a backbone (torchvision's names, ``features.0.weight``) or of a ``MultiExitNetwork``
            (``backbone.features.0.weight``), whose heads are ignored; usual prefixes are stripped.

    Raises:
        UserError: a tensor is missing, unexpected, or has another shape (often: another number of classes).
    """
    network.backbone.load_state_dict(matching_weights(network, tensors), strict=False)


def output_layer(network: MultiExitNetwork) -> list[str]:
    """Names, in the backbone, of the parameters of the last linear layer or convolution: what gives the classes."""
    layers = [layer for layer in network.classifier.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    own = {id(parameter) for layer in layers[-1:] for parameter in layer.parameters()}
    return [name for name, parameter in network.backbone.named_parameters() if id(parameter) in own]


def matching_weights(network: MultiExitNetwork, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a network's backbone by the backbone's names, refused as :func:`load_backbone_weights` says."""
    expected = network.backbone.state_dict()
    given = plain_names(tensors, expected)
    # Old files of torchvision lack this counter, which evaluation does not read.
    refuse_misfit("backbone", expected, given, may_lack=lambda name: name.endswith(".num_batches_tracked"))
    return given


def _measure(segmented: Segmented, input_shape: Shape) -> tuple[Shape, ...]:
    """Measure the shapes of the feature maps on one black image, in eval mode: batch norm keeps its statistics."""
    state: State = (torch.zeros(1, *input_shape),)
    shapes: list[Shape] = []
    with eval_mode(segmented.model), torch.no_grad():
        for segment, point in zip(segmented.segments, segmented.exits, strict=True):
            state = segment(state)
            shapes.append(feature_shape(state[0], point.form))
    return tuple(shapes)
