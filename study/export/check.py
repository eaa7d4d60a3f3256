"""Which networks can be exported, told before they are trained."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from search_spaces.words import short
from study.data.settings import DataInfo
from study.errors import UserError
from study.export.graphs import operations_of
from study.export.onnx_forms import FORMS
from study.export.parts import Run
from study.networks.construction import meta_network
from study.networks.multi_exit import MultiExitNetwork
from study.networks.quantization import prepare
from study.networks.settings import NetworkSettings


def export_lines(networks: Iterable[NetworkSettings], info: DataInfo) -> list[str]:
    """What ``export`` will refuse, a line for each backbone that is not one of this program.

    Networks of one backbone with other widths, and heads of one kind with other sizes, compute the same operations.
    """
    kinds = {(one.backbone, one.head.kind): one for one in networks if ":" in one.backbone}
    lines = [_line(one.backbone, meta_network(one, info)) for one in kinds.values()]
    return [line for line in dict.fromkeys(lines) if line]


def _line(name: str, network: MultiExitNetwork) -> str | None:
    runnable = prepare(network.eval(), "fp32")
    images = torch.zeros(2, *runnable.input_shape, device="meta")
    try:
        found = set(operations_of(Run(list(runnable.segments), runnable.classifier), (images,), name))
        state: tuple[torch.Tensor, ...] = (images,)
        heads: Any = runnable.exit_heads
        for segment, head in zip(runnable.segments, heads, strict=True):
            state = segment(state)
            found |= operations_of(head, (state[0],), name)
    except UserError as error:
        return f"{error}: this network can be studied, and not exported"
    except Exception as error:  # whatever torch.export finds in the forward of a module
        return f"export: {name} can be studied, and not exported ({short(error, 120)})"
    if without := sorted(found - FORMS.keys()):
        return f"export: {name} computes {', '.join(without)}, which has no form in ONNX: take --format torch"
    return None
