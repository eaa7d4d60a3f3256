"""Exit heads: what turns the feature map at an exit into logits.

All heads of a network are one module, `heads(feature, exit) -> logits`, because exits may share parts; a part
is registered once, under the key that its exits name.
"""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias, get_args

from study.errors import UserError

HeadKind: TypeAlias = Literal["bof", "linear", "conv", "separable"]
Sharing: TypeAlias = Literal["paper", "none"]
MOST_UNITS = 2**16
"""Codewords or channels of a head."""
MOST_LAYERS = 16
"""Convolutions of a head."""
_LATER = {"conv_layers": 2}
"""Settings that came when there were run folders already, and what was built before."""


@dataclass(frozen=True, kw_only=True)
class HeadSettings:
    """Which exit heads a network has.

    Attributes:
        kind: `bof`: Bag-of-Features pooling and linear layers; `linear`: one linear layer after global average
            pooling; `conv`: a few small convolutions; `separable`: the same, each a depthwise and a 1x1 convolution.
        codewords: K, of `bof`.
        sharing: of `bof`: `paper`: as the exits' keys say; `none`: each exit has its own parts.
        conv_layers: convolutions of `conv` and `separable`.
        conv_channels: channels of the first two; after every second one, channels double where the map can halve.
        conv_side: maps larger than this are averaged down to it before those convolutions.

    Raises:
        UserError: a value out of range.
    """

    kind: HeadKind = "bof"
    codewords: int = 64
    sharing: Sharing = "paper"
    conv_channels: int = 64
    conv_side: int = 8
    conv_layers: int = 2

    def __post_init__(self) -> None:
        if self.kind not in get_args(HeadKind):
            raise UserError(f"unknown head kind {self.kind!r}; known are {', '.join(get_args(HeadKind))}")
        if self.sharing not in get_args(Sharing):
            raise UserError(f"unknown head sharing {self.sharing!r}; known are {', '.join(get_args(Sharing))}")
        for name in ("codewords", "conv_channels", "conv_side"):
            if not 1 <= getattr(self, name) <= MOST_UNITS:
                raise UserError(f"head setting {name} must be from 1 to {MOST_UNITS}, got {getattr(self, name)}")
        if not 1 <= self.conv_layers <= MOST_LAYERS:
            raise UserError(f"head setting conv_layers must be from 1 to {MOST_LAYERS}, got {self.conv_layers}")

    def to_plain(self) -> dict[str, Any]:
        """Plain values, for names and files; without later settings that change nothing, so that names and files of
        earlier versions stay what they were."""
        return {name: value for name, value in asdict(self).items() if name not in _LATER or value != _LATER[name]}


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """Which network to build: a registered backbone, the factor on its channel counts, its exit heads."""

    backbone: str
    width: float = 1.0
    head: HeadSettings = field(default_factory=HeadSettings)

    def to_plain(self) -> dict[str, Any]:
        """Plain values, for names and files."""
        return {"backbone": self.backbone, "width": self.width, "head": self.head.to_plain()}
