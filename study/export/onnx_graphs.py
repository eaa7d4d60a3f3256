"""Descriptions of parts as ONNX graphs: one for each part and head, for batches of any size.

int8 stays in the form quantize, operation, dequantize, which runtimes turn into integer kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from study.deploy.torch_parts import Part
from study.errors import UserError
from study.export.graphs import Description
from study.export.onnx_forms import FORMS
from study.export.onnx_writer import OnnxWriter
from study.export.parts import DescribedParts

AGREEMENT = 1e-3
"""Largest difference of a result from torch's that an export accepts, as a share of the largest number; of int8, whose
roundings of a tie may differ, it is 5 %."""


def check_onnx() -> None:
    """Refuse by a UserError an installation without ONNX and its runtime."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"--format onnx needs onnx and onnxruntime ({error}): install the extra onnx, as predictive-exit[onnx], or "
            "take --format torch"
        ) from None


def onnx_files(described: DescribedParts, *, precision: str, told: Callable[[str], None]) -> dict[str, bytes]:
    """The files ``part-<number>.onnx`` and ``head-<exit>.onnx``, each held against torch on random images.

    Raises:
        UserError: an operation has no form in ONNX, or a graph computes something else than torch.
    """
    if precision == "bf16":
        raise UserError("--format onnx: ONNX Runtime computes no bf16 on CPUs: export this point with --format torch")
    graphs = {f"part-{number}": graph for number, graph in enumerate(described.parts, start=1)}
    shapes = dict(zip(graphs, described.shapes, strict=True))
    for exit, head in described.heads.items():
        graphs[f"head-{exit}"], shapes[f"head-{exit}"] = head, [described.head_shapes[exit]]
    files = {}
    for name, graph in graphs.items():
        told(f"{name}.onnx")
        files[f"{name}.onnx"] = _held_against_torch(name, graph, described.tensors, shapes[name], precision)
    return files


def _held_against_torch(
    name: str, graph: Description, tensors: Mapping[str, Tensor], shapes: list[list[int]], precision: str
) -> bytes:
    import onnx
    import onnxruntime

    part = Part(graph, tensors)
    model = OnnxWriter(name, part, shapes, FORMS).write()
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    random = torch.Generator().manual_seed(0)
    for count in (1, 3):
        inputs = [torch.randn(count, *shape, generator=random) for shape in shapes]
        found = session.run(None, {one: each.numpy() for one, each in zip(part.inputs, inputs, strict=True)})
        with torch.no_grad():
            expected = [one.numpy() for one in part(*inputs)]
        for own, other in zip(found, expected, strict=True):
            far = float(np.abs(own - other).max() / max(np.abs(other).max(), 1e-3))
            if not far <= (0.05 if precision.startswith("int8") else AGREEMENT):
                raise UserError(f"export: {name}.onnx gives other results than torch (by {far:.2g})")
    return content
