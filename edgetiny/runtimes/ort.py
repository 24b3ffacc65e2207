"""An ONNX artefact in onnxruntime; the graph writes keys and values in place into one buffer.

Axes: B sequences, T (or K) tokens, V vocabulary, C cache capacity.
"""

import os
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as failures

from edgetiny.artefact import EXACT_SUMS, Artefact, ModelFile
from edgetiny.errors import ArtefactError, ConfigError
from edgetiny.measure import cores
from edgetiny.runtimes.huge_pages import collapse
from edgetiny.runtimes.ort_graph import Cache, Stepper, graph_of
from edgetiny.runtimes.ort_sums import sums_overflow
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
# onnxruntime reads these once, from the environment alone. Over a cache of bytes, 20 sequences were
# decoded 1.37 times as fast with its plain attention as with its tiled one, and 1.43 times with
# products of integers besides, which round the query to eight bits: docs/results/onnx_kernels.md.
# Verification runs with them. What is set already is left alone.
_ATTENTION = {"ORT_GQA_DISABLE_FLASH_ATTENTION": "1", "ORT_MLAS_QKGEMM_S8_APPROX_VNNI": "1"}
_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"


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
        self._graph = graph_of(session)
        self._cache: Cache = {}
        self._stepper: Stepper | None = None
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
        session = open_session(path / model.name, threads, expanded=is_expanded(model))
        return cls(artefact, model, session, context or longest, threads)

    def prepare(self, batch: int) -> None:
        self._make_room(batch)
        self._lengths = np.zeros(0, np.int64)

    def prefill(self, tokens: Ids, lengths: Ids) -> Floats:
        check_prompt(tokens, lengths, self.config, self.capabilities.max_context)
        self._make_room(len(tokens))
        self._lengths = lengths.astype(np.int64)
        n_tokens = tokens.shape[1]

        def last_logits(group: slice) -> Floats:
            ends = self._lengths[group]
            rows = np.arange(len(ends)) * n_tokens + ends - 1
            return self._graph.run(tokens[group], ends, self._rows(group), rows)  # (rows, V)

        return in_row_groups(tokens, self._row_width, last_logits)

    def step(self, tokens: Ids) -> Floats:
        """Append tokens; several new ones per sequence run one sequence at a time.

        GroupQueryAttention on the CPU takes several new tokens after a past for one row only.
        """
        check_step(tokens, self._lengths, self.config, self.capabilities.max_context)
        ends = self._lengths + tokens.shape[1]
        if tokens.shape[1] == 1:
            logits = self._step_once(tokens, ends)[0][:, None].copy()  # (B, 1, V)
        else:
            logits = np.stack([self._append(tokens, ends, row) for row in range(len(tokens))])
        self._lengths = ends
        return logits

    def greedy_step(self, tokens: Ids) -> Ids:
        check_single(tokens)
        check_step(tokens, self._lengths, self.config, self.capabilities.max_context)
        ends = self._lengths + 1
        likeliest = self._step_once(tokens, ends)[1].copy()  # (B, 1)
        self._lengths = ends
        return likeliest

    def score(self, tokens: Ids, lengths: Ids) -> Floats:
        check_prompt(tokens, lengths, self.config, self.capabilities.max_context)

        def scores(group: slice) -> Floats:
            B, T = tokens[group].shape
            # Padding stands on the right, where no real token looks; the cache is thrown away.
            cache = self._graph.new_cache(B, T)
            flat = self._graph.run(tokens[group], np.full(B, T), cache, np.arange(B * T))
            return log_probabilities(flat.reshape(B, T, -1), tokens[group], lengths[group])

        return in_row_groups(tokens, self._row_width, scores)

    def rewind(self, length: int) -> None:
        self._lengths = np.minimum(self._lengths, length)

    def reset(self) -> None:
        self._cache = {}
        self._stepper = None
        self._lengths = np.zeros(0, np.int64)

    @property
    def _row_width(self) -> int:
        """Floats that a prompt's token takes: its logits, or its share of every head."""
        config = self.config
        return max(config.vocab_size, config.num_attention_heads * self.capabilities.max_context)

    def _make_room(self, batch: int) -> None:
        """Have a cache of `batch` rows; what an earlier batch of that size left is overwritten."""
        if self._cache and len(next(iter(self._cache.values()))) == batch:
            return
        # The old one goes first: two are never held.
        self._cache, self._stepper = {}, None
        self._cache = self._graph.new_cache(batch, self.capabilities.max_context)
        self._stepper = self._graph.stepper(self._cache)

    def _rows(self, rows: slice) -> Cache:
        return {name: array[rows] for name, array in self._cache.items()}

    def _step_once(self, tokens: Ids, ends: Ids) -> tuple[Floats, Ids]:
        """Append one token to each sequence; return logits (B, V) and likeliest ids (B, 1)."""
        if self._stepper is not None:
            return self._stepper.step(tokens, ends)
        logits = self._graph.run(tokens, ends, self._cache, np.arange(len(tokens)))
        return logits, logits.argmax(axis=-1)[:, None]

    def _append(self, tokens: Ids, ends: Ids, row: int) -> Floats:
        """Append K tokens to one sequence; return the logits (K, V) after each."""
        this = slice(row, row + 1)
        return self._graph.run(
            tokens[this], ends[this], self._rows(this), np.arange(tokens.shape[1])
        )


def is_expanded(model: ModelFile) -> bool:
    """Return whether four-bit weights of a model multiply as bytes."""
    return (model.precision, model.kernel) == ("int4", "dynamic")


def open_session(
    model: Path, threads: int, *, expanded: bool = False, profile: bool = False
) -> onnxruntime.InferenceSession:
    """Return a graph loaded with the settings that decoding is fastest with.

    expanded: write out the bytes that four-bit weights multiply as before onnxruntime sees them.
    profile: keep how long every node takes; `end_profiling` of the session says in which file.
    Raises ArtefactError for a graph that this onnxruntime does not know.
    """
    for name, value in _ATTENTION.items():
        os.environ.setdefault(name, value)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # A plan per input shape would be kept for every length that decoding passes through.
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    options.enable_profiling = profile
    if sums_overflow():
        options.add_session_config_entry(*EXACT_SUMS)
    # onnxruntime maps the file, and lets go of each matrix as it packs it.
    with tempfile.TemporaryDirectory(prefix="edgetiny-") as scratch:
        graph: str | bytes = str(model)
        if expanded:
            # Only such a graph has to be read, which takes the onnx package.
            from edgetiny.runtimes.ort_expand import expand

            graph = expand(model, Path(scratch))
            options.add_session_config_entry(_WEIGHTS_FOLDER, scratch)
        try:
            session = onnxruntime.InferenceSession(
                graph, options, providers=["CPUExecutionProvider"]
            )
        except _LOAD_FAILURES as error:
            raise ArtefactError(
                f"onnxruntime {onnxruntime.__version__} cannot load {model}: {error}"
            ) from error
    collapse()
    return session
