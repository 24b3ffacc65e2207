"""An ONNX artefact in onnxruntime; the graph writes keys and values in place into one buffer.

Axes: B sequences, T (or K) tokens, V vocabulary, G key/value heads, C cache capacity.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as failures

from edgetiny.artefact import Artefact, ModelFile
from edgetiny.errors import ArtefactError, ConfigError
from edgetiny.measure import cores
from edgetiny.runtimes.protocol import (
    Capabilities,
    Engine,
    Floats,
    Ids,
    check_prompt,
    check_single,
    check_step,
    in_row_groups,
    log_probabilities,
)

_LOAD_FAILURES = (
    failures.Fail,
    failures.InvalidArgument,
    failures.InvalidGraph,
    failures.InvalidProtobuf,
    failures.NoSuchFile,
    failures.NotImplemented,
    failures.RuntimeException,
)
_KV_DTYPES: dict[str, type[np.floating[Any]]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
}


class OrtRuntime:
    """One graph for prompts, decoding and scoring; a row of the cache belongs to one sequence."""

    def __init__(
        self,
        artefact: Artefact,
        model: ModelFile,
        session: onnxruntime.InferenceSession,
        context: int,
        threads: int,
    ) -> None:
        self.path = artefact.path
        self.config = artefact.config
        self.capabilities = Capabilities(
            max_batch=None, max_context=context, max_step=context, scoring="graph"
        )
        self.engine = Engine(
            name="onnxruntime",
            version=onnxruntime.__version__,
            device="cpu",
            threads=threads,
            precision=model.precision,
            kv_dtype=model.kv_dtype,
        )
        self._session = session
        past = [each for each in session.get_inputs() if each.name.startswith("past_key_values.")]
        self._past = [each.name for each in past]
        self._kv_dtype = _KV_DTYPES[past[0].type]
        # Not the model's own head_dim: the graph may hold heads that were filled up with zeros.
        _, self._n_kv_heads, _, self._head_dim = past[0].shape
        self._buffers: dict[str, NDArray[np.floating[Any]]] = {}  # each (B, G, C, head_dim)
        self._lengths: Ids = np.zeros(0, np.int64)

    @classmethod
    def load(
        cls, path: Path, *, context: int | None = None, threads: int = 0, batch: int = 1
    ) -> "OrtRuntime":
        """Load an artefact folder.

        context: tokens that a sequence can grow to, if fewer than the artefact was exported for.
        batch: sequences to decode together: it picks the plan, where there are several.
        threads: CPU threads; 0 means one per core.
        Raises ArtefactError for a damaged folder, or a graph this onnxruntime does not know.
        """
        artefact = Artefact.open(path)
        model = artefact.model("onnx", batch)
        longest = model.context
        if context is not None and context > longest:
            raise ConfigError(
                f"{path} was exported for a context of {longest} tokens, not {context};"
                " export it again with a larger --context"
            )
        threads = threads or cores()
        session = _open_session(path / model.name, threads)
        return cls(artefact, model, session, context or longest, threads)

    def prepare(self, batch: int) -> None:
        self._make_room(batch)
        self._lengths = np.zeros(0, np.int64)

    def prefill(self, tokens: Ids, lengths: Ids) -> Floats:
        check_prompt(tokens, lengths, self.config, self.capabilities.max_context)
        self._make_room(len(tokens))
        self._lengths = lengths.astype(np.int64)
        masks = np.arange(tokens.shape[1]) < lengths[:, None]  # (B, T)

        def last_logits(group: slice) -> Floats:
            logits = self._run(tokens[group], masks[group], group)  # (rows, T, V)
            last: Floats = logits[np.arange(len(logits)), lengths[group] - 1]  # (rows, V)
            return last

        return in_row_groups(tokens, self.config.vocab_size, last_logits)

    def step(self, tokens: Ids) -> Floats:
        """Append tokens; several new ones per sequence run one sequence at a time.

        GroupQueryAttention on the CPU takes several new tokens after a past for one row only.
        """
        check_step(tokens, self._lengths, self.config, self.capabilities.max_context)
        n_new = tokens.shape[1]
        ends = self._lengths + n_new
        if n_new == 1:
            mask = np.arange(ends.max()) < ends[:, None]  # (B, longest)
            logits = self._run(tokens, mask, slice(None))
        else:
            rows = [slice(row, row + 1) for row in range(len(tokens))]
            masks = [np.ones((1, end), bool) for end in ends]
            logits = np.concatenate(
                [self._run(tokens[row], mask, row) for row, mask in zip(rows, masks, strict=True)]
            )
        self._lengths = ends
        return logits

    def greedy_step(self, tokens: Ids) -> Ids:
        check_single(tokens)
        likeliest: Ids = self.step(tokens)[:, 0].argmax(axis=-1)[:, None]  # (B, 1)
        return likeliest

    def score(self, tokens: Ids, lengths: Ids) -> Floats:
        check_prompt(tokens, lengths, self.config, self.capabilities.max_context)

        def scores(group: slice) -> Floats:
            logits = self._run_without_cache(tokens[group])
            return log_probabilities(logits, tokens[group], lengths[group])

        return in_row_groups(tokens, self.config.vocab_size, scores)

    def rewind(self, length: int) -> None:
        self._lengths = np.minimum(self._lengths, length)

    def reset(self) -> None:
        self._buffers = {}
        self._lengths = np.zeros(0, np.int64)

    def _make_room(self, batch: int) -> None:
        """Have a buffer of `batch` rows; what an earlier batch of that size left is overwritten."""
        if self._buffers and len(next(iter(self._buffers.values()))) == batch:
            return
        # (B, G, C, head_dim)
        shape = (batch, self._n_kv_heads, self.capabilities.max_context, self._head_dim)
        self._buffers = {}
        self._buffers = {name: np.zeros(shape, self._kv_dtype) for name in self._past}

    def _run(self, tokens: Ids, mask: NDArray[np.bool_], rows: slice) -> Floats:
        """Append `tokens` (b, T) to some rows of the cache; return their logits (b, T, V)."""
        binding = self._session.io_binding()
        logits = np.empty((*tokens.shape, self.config.vocab_size), np.float32)
        inputs = {
            "input_ids": np.ascontiguousarray(tokens, np.int64),
            "attention_mask": mask.astype(np.int64),
        }
        for name, array in inputs.items():
            binding.bind_input(name, "cpu", 0, np.int64, array.shape, array.ctypes.data)
        for name, whole in self._buffers.items():
            # The same memory in and out: the graph appends in place instead of copying the past.
            buffer = whole[rows]
            place = ("cpu", 0, self._kv_dtype, buffer.shape, buffer.ctypes.data)
            binding.bind_input(name, *place)
            binding.bind_output(name.replace("past_key_values.", "present."), *place)
        binding.bind_output("logits", "cpu", 0, np.float32, logits.shape, logits.ctypes.data)
        self._session.run_with_iobinding(binding)
        return logits

    def _run_without_cache(self, tokens: Ids) -> Floats:
        empty = np.zeros((len(tokens), self._n_kv_heads, 0, self._head_dim), self._kv_dtype)
        feeds = {
            "input_ids": np.ascontiguousarray(tokens, np.int64),
            # Padding stands on the right, where no real token looks.
            "attention_mask": np.ones(tokens.shape, np.int64),
        } | dict.fromkeys(self._past, empty)
        logits: Floats = self._session.run(["logits"], feeds)[0]
        return logits


def _open_session(model: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # A plan per input shape would be kept for every length that decoding passes through.
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    except _LOAD_FAILURES as error:
        raise ArtefactError(
            f"onnxruntime {onnxruntime.__version__} cannot load {model}: {error}"
        ) from error
