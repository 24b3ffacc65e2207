"""Weights of four bits that multiply as bytes, expanded one by one before a graph is loaded.

Such a graph says how its bytes come of nibbles, and onnxruntime would compute that as it loads. But
it keeps the result of every step of every matrix till the end: some 24 bytes a weight, and seconds.

Axes: N outputs, K inputs, S weights of a block.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import external_data_helper, numpy_helper

_FILE = "expanded.data"
_ZERO = 8
_PART_WEIGHTS = 2**18
_ALIGNMENT = 64


def expand(model: Path, folder: Path) -> bytes:
    """Return a graph that reads its expanded matrices from a file which this writes to a folder.

    The bytes are those that onnxruntime would compute. All else is in the graph that is returned:
    small things, and a table in four bits.
    """
    proto = onnx.load(str(model), load_external_data=False)
    matrices = list(_matrices(proto.graph))
    with (folder / _FILE).open("wb") as file:
        for product, data, columns in matrices:
            named = {each.name: each for each in proto.graph.initializer}
            found = (named[data], named[f"{data}_scales"], named[product.input[2]])
            packed, scales, channels = (_array(each, model.parent) for each in found)
            matrix = _turned_bytes(packed, scales.astype(np.float32), channels, columns)
            file.write(bytes(-file.tell() % _ALIGNMENT))
            product.input[1] = f"{data}.expanded"
            proto.graph.initializer.append(_external(product.input[1], matrix, file.tell()))
            file.write(matrix.data)
    _drop_unused(proto.graph)
    for each in proto.graph.initializer:
        if external_data_helper.uses_external_data(each) and not _is_expanded(each):
            external_data_helper.load_external_data_for_tensor(each, str(model.parent))
            each.data_location = onnx.TensorProto.DEFAULT
            del each.external_data[:]
    content: bytes = proto.SerializeToString()
    return content


def _matrices(graph: onnx.GraphProto) -> Iterator[tuple[onnx.NodeProto, str, int]]:
    """Yield each product whose bytes come of nibbles, the name of these, and its inputs K."""
    makers = {name: node for node in graph.node for name in node.output}
    initializers = {each.name: each for each in graph.initializer}
    for product in graph.node:
        if product.op_type != "DynamicQuantizeMatMul":
            continue
        above = list(_above(product.input[1], makers))
        cuts = [node for node in above if node.op_type == "Slice"]
        names = {name for node in above for name in node.input}
        for name in sorted(names & initializers.keys()):
            nibbles = initializers[name]
            if nibbles.data_type == onnx.TensorProto.UINT8 and len(nibbles.dims) == 3:
                columns = nibbles.dims[1] * nibbles.dims[2] * 2
                if cuts:
                    columns = int(numpy_helper.to_array(initializers[cuts[0].input[2]])[0])
                yield product, name, columns


def _above(name: str, makers: dict[str, onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    if name in makers:
        yield makers[name]
        for each in makers[name].input:
            yield from _above(each, makers)


def _turned_bytes(
    packed: NDArray[np.uint8],
    scales: NDArray[np.float32],
    channels: NDArray[np.float32],
    columns: int,
) -> NDArray[np.int8]:
    """Return nibbles (N, n_blocks, S / 2) as bytes (K, N), in multiples of each output's scale."""
    n_rows, n_blocks, half = packed.shape
    ratios = (scales / channels[:, None])[..., None, None]  # (N, n_blocks, 1, 1)
    turned = np.empty((columns, n_rows), np.int8)
    step = max(1, _PART_WEIGHTS // (n_blocks * half * 2))
    for start in range(0, n_rows, step):
        rows = slice(start, start + step)
        blocks = np.empty((*packed[rows].shape, 2), np.float32)
        blocks[..., 0] = packed[rows] & 15
        blocks[..., 1] = packed[rows] >> 4
        blocks -= _ZERO
        blocks *= ratios[rows]
        np.rint(blocks, out=blocks)
        turned[:, rows] = blocks.astype(np.int8).reshape(len(blocks), -1)[:, :columns].T
    return turned


def _array(tensor: onnx.TensorProto, folder: Path) -> NDArray[Any]:
    """Return a weight; the file is mapped, not read."""
    if not external_data_helper.uses_external_data(tensor):
        return numpy_helper.to_array(tensor)
    place = external_data_helper.ExternalDataInfo(tensor)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    return np.memmap(
        folder / place.location, dtype, "r", offset=place.offset or 0, shape=tuple(tensor.dims)
    )


def _external(name: str, matrix: NDArray[np.int8], offset: int) -> onnx.TensorProto:
    tensor = onnx.TensorProto(name=name, data_type=onnx.TensorProto.INT8, dims=matrix.shape)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", _FILE), ("offset", offset), ("length", matrix.nbytes)):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, str(value)
    return tensor


def _is_expanded(tensor: onnx.TensorProto) -> bool:
    return any(entry.value == _FILE for entry in tensor.external_data)


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Leave out the nodes and weights that no output hangs on."""
    wanted = {each.name for each in graph.output}
    nodes = []
    for node in reversed(graph.node):
        if not wanted.isdisjoint(node.output):
            wanted.update(node.input)
            nodes.append(node)
    weights = [each for each in graph.initializer if each.name in wanted]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(reversed(nodes))
    graph.initializer.extend(weights)
