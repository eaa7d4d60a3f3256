"""Weights for images of other colours or of another size, made to fit a network."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import interpolate

_GREY, _COLOUR = 1, 3
_POSITIONS = ("pos_embedding", "pos_embed")
"""The last part of the name of the weights that stand for the places of patches, in torchvision and in timm."""


def to_colours(given: Tensor, expected: Tensor) -> Tensor | None:
    """The kernels of a first convolution for grey images from those for colour images, or the reverse.

    Colour kernels are summed: on images whose three channels are equal both give the same result. Grey kernels are
    repeated and divided by three: the mean of the channels takes the place of the grey.

    Args:
        given: ``[O, 1 or 3, H, W]``.
        expected: of the network, ``[O, 3 or 1, H, W]``.

    Returns:
        The new kernels; None where the shapes do not differ in the colours alone.
    """
    one, other = list(given.shape), list(expected.shape)
    if len(one) != 4 or len(other) != 4 or [one[0], *one[2:]] != [other[0], *other[2:]]:
        return None
    if (one[1], other[1]) == (_COLOUR, _GREY):
        return given.sum(dim=1, keepdim=True)
    if (one[1], other[1]) == (_GREY, _COLOUR):
        return given.expand(-1, _COLOUR, -1, -1) / _COLOUR
    return None


def to_positions(name: str, given: Tensor, expected: Tensor) -> Tensor | None:
    """The positions of the patches of a transformer for images of another size, by bicubic interpolation.

    This is what torchvision's ``interpolate_embeddings`` does. The position of a class token stays.

    Args:
        name: of the weights.
        given: ``[1, T, D]``: a class token or none, and the rows of a square of patches.
        expected: of the network, ``[1, T', D]``.

    Returns:
        The new positions; None where the weights are no positions of two squares.
    """
    named = name.rpartition(".")[2] in _POSITIONS and given.dim() == expected.dim() == 3
    if not named or given.shape[::2] != expected.shape[::2]:
        return None
    for tokens in (1, 0):
        old, new = (math.isqrt(one.shape[1] - tokens) for one in (given, expected))
        if (old**2, new**2) == (given.shape[1] - tokens, expected.shape[1] - tokens):
            square = given[:, tokens:].float().transpose(1, 2).reshape(1, -1, old, old)
            moved = interpolate(square, size=(new, new), mode="bicubic", align_corners=True)
            return torch.cat([given[:, :tokens], moved.flatten(2).transpose(1, 2).to(given.dtype)], dim=1)
    return None
