"""ONNX networks of a few kilobytes, for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

EDGE = 64
"""Input size of the salient-object network."""


def save_salient(path: Path, edge: int = EDGE) -> Path:
    """Save a network of the shape of U²-Net's exports, which finds what is redder than green.

    Its input is float32 (1, 3, edge, edge); its seven outputs, float32 (1, 1, edge, edge), are in 0..1, the first the
    one that counts. Red and green are compared after ImageNet's normalisation has been undone.
    """
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    weight = np.array([std[0], -std[1], 0], np.float32).reshape(1, 3, 1, 1) * 12
    bias = np.array([(mean[0] - mean[1]) * 12 - 3], np.float32)
    outputs = [f"d{i}" for i in range(7)]
    nodes = [
        helper.make_node("Conv", ["image", "weight", "bias"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["d0"]),
        *(helper.make_node("Mul", ["d0", "half"], [name]) for name in outputs[1:]),
    ]
    weights = {"weight": weight, "bias": bias, "half": np.array(0.5, np.float32)}
    return save(path, nodes, {"image": [1, 3, edge, edge]}, {name: [1, 1, edge, edge] for name in outputs}, weights)


def save(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: dict[str, list[int | str]],
    outputs: dict[str, list[int | str]],
    weights: dict[str, np.ndarray],
) -> Path:
    """Save a network of float32 inputs and outputs, given by their shapes."""

    def ports(shapes: dict[str, list[int | str]]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]

    held = [numpy_helper.from_array(values, name) for name, values in weights.items()]
    graph = helper.make_graph(nodes, "tiny", ports(inputs), ports(outputs), held)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def save_beside(path: Path, location: str) -> Path:
    """Save the salient-object network again with its weights declared to lie in another file."""
    network = onnx.load(path)
    for tensor in network.graph.initializer:
        if tensor.name == "weight":
            content = tensor.raw_data
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in {"location": location, "offset": "0", "length": str(len(content))}.items():
                tensor.external_data.add(key=key, value=value)
    path.write_bytes(network.SerializeToString())
    return path
