"""An ExecuTorch artefact in ExecuTorch's own runtime; the program holds keys and values itself.

A program takes as many sequences as it was exported for, all of them at one position.
Axes: B sequences, T (or K) tokens, V vocabulary, N sequences that the program was made for.
"""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

# Each registers the operations of programs when imported, in this order.
from executorch.extension.pybindings import portable_lib  # isort: skip
from executorch.extension.llm.custom_ops import custom_ops  # noqa: F401  isort: skip
import executorch.kernels.quantized  # noqa: F401  isort: skip
import torch

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
    log_probabilities,
)


class ExecutorchRuntime:
    """One program for prompts and decoding; a row of its cache belongs to one sequence.

    Sequences of unequal length are taken one length at a time: the rows that are longer do again
    what they did at that position, which writes what stands there already, and what is written
    beyond the end of a shorter row is overwritten before anything looks at it.
    """

    def __init__(
        self, artefact: Artefact, model: ModelFile, module: Any, context: int, threads: int
    ) -> None:
        """module: the program, loaded by ExecuTorch's Python bindings."""
        self.path = artefact.path
        self.config = artefact.config
        self._size = model.batch  # N
        # A program for a batch, or of no room for three tokens, is traced with one at a time.
        self._is_static = model.batch > 1 or model.context < 3
        self.capabilities = Capabilities(
            max_batch=self._size, max_context=context, max_step=context, scoring="stepping"
        )
        self.engine = Engine(
            name="executorch",
            version=version("executorch"),
            device="cpu",
            threads=threads,
            precision=model.precision,
            kv_dtype=model.kv_dtype,
        )
        self._module = module
        self._lengths: Ids = np.zeros(0, np.int64)
        self._held = np.zeros((self._size, context), np.int64)  # ids of every sequence

    @classmethod
    def load(
        cls, path: Path, *, context: int | None = None, threads: int = 0, batch: int = 1
    ) -> "ExecutorchRuntime":
        """Load an artefact folder's program for `batch` sequences.

        context: tokens that a sequence can grow to, if fewer than the artefact was exported for.
        threads: CPU threads; 0 means one per core.
        Raises ArtefactError for a damaged folder, or a program this executorch cannot run.
        """
        artefact = Artefact.open(path)
        model = artefact.model("executorch", batch)
        if context is not None and context > model.context:
            raise ConfigError(
                f"{path} was exported for a context of {model.context} tokens, not {context};"
                " export it again with a larger --context"
            )
        threads = threads or cores()
        portable_lib._unsafe_reset_threadpool(threads)
        file = path / model.name
        try:
            module = portable_lib._load_for_executorch(str(file))
            # Loading alone hardly looks at the file.
            module.method_meta("forward")
        except RuntimeError as error:
            raise ArtefactError(
                f"executorch {version('executorch')} cannot load {file}: {error}"
            ) from error
        return cls(artefact, model, module, context or model.context, threads)

    def prepare(self, batch: int) -> None:
        self._check_batch(batch)
        self._lengths = np.zeros(0, np.int64)
        # The first run sets up what XNNPACK needs; what it leaves in the cache is overwritten.
        self._run(np.zeros((batch, 1), np.int64), 0)

    def prefill(self, tokens: Ids, lengths: Ids) -> Floats:
        check_prompt(tokens, lengths, self.config, self.capabilities.max_context)
        self._check_batch(len(tokens))
        self._lengths = lengths.astype(np.int64)
        self._held[: len(tokens), : tokens.shape[1]] = tokens
        if not self._is_static:
            return self._run(tokens[:, : lengths[0]], 0)
        logits = np.empty((len(tokens), self.config.vocab_size), np.float32)
        for place in range(int(lengths.max())):
            now = self._run(tokens[:, place : place + 1], place)
            is_last = lengths == place + 1
            logits[is_last] = now[is_last]
        return logits

    def step(self, tokens: Ids) -> Floats:
        """Append tokens, one of each sequence at a time."""
        check_step(tokens, self._lengths, self.config, self.capabilities.max_context)
        rows = [self._step(tokens[:, place]) for place in range(tokens.shape[1])]
        return np.stack(rows, axis=1)

    def greedy_step(self, tokens: Ids) -> Ids:
        check_single(tokens)
        likeliest: Ids = self.step(tokens)[:, 0].argmax(axis=-1)[:, None]  # (B, 1)
        return likeliest

    def score(self, tokens: Ids, lengths: Ids) -> Floats:
        check_prompt(tokens, lengths, self.config, self.capabilities.max_context)
        self._lengths = np.zeros(0, np.int64)
        starts = range(0, len(tokens), self._size)
        groups = [slice(start, start + self._size) for start in starts]
        return np.concatenate([self._score(tokens[rows], lengths[rows]) for rows in groups])

    def rewind(self, length: int) -> None:
        self._lengths = np.minimum(self._lengths, length)

    def reset(self) -> None:
        self._lengths = np.zeros(0, np.int64)

    def _step(self, tokens: Ids) -> Floats:
        """Append one token (B,) to every sequence; return the logits (B, V)."""
        lengths = self._lengths
        rows = np.arange(len(lengths))
        self._held[rows, lengths] = tokens
        self._lengths = lengths + 1
        first, *others = np.unique(lengths)
        logits = self._run(self._held[rows, first][:, None], int(first))
        for place in others:
            now = self._run(self._held[rows, place][:, None], int(place))
            logits[lengths == place] = now[lengths == place]
        return logits

    def _score(self, tokens: Ids, lengths: Ids) -> Floats:
        """Score up to N rows, a position at a time: their logits together may be large."""
        scores = np.zeros((len(tokens), tokens.shape[1] - 1), np.float32)
        for place in range(int(lengths.max()) - 1):
            logits = self._run(tokens[:, place : place + 1], place)
            pair = tokens[:, place : place + 2]
            two = np.stack((logits, logits), axis=1)  # (B, 2, V)
            scores[:, place] = log_probabilities(two, pair, np.minimum(lengths - place, 2))[:, 0]
        return scores

    def _run(self, tokens: Ids, place: int) -> Floats:
        """Run tokens (B, S) from a position on; return the logits (B, V) of the last."""
        n_rows = len(tokens)
        if n_rows < self._size:
            # Rows without a sequence repeat the first; nobody reads them.
            tokens = np.concatenate((tokens, tokens[:1].repeat(self._size - n_rows, axis=0)))
        ids = torch.from_numpy(np.ascontiguousarray(tokens))
        try:
            (logits,) = self._module.forward((ids, torch.tensor([place])))
        except RuntimeError as error:
            raise ArtefactError(
                f"executorch {version('executorch')} cannot run {self.path}: {error}"
            ) from error
        rows: Floats = logits.numpy()[:n_rows]
        return rows

    def _check_batch(self, batch: int) -> None:
        if batch > self._size:
            raise ConfigError(
                f"{self.path} was exported for {self._size} sequences at once, not {batch};"
                f" export it again with --batch {batch}"
            )
