"""Matrix products, and the embedding, as the operation that each way of storing a matrix has.

Axes: B sequences, T new tokens, K inputs, N outputs, V vocabulary.
"""

from collections.abc import Sequence
from typing import Protocol

import onnx_ir as ir
import torch
from torch import Tensor

from edgetiny.export.onnx_graph import GraphBuilder
from edgetiny.quantize import BlockWeight, ChannelWeight, Stored
from edgetiny.quantize.blocks import dequantize, middle
from edgetiny.quantize.channels import quantize_channels

# Activations are rounded to eight bits a block, for the integer dot products of the machine.
ACCURACY_LEVEL = 4


class Matrix(Protocol):
    """A matrix (N, K) in the graph."""

    def product(self, x: ir.Value, bias: ir.Value | None, name: str) -> ir.Value:
        """Return x (..., K) times the transpose, plus a bias (N,): (..., N)."""

    def rows(self, ids: ir.Value, name: str) -> ir.Value:
        """Return the rows of some ids (B, T): (B, T, K)."""


def put(graph: GraphBuilder, name: str, stored: Stored, *, as_channels: bool = False) -> Matrix:
    """Write a matrix and return what multiplies by it.

    as_channels: multiply blocks of four bits as a matrix of eight bits per output channel.
    """
    if isinstance(stored, BlockWeight):
        return (_ExpandedBlocks if as_channels else _Blocks)(graph, name, stored)
    if isinstance(stored, ChannelWeight):
        return _Channels(graph, name, stored)
    return _Plain(graph, name, stored)


def concatenate(parts: Sequence[Stored]) -> Stored:
    """Return matrices (N, K) of one kind, one below the other."""
    first = parts[0]
    if len(parts) == 1:
        return first
    if isinstance(first, BlockWeight):
        blocks = [part for part in parts if isinstance(part, BlockWeight)]
        assert all(part.zero_points is None for part in blocks), "no method writes zero points"
        return BlockWeight(
            torch.cat([part.data for part in blocks]),
            torch.cat([part.scales for part in blocks]),
            first.columns,
            first.bits,
        )
    if isinstance(first, ChannelWeight):
        channels = [part for part in parts if isinstance(part, ChannelWeight)]
        return ChannelWeight(
            torch.cat([part.data for part in channels]), torch.cat([p.scales for p in channels])
        )
    return torch.cat([part for part in parts if isinstance(part, Tensor)])


class _Plain:
    """fp32 or fp16 as MatMul; the head that is tied to an embedding reads it as it lies."""

    def __init__(self, graph: GraphBuilder, name: str, weight: Tensor) -> None:
        self._graph = graph
        self._weight = graph.as_fp32(graph.weight(name, weight), weight.dtype)  # (N, K)

    def product(self, x: ir.Value, bias: ir.Value | None, name: str) -> ir.Value:
        # MatMul would need a transposed copy of every matrix.
        y = self._graph.fused("FusedMatMul", [x, self._weight], name, transB=1)
        return y if bias is None else self._graph.node("Add", [y, bias], name)

    def rows(self, ids: ir.Value, name: str) -> ir.Value:
        return self._graph.node("Gather", [self._weight, ids], name, axis=0)


class _Blocks:
    """Four or eight bits in blocks as MatMulNBits and GatherBlockQuantized, over the same bytes."""

    def __init__(self, graph: GraphBuilder, name: str, weight: BlockWeight) -> None:
        assert weight.zero_points is None, "no method writes zero points"
        self.graph, self.weight = graph, weight
        self.n_rows, self.n_blocks, _ = weight.data.shape
        self.data = graph.weight(name, weight.data)
        scales = graph.weight(f"{name}_scales", weight.scales)
        self.scales = graph.as_fp32(scales, weight.scales.dtype)  # (N, n_blocks)
        self.bits, self.block_size, self.columns = weight.bits, weight.block_size, weight.columns

    def product(self, x: ir.Value, bias: ir.Value | None, name: str) -> ir.Value:
        return self.graph.fused(
            "MatMulNBits",
            [x, self.data, self.scales, *((None, None, bias) if bias is not None else ())],
            name,
            K=self.columns,
            N=self.n_rows,
            accuracy_level=ACCURACY_LEVEL,
            bits=self.bits,
            block_size=self.block_size,
        )

    def rows(self, ids: ir.Value, name: str) -> ir.Value:
        graph = self.graph
        scales = graph.node("Unsqueeze", [self.scales, graph.integers(2)], name)
        blocks = graph.fused(
            "GatherBlockQuantized",
            [self.data, ids, scales],
            name,
            bits=self.bits,
            block_size=self.block_size,
            gather_axis=0,
            quantize_axis=2,
        )  # (B, T, n_blocks, block_size)
        width = self.n_blocks * self.block_size
        rows = graph.node("Reshape", [blocks, graph.integers(0, 0, width)], name)
        return rows if width == self.columns else graph.cut(rows, self.columns, 2, name)


