"""An ONNX graph whose dense layers multiply in 8 bits: smaller, faster, a little less exact.

Weights become whole numbers with one scale per output. Activations are quantised when the graph runs,
with one scale per token: with one for the whole input, as ONNX Runtime's own tool has it, the vector
of a text depends on the texts beside it in a batch, and turns twice as far. Embedding tables and layer
normalisation stay as they are. Decision 003 has the figures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from ragline.errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path

# Processors without VNNI add two products in 16 bits: 2 x 255 x 63 fits, with 127 sums are cut off
# and the vectors of such a machine are others.
_LARGEST_WEIGHT = 63
_LARGEST_STATE = 127
# Activations are written as 1 to 255, around:
_NOTHING = 128
_ONE, _SCALE, _LEAST, _ZERO = "int8.one", "int8.scale", "int8.least", "int8.zero"


def write_int8(source: Path, to: Path) -> None:
    """Write the 8-bit form of the graph in `source`; the same file each time."""
    onnx.save(int8(onnx.load(str(source))), str(to))


def int8(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with every product by a constant matrix in 8 bits."""
    graph = model.graph
    constants = {one.name: one for one in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    made = _numbers()
    quantised: set[str] = set()
    for node in graph.node:
        if node.op_type != "MatMul" or node.input[1] not in constants:
            nodes.append(node)
            continue
        states, weight = node.input
        if states not in quantised:
            quantised.add(states)
            nodes += _quantised_states(states)
        made |= _quantised_weight(constants.pop(weight))
        nodes += _product(states, weight, node.output[0])
    if not quantised:
        raise ModelError("the graph has no dense layer to write in 8 bits")
    written = helper.make_graph(
        nodes, graph.name, graph.input, graph.output, [*constants.values(), *made.values()]
    )
    return helper.make_model(written, opset_imports=model.opset_import, ir_version=model.ir_version)


def _numbers() -> dict[str, onnx.TensorProto]:
    return _tensors(
        {
            _ONE: np.array(1, dtype=np.float32),
            _SCALE: np.array(1 / _LARGEST_STATE, dtype=np.float32),
            _LEAST: np.array(1e-9, dtype=np.float32),
            _ZERO: np.array(_NOTHING, dtype=np.uint8),
        }
    )


def _quantised_states(states: str) -> list[onnx.NodeProto]:
    """Return the nodes that divide each token's states by their scale and round them."""
    steps: list[tuple[str, list[str], str, dict[str, Any]]] = [
        ("Abs", [states], "size", {}),
        ("ReduceMax", [f"{states}.size"], "largest", {"axes": [-1], "keepdims": 1}),
        ("Mul", [f"{states}.largest", _SCALE], "exact", {}),
        ("Max", [f"{states}.exact", _LEAST], "scale", {}),
        ("Div", [states, f"{states}.scale"], "scaled", {}),
        ("QuantizeLinear", [f"{states}.scaled", _ONE, _ZERO], "int8", {}),
    ]
    return [
        helper.make_node(kind, inputs, [f"{states}.{name}"], name=f"{states}.{name}", **attributes)
        for kind, inputs, name, attributes in steps
    ]


def _quantised_weight(weight: onnx.TensorProto) -> dict[str, onnx.TensorProto]:
    """Return the weight of shape (inputs, outputs) in 8 bits, and its scales, one per output."""
    values = numpy_helper.to_array(weight)
    largest = np.abs(values).max(axis=0)
    scales = (np.where(largest > 0, largest, 1) / _LARGEST_WEIGHT).astype(np.float32)
    rounded = np.rint(values / scales).clip(-_LARGEST_WEIGHT, _LARGEST_WEIGHT).astype(np.int8)
    return _tensors({f"{weight.name}.int8": rounded, f"{weight.name}.scale": scales})


def _tensors(arrays: dict[str, npt.NDArray[Any]]) -> dict[str, onnx.TensorProto]:
    return {name: numpy_helper.from_array(array, name) for name, array in arrays.items()}


def _product(states: str, weight: str, output: str) -> list[onnx.NodeProto]:
    """Return the nodes that multiply whole numbers and put both scales back."""
    whole, real, by_output = (f"{output}.{part}" for part in ("whole", "real", "by_output"))
    steps: list[tuple[str, list[str], str, dict[str, Any]]] = [
        ("MatMulInteger", [f"{states}.int8", f"{weight}.int8", _ZERO], whole, {}),
        ("Cast", [whole], real, {"to": onnx.TensorProto.FLOAT}),
        ("Mul", [real, f"{weight}.scale"], by_output, {}),
        ("Mul", [by_output, f"{states}.scale"], output, {}),
    ]
    return [
        helper.make_node(kind, inputs, [name], name=name, **attributes)
        for kind, inputs, name, attributes in steps
    ]
