"""Precisions of inference: which parts of a network compute in which number format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

Precision = Literal["fp32", "bf16", "int8", "int8_all"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

Int8Execution = Literal["x86_kernels", "x86_kernels_7_bit", "simulated"]
"""How a device computes int8.

``x86_kernels``: integer arithmetic by oneDNN. ``x86_kernels_7_bit``: the same on a CPU that adds two products of 8 bits
in 16 bits, which can overflow; activations have 7 bits there. ``simulated``: float arithmetic on rounded numbers, as
accurate as int8 and no faster than float.
"""


@dataclass(frozen=True, kw_only=True)
class NumberFormat:
    """A format of weights and operands, and of the feature maps between parts."""

    name: str
    bits: int
    """Bits of a weight, and of the other operand of a multiplication."""
    map_bytes: int
    """Bytes of one element of a feature map between two parts."""

    @property
    def weight_bytes(self) -> float:
        """Bytes of one weight."""
        return self.bits / 8


FP32 = NumberFormat(name="fp32", bits=32, map_bytes=4)
BF16 = NumberFormat(name="bf16", bits=16, map_bytes=2)
INT8 = NumberFormat(name="int8", bits=8, map_bytes=4)
"""Feature maps between parts stay in fp32, because a head in fp32 may read any of them. A part rounds its own input."""


@dataclass(frozen=True, kw_only=True)
class PartFormats:
    """The formats of one precision."""

    backbone: NumberFormat
    """Format of segments and classifier."""
    heads: NumberFormat


FORMATS: Mapping[Precision, PartFormats] = {
    "fp32": PartFormats(backbone=FP32, heads=FP32),
    "bf16": PartFormats(backbone=BF16, heads=FP32),
    "int8": PartFormats(backbone=INT8, heads=FP32),
    "int8_all": PartFormats(backbone=INT8, heads=INT8),
}
"""Heads compute in fp32, as in the paper, except in ``int8_all``."""