class _Channels:
    """Eight bits per output channel as DynamicQuantizeMatMul.

    It rounds all activations that it is given by one scale, so the rows of a batch have a small
    part in each other's rounding.
    """

    def __init__(self, graph: GraphBuilder, name: str, weight: ChannelWeight) -> None:
        self._graph = graph
        self._data = graph.weight(name, weight.data)  # (N, K)
        self._scales = graph.weight(f"{name}_scales", weight.scales)  # (N,)

    def product(self, x: ir.Value, bias: ir.Value | None, name: str) -> ir.Value:
        # Turned when the graph is loaded, so that an embedding and its head share the bytes.
        turned = self._graph.node("Transpose", [self._data], name, perm=[1, 0])
        return dynamic_product(self._graph, x, turned, self._scales, bias, name)

    def rows(self, ids: ir.Value, name: str) -> ir.Value:
        graph = self._graph
        bytes_ = graph.node("Gather", [self._data, ids], f"{name}.data", axis=0)
        integers = graph.node("Cast", [bytes_], name, to=int(ir.DataType.FLOAT))
        scales = graph.node("Unsqueeze", [self._scales, graph.integers(1)], name)  # (V, 1)
        chosen = graph.node("Gather", [scales, ids], f"{name}.scales", axis=0)  # (B, T, 1)
        return graph.node("Mul", [integers, chosen], name)


class _ExpandedBlocks(_Blocks):
    """Four bits on disk, multiplied as eight bits per output channel.

    The graph says how bytes come of the nibbles; onnxruntime does it once, when it loads.
    """

    def product(self, x: ir.Value, bias: ir.Value | None, name: str) -> ir.Value:
        # A channel's scale lets its largest weight reach the end of a byte.
        channels = quantize_channels(dequantize(self.weight)).scales  # (N,)
        channels = torch.where(channels > 0, channels, torch.ones_like(channels))
        scales = self.graph.weight(f"{name}.channel_scales", channels)
        # Nothing of this hangs on an input, so none of it is left to run.
        turned = self._turned_bytes(scales, f"{name}.expand")
        return dynamic_product(self.graph, x, turned, scales, bias, name)

    def _turned_bytes(self, channel_scales: ir.Value, name: str) -> ir.Value:
        """Return the matrix as int8 (K, N), to be multiplied by its channels' scales (N,)."""
        graph = self.graph
        per_row = graph.node("Unsqueeze", [channel_scales, graph.integers(1)], name)  # (N, 1)
        ratios = graph.node("Div", [self.scales, per_row], name)  # (N, n_blocks)
        ratios = graph.node("Unsqueeze", [ratios, graph.integers(2)], name)
        signed = graph.node("Sub", [self._integers(name), graph.number(middle(4))], name)
        rounded = graph.node("Round", [graph.node("Mul", [signed, ratios], name)], name)
        as_bytes = graph.node("Cast", [rounded], name, to=int(ir.DataType.INT8))
        width = self.n_blocks * self.block_size
        matrix = graph.node("Reshape", [as_bytes, graph.integers(self.n_rows, width)], name)
        if width != self.columns:
            matrix = graph.cut(matrix, self.columns, 1, name)
        return graph.node("Transpose", [matrix], name, perm=[1, 0])

    def _integers(self, name: str) -> ir.Value:
        """Return what the nibbles say, 0 to 15, as fp32 (N, n_blocks, block_size)."""
        graph = self.graph
        low = graph.node("BitwiseAnd", [self.data, graph.byte(15)], name)
        high = graph.node("BitShift", [self.data, graph.byte(4)], name, direction="RIGHT")
        pair = [graph.node("Unsqueeze", [each, graph.integers(3)], name) for each in (low, high)]
        nibbles = graph.node("Concat", pair, name, axis=3)  # (N, n_blocks, block_size / 2, 2)
        shape = graph.integers(self.n_rows, self.n_blocks, self.block_size)
        blocks = graph.node("Reshape", [nibbles, shape], name)
        return graph.node("Cast", [blocks], name, to=int(ir.DataType.FLOAT))


def dynamic_product(
    graph: GraphBuilder,
    x: ir.Value,
    weight: ir.Value,
    scales: ir.Value,
    bias: ir.Value | None,
    name: str,
) -> ir.Value:
    """Return x (..., K) times a matrix (K, N) of int8, with a scale per column."""
    return graph.fused(
        "DynamicQuantizeMatMul",
        [x, weight, scales, *((None, bias) if bias is not None else ())],
        name,
    )
