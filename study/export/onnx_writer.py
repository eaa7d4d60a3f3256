"""The writer of one ONNX graph: its nodes, its constants and the values that the part has for two images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from study.deploy.torch_parts import Part, Reference, Step, run_step
from study.errors import UserError

OPSET, IR_VERSION = 20, 10
"""ONNX Runtime 1.17 and newer read them."""


class OnnxWriter:
    """One pass over the steps of a part.

    Args:
        name: of the graph.
        part: to be written.
        shapes: of the inputs of the part, without the batch.
        forms: operation -> what writes its nodes.
    """

    def __init__(self, name: str, part: Part, shapes: list[list[int]], forms: Mapping[str, Form]) -> None:
        self.name, self.part, self.shapes, self.forms = name, part, shapes, forms
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}
        self.stored: dict[int, str] = {}
        self.values: dict[str, Tensor] = {}

    def write(self) -> Any:
        """The model.

        Raises:
            UserError: an operation has no form.
        """
        from onnx import TensorProto, helper

        inputs = [torch.zeros(2, *shape) for shape in self.shapes]
        self.values = dict(zip(self.part.inputs, inputs, strict=True))
        with torch.no_grad():
            for step in self.part.steps:
                self.values[step.result] = run_step(step, self.values)
                self._step(step)
        outputs = []
        for name in self.part.outputs:
            if name in self.part.inputs:  # a tensor that is passed on: an output needs a name of its own
                self.node("Identity", [name], f"{name}_out")
            outputs.append(f"{name}_out" if name in self.part.inputs else name)

        def typed(shown: str, name: str) -> Any:
            shape = ["batch", *self.values[name].shape[1:]]
            return helper.make_tensor_value_info(shown, TensorProto.FLOAT, shape)

        graph = helper.make_graph(
            self.nodes,
            self.name,
            [typed(name, name) for name in self.part.inputs],
            [typed(shown, name) for shown, name in zip(outputs, self.part.outputs, strict=True)],
            list(self.constants.values()),
        )
        opset = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opset, producer_name="predictive-exit", ir_version=IR_VERSION)
        helper.set_model_props(model, {"part": self.name, "layout": "NCHW, batches of any size"})
        return model

    def node(self, kind: str, inputs: list[str], result: str, **attributes: Any) -> str:
        """Add a node; the name of its result."""
        from onnx import helper

        self.nodes.append(helper.make_node(kind, inputs, [result], name=f"{kind}_{len(self.nodes)}", **attributes))
        return result

    def constant(self, value: Any) -> str:
        """The name of a tensor or an array that is stored in the graph."""
        from onnx import numpy_helper

        if isinstance(value, Tensor):
            if id(value) not in self.stored:
                self.stored[id(value)] = name = f"weight_{len(self.stored)}"
                self.constants[name] = numpy_helper.from_array(value.contiguous().numpy(), name)
            return self.stored[id(value)]
        array = np.asarray(value)
        name = f"constant_{len(self.constants)}"
        self.constants[name] = numpy_helper.from_array(array, name)
        return name

    def input(self, value: Any) -> str:
        """The name of an argument: an earlier result, a weight or a number."""
        if isinstance(value, Reference):
            return str(value)
        return self.constant(value if isinstance(value, Tensor) else np.float32(value))

    def _step(self, step: Step) -> None:
        write = self.forms.get(step.operation)
        if write is None or step.options:
            raise UserError(
                f"--format onnx: {self.name} computes {step.operation}, which this program cannot say in ONNX: take "
                "--format torch"
            )
        write(self, step)


Form: TypeAlias = Callable[[OnnxWriter, Step], object]
"""What writes the nodes of a step."""


def rest(step: Step, *defaults: Any) -> list[Any]:
    """The arguments behind the first, with defaults where they were left out."""
    given = step.arguments[1:]
    return [*given, *defaults[len(given) :]]
