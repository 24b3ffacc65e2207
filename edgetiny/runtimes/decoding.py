"""One decode step as a fixed program: fixed memory in and out, captured as a CUDA graph on a GPU.

A step of plain torch launches every kernel from Python, which for a small model takes longer than
the kernels themselves: the paper's cost of depth. A captured graph launches them all at once.
Axes: B sequences, D hidden size, V vocabulary.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edgetiny.runtimes.fused import Block, Continuation, FusedDecoder, Place

# Runs on a side stream before a capture: libraries make their handles and workspaces then.
_RUNS_BEFORE_CAPTURE = 3
# Every batch size and bucket is a variant of the compiled layer; torch's own limit is 8.
_COMPILED_VARIANTS = 64

Run = Callable[[], Tensor]
"""Does one step on the state that it was made for, and returns its logits (B, V)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pieces:
    """The three functions that a step is made of, compiled or not.

    embed: ids (B, 1) to (x, delta). finish: the last layer's (x, delta) to logits (B, V).
    """

    embed: Callable[[Tensor], tuple[Tensor, Tensor]]
    block: Callable[[Block, Tensor, Tensor, Tensor, Tensor, Place], tuple[Tensor, Tensor]]
    finish: Callable[[Tensor, Tensor], Tensor]


def pieces_of(decoder: FusedDecoder, is_compiled: bool, is_cuda: bool) -> Pieces:
    """Return the pieces of a decoder's step.

    One layer is compiled and serves all of them, whose weights are its arguments: compiling 40
    layers of 160 whole took 259 s, one layer 17 s.
    """

    def block(
        layer: Block, x: Tensor, delta: Tensor, keys: Tensor, values: Tensor, place: Place
    ) -> tuple[Tensor, Tensor]:
        return layer.forward(x, delta, keys, values, place)

    def finish(x: Tensor, delta: Tensor) -> Tensor:
        return decoder.head(decoder.last_norm(x, delta)[:, -1])

    if not is_compiled:
        return Pieces(embed=decoder.embed, block=block, finish=finish)
    limit: Any = torch._dynamo.config
    limit.recompile_limit = max(limit.recompile_limit, _COMPILED_VARIANTS)
    mode = "max-autotune-no-cudagraphs" if is_cuda else None
    compiled: Any = functools.partial(torch.compile, dynamic=False, fullgraph=True, mode=mode)
    return Pieces(embed=compiled(decoder.embed), block=compiled(block), finish=compiled(finish))


class StaticCache:
    """Keys and values of up to `rows` sequences, in memory that never moves."""

    def __init__(
        self, decoder: FusedDecoder, rows: int, capacity: int, rotation: tuple[Tensor, Tensor]
    ) -> None:
        config = decoder.config
        cos, _ = rotation
        # (rows, G, C, head_dim)
        shape = (rows, config.num_key_value_heads, capacity, config.head_dim)
        empty = torch.zeros(shape, dtype=cos.dtype, device=cos.device)
        self.keys = [empty.clone() for _ in range(config.num_hidden_layers)]
        self.values = [torch.zeros_like(keys) for keys in self.keys]
        self.rows = rows
        self.capacity = capacity
        self.rotation = rotation

    def first(self, batch: int) -> tuple[list[Tensor], list[Tensor]]:
        """Return the keys and values of the first `batch` rows, in place."""
        return [each[:batch] for each in self.keys], [each[:batch] for each in self.values]


class Decoding:
    """A batch of B sequences under way: the next ids and positions stay on the device.

    ids, positions: (B, 1) int64. A step reads both, writes the likeliest next ids and moves the
    positions on by one, so that greedy decoding needs nothing from the host.
    """

    def __init__(
        self,
        decoder: FusedDecoder,
        pieces: Pieces,
        cache: StaticCache,
        batch: int,
        has_kernel: bool,
    ) -> None:
        """has_kernel: attend in the Triton kernel, which needs no bucket of the cache."""
        device = cache.rotation[0].device
        self.ids = torch.zeros(batch, 1, dtype=torch.int64, device=device)
        self.positions = torch.zeros_like(self.ids)
        self._blocks = decoder.layers()
        self._pieces = pieces
        self._cache = cache
        self._has_kernel = has_kernel
        self._steps: dict[int, Run] = {}

    def step(self, end: int) -> Tensor:
        """Do one step over the first `end` tokens of the cache; return its logits (B, V).

        They are overwritten by the next step.
        """
        end = self._cache.capacity if self._has_kernel else end
        if end not in self._steps:
            self._steps[end] = self._make(end)
        return self._steps[end]()

    def _make(self, end: int) -> Run:
        keys, values = self._cache.first(len(self.ids))
        layers = list(zip(self._blocks, keys, values, strict=True))
        pieces, ids, positions = self._pieces, self.ids, self.positions
        place = self._placing(end)

        def run() -> Tensor:
            x, delta = pieces.embed(ids)
            here = place()
            for block, layer_keys, layer_values in layers:
                x, delta = pieces.block(block, x, delta, layer_keys, layer_values, here)
            logits = pieces.finish(x, delta)
            ids.copy_(logits.argmax(dim=-1, keepdim=True))
            positions.add_(1)
            return logits

        return capture(run, [ids, positions]) if ids.is_cuda else run

    def _placing(self, end: int) -> Callable[[], Place]:
        """Return what makes the place of the new tokens out of the positions, on the device."""
        cos, sin = self._cache.rotation
        positions = self.positions
        if not self._has_kernel:
            return lambda: Continuation(positions, end, cos, sin)
        from edgetiny.runtimes.decode_attention import SingleToken

        return lambda: SingleToken(positions, cos, sin)


def capture(run: Run, state: list[Tensor]) -> Run:
    """Record `run` as a CUDA graph and return its replay, whose result is always the same memory.

    state: tensors that `run` changes and that have to be as they were before the first replay.
    What it writes to the cache while it warms up is what the first replay writes there again.
    """
    saved = [tensor.clone() for tensor in state]

    def restore() -> None:
        for tensor, before in zip(state, saved, strict=True):
            tensor.copy_(before)

    # Compiles and tunes, where the step is compiled: before anything else is under way.
    run()
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_RUNS_BEFORE_CAPTURE):
            restore()
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = run()
    # A capture records and does not run: only the warm-up has changed the state.
    restore()

    def replay() -> Tensor:
        graph.replay()
        return out

    return replay
