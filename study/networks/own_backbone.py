"""The user's own backbone, ``module:function``: segments, or an ordinary module that is cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from study.errors import UserError, is_lack_of_memory
from study.networks.own_code import described, load_function
from study.networks.registry import Segmented, keep_exits
from study.networks.segmenter import check_equal, segment_module

_checked: set[tuple[Any, ...]] = set()
"""What was compared with the module's own answer in this process."""


def build_own(
    name: str,
    code: str | None,
    *,
    classes: int,
    image_size: int,
    channels: int,
    width: float,
    exits_at: Sequence[str] | None,
) -> Segmented:
    """Call the user's function, and cut what it returns.

    The function gets the four sizes as keyword arguments. It returns a :class:`Segmented`, a pair of a module and the
    paths of its exits, or a module, whose exits are then those of ``exits_at``.

    Raises:
        UserError: the file or the function is missing, fails, or returns something else; or the module cannot be cut.
    """
    build = load_function(name, code)
    try:
        made = build(classes=classes, image_size=image_size, channels=channels, width=width)
    except UserError:
        raise
    except Exception as error:  # whatever the user's function does
        if isinstance(error, MemoryError | RuntimeError) and is_lack_of_memory(error):
            raise
        raise UserError(f"backbone {name} failed: {described(name, error)}") from None
    image = (channels, image_size, image_size)
    if isinstance(made, Segmented):
        segmented = made if exits_at is None else keep_exits(made, exits_at, name)
    else:
        model, exits = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
        if not isinstance(model, nn.Module):
            raise UserError(f"backbone {name} returns {type(model).__name__}, not segments or a torch module")
        places = exits if exits_at is None else exits_at
        if places is None or isinstance(places, str) or not all(isinstance(one, str) for one in places):
            raise UserError(
                f"backbone {name} returns a module without places of exits: set exits_at, or return the module and a "
                "list of paths"
            )
        segmented = segment_module(model, list(places), image=image, name=name)
    key = (name, code, tuple(exits_at or ()), classes, image, width)
    if key not in _checked and torch.get_default_device().type != "meta":
        check_equal(segmented, image, name)
        _checked.add(key)
    return segmented
