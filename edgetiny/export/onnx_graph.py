"""A graph under construction: nodes in order, and weights written out as soon as they are read."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor

# The oldest that has BitwiseAnd, which four bits need to expand.
_OPSET = 18
_IR_VERSION = 10
_FUSED = "com.microsoft"

# Where a weight starts in the file: the widest vector that a machine loads.
_ALIGNMENT = 64

# Beside the graph's own bytes, so that a graph can be read without its weights.
_SMALL = 256


class GraphBuilder:
    """An ONNX graph and the file of its weights, both in one folder.

    A weight is in memory only while it is written: a model of any size is lowered in the memory of
    its largest matrix. A context: the file is closed when it ends, even if the disk is full.
    """

    def __init__(self, folder: Path, file: str, data_file: str) -> None:
        self._folder = folder
        self._file = file
        self._data_file = data_file
        self._data = (folder / data_file).open("wb")
        self._graph = ir.Graph(
            [], [], nodes=[], opset_imports={"": _OPSET, _FUSED: 1}, name="edgetiny"
        )
        self._constants: dict[str, ir.Value] = {}
        self._places: Counter[str] = Counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self._data.close()

    def input(self, name: str, dtype: ir.DataType, shape: Sequence[str | int]) -> ir.Value:
        """Return a new input of the graph."""
        value = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))
        self._graph.inputs.append(value)
        return value

    def output(
        self, value: ir.Value, name: str, dtype: ir.DataType, shape: Sequence[str | int]
    ) -> None:
        """Make a value an output of the graph, under a name of its own."""
        value.name, value.type, value.shape = name, ir.TensorType(dtype), ir.Shape(shape)
        self._graph.outputs.append(value)

    def weight(self, name: str, tensor: Tensor | NDArray[Any]) -> ir.Value:
        """Write a tensor to the file of weights and return the initializer that stands for it."""
        array = tensor.numpy() if isinstance(tensor, Tensor) else tensor
        content = np.ascontiguousarray(array)
        if content.nbytes <= _SMALL:
            return self._add(ir.Tensor(content.copy(), name=name))
        self._data.write(bytes(-self._data.tell() % _ALIGNMENT))
        offset = self._data.tell()
        self._data.write(content.data)
        return self._add(
            ir.ExternalTensor(
                self._data_file,
                offset,
                content.nbytes,
                dtype=ir.DataType.from_numpy(content.dtype),
                shape=ir.Shape(content.shape),
                name=name,
                base_dir=self._folder,
            )
        )

    def integers(self, *numbers: int) -> ir.Value:
        """Return a constant vector of int64, the same one for the same numbers."""
        return self._constant("integers", np.array(numbers, np.int64))

    def number(self, number: float) -> ir.Value:
        """Return a constant scalar of fp32."""
        return self._constant("number", np.array(number, np.float32))

    def byte(self, number: int) -> ir.Value:
        """Return a constant scalar of uint8."""
        return self._constant("byte", np.array(number, np.uint8))

    def node(
        self,
        operation: str,
        inputs: Sequence[ir.Value | None],
        name: str,
        **attributes: Any,
    ) -> ir.Value:
        """Append a node of ONNX itself and return what comes out.

        name: where it stands in the model: profiles are read by it.
        """
        return self._append("", operation, inputs, name, 1, attributes)[0]

    def fused(
        self, operation: str, inputs: Sequence[ir.Value | None], name: str, **attributes: Any
    ) -> ir.Value:
        """Append one of onnxruntime's own operations and return what comes out."""
        return self._append(_FUSED, operation, inputs, name, 1, attributes)[0]

    def fused_outputs(
        self,
        operation: str,
        inputs: Sequence[ir.Value | None],
        name: str,
        n_outputs: int,
        **attributes: Any,
    ) -> Sequence[ir.Value]:
        """Append one of onnxruntime's own operations and return all that comes out."""
        return self._append(_FUSED, operation, inputs, name, n_outputs, attributes)

    def cut(self, value: ir.Value, length: int, axis: int, name: str) -> ir.Value:
        """Return the first `length` of a value along an axis."""
        bounds = (self.integers(0), self.integers(length), self.integers(axis))
        return self.node("Slice", [value, *bounds], name)

    def as_fp32(self, value: ir.Value, dtype: torch.dtype) -> ir.Value:
        """Return a weight as the arithmetic wants it; onnxruntime folds the Cast when it loads."""
        if dtype == torch.float32:
            return value
        return self.node("Cast", [value], str(value.name), to=int(ir.DataType.FLOAT))

    def save(self) -> dict[str, int]:
        """Write the graph; return how many nodes a step runs of each operation, most first.

        What depends on weights alone is not counted: onnxruntime computes it once, when it loads.
        """
        self._data.close()
        model = ir.Model(self._graph, ir_version=_IR_VERSION, producer_name="edgetiny")
        ir.save(model, self._folder / self._file)
        fed = set(self._graph.inputs)
        counts: Counter[str] = Counter()
        for node in self._graph:
            if not fed.isdisjoint(node.inputs):
                fed.update(node.outputs)
                counts[node.op_type] += 1
        return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))

    def _constant(self, kind: str, array: NDArray[Any]) -> ir.Value:
        name = "_".join((kind, *map(str, array.flat)))
        if name not in self._constants:
            self._constants[name] = self._add(ir.Tensor(array, name=name))
        return self._constants[name]

    def _append(
        self,
        domain: str,
        operation: str,
        inputs: Sequence[ir.Value | None],
        name: str,
        n_outputs: int,
        attributes: dict[str, Any],
    ) -> Sequence[ir.Value]:
        place = f"{name}.{operation}"
        self._places[place] += 1
        if self._places[place] > 1:
            place = f"{place}_{self._places[place]}"
        node = ir.node(
            operation, list(inputs), attributes, domain=domain, num_outputs=n_outputs, name=place
        )
        for index, value in enumerate(node.outputs):
            value.name = f"{place}.{index}"
        self._graph.append(node)
        return node.outputs

    def _add(self, tensor: ir.TensorProtocol) -> ir.Value:
        value = ir.Value(name=tensor.name, type=ir.TensorType(tensor.dtype), const_value=tensor)
        value.shape = ir.Shape(tensor.shape.numpy())
        self._graph.register_initializer(value)
        return value
