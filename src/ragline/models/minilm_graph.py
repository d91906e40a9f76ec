"""The ONNX graph of a BERT encoder, written from its safetensors file.

It is the plain graph, in standard operators. ONNX Runtime fuses bias and GELU by itself; its own
fused attention and layer normalisation operators were measured and are slower here (decision 003).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from ragline.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Array = npt.NDArray[Any]
Tensors = dict[str, npt.NDArray[np.float32]]

_OPSET = 17
_IR_VERSION = 9
_MASKED = -10_000.0


def write_graph(weights: Path, config: Path, to: Path) -> None:
    """Write the encoder with `weights` and `config` as an ONNX model: tokens to token states."""
    shape = json.loads(config.read_bytes())
    expected = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute"}
    for key, value in expected.items():
        if shape.get(key) != value:
            raise ModelError(f"{config} says {key} {shape.get(key)!r}; only {value!r} can be built")
    onnx.save(encoder(read_safetensors(weights), shape), str(to))


def read_safetensors(path: Path) -> Tensors:
    """Return the float tensors of a file: a length, a JSON header, then the raw numbers."""
    data = memoryview(path.read_bytes())
    try:
        length = int.from_bytes(data[:8], "little")
        header = dict(json.loads(bytes(data[8 : 8 + length])))
        body = data[8 + length :]
        return {
            name: np.frombuffer(body[slice(*entry["data_offsets"])], "<f4").reshape(entry["shape"])
            for name, entry in header.items()
            if name != "__metadata__" and entry["dtype"] == "F32"
        }
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} is not a safetensors file: {error}") from error


def encoder(tensors: Tensors, shape: Mapping[str, Any]) -> onnx.ModelProto:
    """Return the encoder as an ONNX model; `shape` is the content of `config.json`."""
    graph = _Graph(tensors, epsilon=shape["layer_norm_eps"])
    heads, width = shape["num_attention_heads"], shape["hidden_size"]
    _constants(graph, heads, width)
    states = _embeddings(graph)
    mask = _mask(graph)
    for number in range(shape["num_hidden_layers"]):
        layer = f"encoder.layer.{number}"
        attended = _attention(graph, states, mask, layer)
        states = graph.normalised(graph.op("Add", attended, states), f"{layer}.attention.output")
        grown = _gelu(graph, graph.dense(states, f"{layer}.intermediate.dense"))
        shrunk = graph.dense(grown, f"{layer}.output.dense")
        states = graph.normalised(graph.op("Add", shrunk, states), f"{layer}.output")
    return graph.model(states, width)


@dataclass
class _Graph:
    """Nodes and constants, in the order they are made, so that the file is the same each time."""

    tensors: Tensors
    epsilon: float
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node; return the name of its output."""
        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def constant(self, name: str, value: Array) -> str:
        self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def weight(self, name: str, *, transposed: bool = False) -> str:
        if name not in self.tensors:
            raise ModelError(f"the weights have no tensor {name!r}; this is not a BERT encoder")
        value = self.tensors[name]
        return self.constant(name, value.T if transposed else value)

    def dense(self, states: str, layer: str) -> str:
        product = self.op("MatMul", states, self.weight(f"{layer}.weight", transposed=True))
        return self.op("Add", product, self.weight(f"{layer}.bias"))

    def normalised(self, states: str, layer: str) -> str:
        parts = (self.weight(f"{layer}.LayerNorm.{part}") for part in ("weight", "bias"))
        return self.op("LayerNormalization", states, *parts, axis=-1, epsilon=self.epsilon)

    def model(self, states: str, width: int) -> onnx.ModelProto:
        self.nodes.append(helper.make_node("Identity", [states], ["last_hidden_state"]))
        axes = ["batch", "sequence"]
        inputs = [
            helper.make_tensor_value_info(name, onnx.TensorProto.INT64, axes)
            for name in ("input_ids", "attention_mask", "token_type_ids")
        ]
        output = helper.make_tensor_value_info(
            "last_hidden_state", onnx.TensorProto.FLOAT, [*axes, width]
        )
        graph = helper.make_graph(
            self.nodes, "encoder", inputs, [output], list(self.constants.values())
        )
        # Both versions are fixed: the file, and with it the hash that every embedding space
        # stores, must not depend on which release of onnx wrote it.
        opset = [helper.make_opsetid("", _OPSET)]
        return helper.make_model(graph, opset_imports=opset, ir_version=_IR_VERSION)


def _constants(graph: _Graph, heads: int, width: int) -> None:
    for name, integers in {
        "first": [0],
        "middle_axes": [1, 2],
        "by_head": [0, 0, heads, width // heads],
        "joined": [0, 0, width],
    }.items():
        graph.constant(name, np.array(integers, dtype=np.int64))
    for name, number in {
        "half": 0.5,
        "one": 1.0,
        "masked": _MASKED,
        "root_of_two": math.sqrt(2),
        "root_of_head": math.sqrt(width // heads),
    }.items():
        graph.constant(name, np.array(number, dtype=np.float32))


def _embeddings(graph: _Graph) -> str:
    words = graph.op("Gather", graph.weight("embeddings.word_embeddings.weight"), "input_ids")
    types = graph.op(
        "Gather", graph.weight("embeddings.token_type_embeddings.weight"), "token_type_ids"
    )
    length = graph.op("Shape", "input_ids", start=1, end=2)
    table = graph.weight("embeddings.position_embeddings.weight")
    positions = graph.op("Slice", table, "first", length, "first")
    summed = graph.op("Add", graph.op("Add", words, types), positions)
    return graph.normalised(summed, "embeddings")


def _mask(graph: _Graph) -> str:
    """0 where there is a token, a large negative number where there is padding."""
    present = graph.op("Unsqueeze", "attention_mask", "middle_axes")
    present = graph.op("Cast", present, to=onnx.TensorProto.FLOAT)
    return graph.op("Mul", graph.op("Sub", "one", present), "masked")


def _attention(graph: _Graph, states: str, mask: str, layer: str) -> str:
    def heads(part: str, order: list[int]) -> str:
        projected = graph.dense(states, f"{layer}.attention.self.{part}")
        return graph.op("Transpose", graph.op("Reshape", projected, "by_head"), perm=order)

    query, key = heads("query", [0, 2, 1, 3]), heads("key", [0, 2, 3, 1])
    scores = graph.op("Div", graph.op("MatMul", query, key), "root_of_head")
    shares = graph.op("Softmax", graph.op("Add", scores, mask), axis=-1)
    context = graph.op("MatMul", shares, heads("value", [0, 2, 1, 3]))
    joined = graph.op("Reshape", graph.op("Transpose", context, perm=[0, 2, 1, 3]), "joined")
    return graph.dense(joined, f"{layer}.attention.output.dense")


def _gelu(graph: _Graph, states: str) -> str:
    curve = graph.op("Erf", graph.op("Div", states, "root_of_two"))
    return graph.op("Mul", graph.op("Mul", states, graph.op("Add", curve, "one")), "half")
