"""One decode step as a fixed program: fixed memory in and out, captured as a CUDA graph on a GPU.

A step of plain torch launches every kernel from Python, which for a small model takes longer than
the kernels themselves: the paper's cost of depth. A captured graph launches them all at once.
Axes: B sequences, V vocabulary.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from edgetiny.runtimes.fused import Continuation, FusedDecoder

# Runs on a side stream before a capture: libraries make their handles and workspaces then.
_RUNS_BEFORE_CAPTURE = 3

Run = Callable[[], Tensor]
"""Does one step on the state that it was made for, and returns its logits (B, V)."""


class StaticCache:
    """Keys and values of up to `rows` sequences, in memory that never moves."""

    def __init__(
        self, decoder: FusedDecoder, rows: int, capacity: int, rotation: tuple[Tensor, Tensor]
    ) -> None:
        config = decoder.config
        cos, sin = rotation
        # (rows, G, C, head_dim)
        shape = (rows, config.num_key_value_heads, capacity, config.head_dim)
        n_layers = config.num_hidden_layers
        self.keys = [
            torch.zeros(shape, dtype=cos.dtype, device=cos.device) for _ in range(n_layers)
        ]
        self.values = [torch.zeros_like(keys) for keys in self.keys]
        self.rows = rows
        self.rotation = cos, sin

    def first(self, batch: int) -> tuple[list[Tensor], list[Tensor]]:
        """Return the keys and values of the first `batch` rows, in place."""
        return [each[:batch] for each in self.keys], [each[:batch] for each in self.values]


class Decoding:
    """A batch of B sequences under way: the next ids and positions stay on the device.

    ids, positions: (B, 1) int64. A step reads both, writes the likeliest next ids and moves the
    positions on by one, so that greedy decoding needs nothing from the host.
    """

    def __init__(self, decoder: FusedDecoder, cache: StaticCache, batch: int) -> None:
        device = cache.rotation[0].device
        self.ids = torch.zeros(batch, 1, dtype=torch.int64, device=device)
        self.positions = torch.zeros_like(self.ids)
        self._decoder = decoder
        self._cache = cache
        self._steps: dict[int, Run] = {}

    def step(self, end: int) -> Tensor:
        """Do one step over the first `end` tokens of the cache; return its logits (B, V).

        They are overwritten by the next step.
        """
        if end not in self._steps:
            self._steps[end] = self._make(end)
        return self._steps[end]()

    def _make(self, end: int) -> Run:
        keys, values = self._cache.first(len(self.ids))
        decoder, ids, positions = self._decoder, self.ids, self.positions
        cos, sin = self._cache.rotation

        def run() -> Tensor:
            hidden = decoder(ids, keys, values, Continuation(positions, end, cos, sin))
            logits = decoder.head(hidden[:, -1])  # (B, V)
            ids.copy_(logits.argmax(dim=-1, keepdim=True))
            positions.add_(1)
            return logits

        return capture(run, [ids, positions]) if ids.is_cuda else run


def capture(run: Run, state: list[Tensor]) -> Run:
    """Record `run` as a CUDA graph and return its replay, whose result is always the same memory.

    state: tensors that `run` changes and that have to be as they were before the first replay.
    What it writes to the cache while it warms up is what the first replay writes there again.
    """
    saved = [tensor.clone() for tensor in state]
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_RUNS_BEFORE_CAPTURE):
            for tensor, before in zip(state, saved, strict=True):
                tensor.copy_(before)
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = run()
    # A capture records and does not run: only the warm-up has changed the state.
    for tensor, before in zip(state, saved, strict=True):
        tensor.copy_(before)

    def replay() -> Tensor:
        graph.replay()
        return out

    return replay
