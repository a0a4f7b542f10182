"""int8 weights for the ONNX graph that serves, so that no sentence moves another's answer.

Linear layers become `MatMulNBits`: int8 weights with a scale for each block of 32, activations quantised row by row while the
product runs. Unlike dynamic quantisation, which takes one activation scale for a whole call, a row's result depends on that row
alone. Embedding tables become int8 with a scale a row.
"""

import logging
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

BLOCK = 32
MIN_TABLE_ROWS = 256


def quantise(source: Path, target: Path) -> None:
    """Write the float32 graph `source` with int8 weights to `target`."""
    logging.getLogger("onnxruntime.quantization.matmul_nbits_quantizer").setLevel(logging.WARNING)
    config = DefaultWeightOnlyQuantConfig(block_size=BLOCK, is_symmetric=True, accuracy_level=4, bits=8)
    quantizer = MatMulNBitsQuantizer(onnx.load(source), algo_config=config)
    quantizer.process()
    model = quantizer.model.model
    _quantise_tables(model.graph)
    for node in model.graph.node:
        del node.metadata_props[:]  # the exporter leaves a stack trace on every node
    del model.graph.value_info[:]
    onnx.save(model, target)


def int8_rows(table: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """`table` in int8, and the scale of each row, shape (rows, 1)."""
    scales = np.maximum(np.abs(table).max(axis=1, keepdims=True), 1e-12).astype(np.float32) / 127
    return np.clip(np.rint(table / scales), -127, 127).astype(np.int8), scales


def _quantise_tables(graph: onnx.GraphProto) -> None:
    """Replace each large table that a Gather reads by int8 rows and a scale for each."""
    tables = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
    nodes: list[onnx.NodeProto] = []
    replaced: set[str] = set()
    for node in graph.node:
        table = tables.get(node.input[0]) if node.op_type == "Gather" else None
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
        if table is None or len(table.dims) != 2 or table.dims[0] < MIN_TABLE_ROWS or axis != 0:
            nodes.append(node)
            continue
        if table.name not in replaced:
            replaced.add(table.name)
            rows, scales = int8_rows(numpy_helper.to_array(table))
            graph.initializer.append(numpy_helper.from_array(rows, f"{table.name}_int8"))
            graph.initializer.append(numpy_helper.from_array(scales, f"{table.name}_scale"))
        ids, out = node.input[1], node.output[0]
        nodes += [
            helper.make_node("Gather", [f"{table.name}_int8", ids], [f"{out}_int8"], name=f"{node.name}_int8"),
            helper.make_node("Gather", [f"{table.name}_scale", ids], [f"{out}_scale"], name=f"{node.name}_scale"),
            helper.make_node("Cast", [f"{out}_int8"], [f"{out}_float"], to=TensorProto.FLOAT, name=f"{node.name}_cast"),
            helper.make_node("Mul", [f"{out}_float", f"{out}_scale"], [out], name=f"{node.name}_mul"),
        ]
    still_used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name not in replaced or tensor.name in still_used]
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.initializer[:]
    graph.initializer.extend(kept)
