"""What goes in and out of an ONNX graph, for the two layouts that export writes.

Axes: B sequences, T new tokens, V vocabulary, G key/value heads, C cache capacity, R rows of
logits: row b * T + t belongs to token t of sequence b.
"""

import math
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from edgetiny.runtimes.protocol import Floats, Ids

Cache = Mapping[str, NDArray[Any]]
"""Keys and values by the name of the graph's input, each (B, G, C, head_dim)."""

_KV_DTYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int8)": np.int8,
}


class Graph(Protocol):
    """A session and the way to feed it."""

    def run(self, tokens: Ids, ends: Ids, cache: Cache, rows: Ids) -> Floats:
        """Append tokens (B, T) to a cache in place; return some rows of logits (R, V).

        ends: (B,) tokens that each sequence holds afterwards.
        """

    def stepper(self, cache: Cache) -> "Stepper | None":
        """Return what decodes one token a sequence over this very cache; None if nothing does."""

    def new_cache(self, batch: int, capacity: int) -> Cache:
        """Return memory for keys and values."""


class Stepper:
    """One token a sequence, over memory that was bound once: nothing is allocated in a step."""

    def __init__(
        self, session: onnxruntime.InferenceSession, cache: Cache, vocab_size: int
    ) -> None:
        batch = len(next(iter(cache.values())))
        self._session = session
        # A binding knows addresses only: what lies there has to live as long as it.
        self._cache = cache
        self._last = np.zeros(batch, np.int32)
        self._total = np.zeros(1, np.int32)
        self._rows = np.arange(batch)
        # The likeliest ids are written where the next step reads its tokens.
        self._ids = np.zeros((batch, 1), np.int64)
        self._logits = np.zeros((batch, vocab_size), np.float32)
        self._binding = session.io_binding()
        inputs: dict[str, NDArray[Any]] = {
            "input_ids": self._ids,
            "last_positions": self._last,
            "total_length": self._total,
            "logit_rows": self._rows,
        }
        for name, array in inputs.items():
            bind_input(self._binding, name, array)
        bind_cache(self._binding, cache)
        bind_output(self._binding, "logits", self._logits)
        bind_output(self._binding, "next_ids", self._ids[:, 0])

    def step(self, tokens: Ids, ends: Ids) -> tuple[Floats, Ids]:
        """Return logits (B, V) and likeliest ids (B, 1) after tokens (B, 1); overwritten later."""
        self._ids[:] = tokens
        self._last[:] = ends - 1
        self._total[0] = ends.max()
        self._session.run_with_iobinding(self._binding)
        return self._logits, self._ids


class OwnGraph:
    """The `edgetiny` layout: positions in, chosen rows of logits and the likeliest ids out."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        self._vocab_size: int = _vocab_size(session)

    def run(self, tokens: Ids, ends: Ids, cache: Cache, rows: Ids) -> Floats:
        binding = self._session.io_binding()
        total = max(int(ends.max()), tokens.shape[1])
        inputs: dict[str, NDArray[Any]] = {
            "input_ids": np.ascontiguousarray(tokens, np.int64),
            "last_positions": (ends - 1).astype(np.int32),
            "total_length": np.array([total], np.int32),
            "logit_rows": np.ascontiguousarray(rows, np.int64),
        }
        for name, array in inputs.items():
            bind_input(binding, name, array)
        bind_cache(binding, cache)
        logits = np.empty((len(rows), self._vocab_size), np.float32)
        bind_output(binding, "logits", logits)
        self._session.run_with_iobinding(binding)
        return logits

    def stepper(self, cache: Cache) -> Stepper | None:
        return Stepper(self._session, cache, self._vocab_size)

    def new_cache(self, batch: int, capacity: int) -> Cache:
        return new_cache(self._session, batch, capacity)


class PortableGraph:
    """The `portable` layout: a mask in, every row of logits out."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        self._vocab_size: int = _vocab_size(session)

    def run(self, tokens: Ids, ends: Ids, cache: Cache, rows: Ids) -> Floats:
        binding = self._session.io_binding()
        longest = max(int(ends.max()), tokens.shape[1])
        mask = np.arange(longest) < ends[:, None]  # (B, longest)
        inputs: dict[str, NDArray[Any]] = {
            "input_ids": np.ascontiguousarray(tokens, np.int64),
            "attention_mask": mask.astype(np.int64),
        }
        for name, array in inputs.items():
            bind_input(binding, name, array)
        bind_cache(binding, cache)
        logits = np.empty((*tokens.shape, self._vocab_size), np.float32)
        bind_output(binding, "logits", logits)
        self._session.run_with_iobinding(binding)
        flat = logits.reshape(-1, self._vocab_size)  # (B * T, V)
        return flat if len(rows) == len(flat) else flat[rows]

    def stepper(self, cache: Cache) -> Stepper | None:
        # The mask grows with every token, so there is nothing to bind once.
        return None

    def new_cache(self, batch: int, capacity: int) -> Cache:
        return new_cache(self._session, batch, capacity)


def graph_of(session: onnxruntime.InferenceSession) -> Graph:
    """Return what feeds a session, by the inputs that its graph has."""
    names = {each.name for each in session.get_inputs()}
    return OwnGraph(session) if "logit_rows" in names else PortableGraph(session)


def new_cache(session: onnxruntime.InferenceSession, batch: int, capacity: int) -> Cache:
    """Return zeros for every key and value that a graph keeps."""
    past = [each for each in session.get_inputs() if each.name.startswith("past_key_values.")]
    # Not the model's own head_dim: the graph may hold heads that were filled up with zeros.
    shapes = {each.name: (batch, each.shape[1], capacity, each.shape[3]) for each in past}
    if not shapes:
        return {}
    # One allocation: numpy asks for huge pages, and only its two ends do not fill one up.
    memory = np.zeros(sum(map(math.prod, shapes.values())), _KV_DTYPES[past[0].type])
    starts = np.cumsum([0, *map(math.prod, shapes.values())])
    return {
        name: memory[start : start + math.prod(shape)].reshape(shape)
        for start, (name, shape) in zip(starts[:-1], shapes.items(), strict=True)
    }


def bind_cache(binding: onnxruntime.IOBinding, cache: Cache) -> None:
    """Bind a cache as what goes in and what comes out.

    The same memory: the graph appends in place instead of copying the past.
    """
    for name, array in cache.items():
        bind_input(binding, name, array)
        bind_output(binding, name.replace("past_key_values.", "present."), array)


def bind_input(binding: onnxruntime.IOBinding, name: str, array: NDArray[Any]) -> None:
    """Bind an array, which the caller keeps alive."""
    binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)


def bind_output(binding: onnxruntime.IOBinding, name: str, array: NDArray[Any]) -> None:
    """Bind an array that a run writes into."""
    binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)


def _vocab_size(session: onnxruntime.InferenceSession) -> int:
    logits = next(each for each in session.get_outputs() if each.name == "logits")
    size: int = logits.shape[-1]
    return size
