"""Backbones ``timm:NAME``: models of the package timm, cut at the places that their feature information names."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from search_spaces.words import short
from study.errors import UserError, is_lack_of_memory
from study.networks.registry import Segmented
from study.networks.segmenter import segment_module


def timm_size(name: str, model: str) -> int:
    """Pixels a side of the images that the published weights of ``timm:NAME`` take; refused as when built."""
    return int(_checked(name, model).get_pretrained_cfg(model).input_size[-1])


def build_timm(
    name: str, model: str, *, classes: int, image_size: int, channels: int, exits_at: Sequence[str] | None
) -> Segmented:
    """Build ``timm:NAME`` with exits at the places of its feature information, or at the modules that are named.

    Raises:
        UserError: timm is not installed, the model is unknown, takes no such images, or names no places.
    """
    timm = _checked(name, model)
    sizes: dict[str, Any] = {"num_classes": classes, "in_chans": channels}
    if timm.get_pretrained_cfg(model).fixed_input_size:
        sizes["img_size"] = image_size
    try:
        network = timm.create_model(model, pretrained=False, **sizes)
    except Exception as error:  # each model has its own way to refuse a size
        if isinstance(error, MemoryError | RuntimeError) and is_lack_of_memory(error):
            raise
        raise UserError(f"backbone {name} cannot take images of {image_size} pixels: {short(error, 120)}") from None
    modules = {path for path, _ in network.named_modules()}
    places = exits_at or [one["module"] for one in getattr(network, "feature_info", []) if one["module"] in modules]
    if not places:
        raise UserError(f"backbone {name} names no places of features: set exits_at")
    return segment_module(
        network,
        list(places),
        image=(channels, image_size, image_size),
        name=name,
        layout="last" if str(getattr(network, "output_fmt", "")).endswith("NHWC") else "first",
        class_token=getattr(network, "num_prefix_tokens", 0) > 0,
    )


def _checked(name: str, model: str) -> Any:
    try:
        timm = importlib.import_module("timm")
    except ImportError:
        raise UserError(f"backbone {name} needs timm: install the extra timm, as predictive-exit[timm]") from None
    known = timm.list_models()
    if model not in known:
        near = ", ".join(get_close_matches(model, known, n=5, cutoff=0.3) or known[:5])
        raise UserError(f"unknown backbone {name!r}; behind timm: known are {near} and others")
    return timm
