"""A checkpoint over a static cache, its decode step one fixed program: depth costs no launches.

On a GPU the step is a CUDA graph; on a CPU it is compiled. Prompts, scores and steps of several
tokens run uncompiled. Axes: B sequences, T (or K) tokens, V vocabulary.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from edgetiny.checkpoint import ModelConfig
from edgetiny.cost import Precision
from edgetiny.errors import ConfigError, DeviceError
from edgetiny.measure import cores
from edgetiny.runtimes.decoding import Decoding, StaticCache, pieces_of
from edgetiny.runtimes.fused import Continuation, FusedDecoder, Prompt, rotation_table
from edgetiny.runtimes.precision import (
    DTYPES,
    check_device,
    check_tools,
    compute_precision,
    is_cuda,
)
from edgetiny.runtimes.protocol import (
    Capabilities,
    Engine,
    Floats,
    Ids,
    check_prompt,
    check_single,
    check_step,
    in_row_groups,
)

# A step attends to the smallest of these prefixes that holds every sequence.
FIRST_BUCKET = 128


class GraphRuntime:
    """A `FusedDecoder` behind the runtime protocol."""

    def __init__(
        self,
        config: ModelConfig,
        tensors: Mapping[str, Tensor],
        path: Path,
        *,
        precision: Precision = "fp32",
        device: str = "cpu",
        context: int | None = None,
        max_batch: int | None = None,
        threads: int = 0,
        is_compiled: bool = True,
        has_kernel: bool | None = None,
    ) -> None:
        """Place a checkpoint's tensors, each read once, on the device.

        precision: of the weights; int8 has one scale per row (`Int8`).
        context: tokens that a sequence can grow to; all that the model allows if None.
        max_batch: sequences to allocate the cache for, at the first prompt; if None it is
        allocated for the largest batch so far, and steps are recorded again when it grows.
        threads: CPU threads of the whole process; 0 means one per core.
        is_compiled: compile one layer for each batch size and bucket, which takes seconds each.
        has_kernel: attend in the Triton kernel; by default on a GPU, and nowhere else.
        Raises DeviceError for a device that is not there, or a compiler that it needs.
        """
        longest = config.max_position_embeddings
        if context is not None and context > longest:
            raise ConfigError(f"a context of {context} tokens is beyond the model's {longest}")
        check_device(device, precision)
        if is_cuda(device) and torch.device(device).index not in (
            None,
            torch.cuda.current_device(),
        ):
            raise DeviceError(
                f"the graph runtime records on the current CUDA device, not on {device}; choose one"
                " by CUDA_VISIBLE_DEVICES"
            )
        has_kernel = is_cuda(device) if has_kernel is None else has_kernel
        check_tools(device, is_compiled=is_compiled, has_kernel=has_kernel)
        torch.set_num_threads(threads or cores())
        held = compute_precision(precision)
        context = context or longest
        self.path = path
        self.config = config
        self.decoder = FusedDecoder(config, tensors, DTYPES[held], device, precision == "int8")
        self.capabilities = Capabilities(
            max_batch=max_batch, max_context=context, max_step=context, scoring="graph"
        )
        self.engine = Engine(
            name="graph",
            version=torch.__version__,
            device=device,
            threads=torch.get_num_threads(),
            precision=precision,
            kv_dtype=held,
        )
        self._device = torch.device(device)
        cos, sin = rotation_table(config, context, DTYPES[held])
        self._rotation = cos.to(device), sin.to(device)
        self._pieces = pieces_of(self.decoder, is_compiled, is_cuda(device))
        self.is_compiled = is_compiled
        self._has_kernel = has_kernel
        self._cache: StaticCache | None = None
        self._decodings: dict[int, Decoding] = {}
        self._lengths: Ids = np.zeros(0, np.int64)
        # What the device would decode next by itself; None if it has to be told.
        self._next: Ids | None = None

    @torch.no_grad()
    def prepare(self, batch: int) -> None:
        self._make_room(batch)
        self.reset()
        decoding, capacity = self._decodings[batch], self.capabilities.max_context
        ends = {bucket(length, capacity) for length in range(1, capacity + 1)}
        for end in sorted(ends):
            decoding.positions.zero_()
            decoding.step(end)

    @torch.no_grad()
    def prefill(self, tokens: Ids, lengths: Ids) -> Floats:
        check_prompt(tokens, lengths, self.config, self.capabilities.max_context)
        cache = self._make_room(len(tokens))
        hidden = self._prompt(tokens, *cache.first(len(tokens)))  # (B, T, D)
        rows = torch.arange(len(tokens), device=self._device)
        last = hidden[rows, self._on_device(lengths - 1)]  # (B, D)
        self._lengths, self._next = lengths.astype(np.int64), None
        return _as_numpy(self.decoder.head(last))

    @torch.no_grad()
    def step(self, tokens: Ids) -> Floats:
        check_step(tokens, self._lengths, self.config, self.capabilities.max_context)
        if tokens.shape[1] == 1:
            return _as_numpy(self._step(tokens))[:, None]
        assert self._cache is not None
        starts = self._on_device(self._lengths)
        offsets = torch.arange(tokens.shape[1], device=self._device)
        end = int(self._lengths.max()) + tokens.shape[1]
        place = Continuation(starts[:, None] + offsets, end, *self._rotation)
        keys, values = self._cache.first(len(tokens))
        logits = self.decoder.head(
            self.decoder(self._on_device(tokens), keys, values, place)
        )  # (B, K, V)
        self._lengths, self._next = self._lengths + tokens.shape[1], None
        return _as_numpy(logits)

    @torch.no_grad()
    def greedy_step(self, tokens: Ids) -> Ids:
        check_step(tokens, self._lengths, self.config, self.capabilities.max_context)
        check_single(tokens)
        self._step(tokens)
        # A copy: on a CPU the array would change under its owner with the next step.
        self._next = self._decodings[len(tokens)].ids.cpu().numpy().copy()
        return self._next.copy()  # what was handed out is the caller's

    def score(self, tokens: Ids, lengths: Ids) -> Floats:
        check_prompt(tokens, lengths, self.config, self.capabilities.max_context)
        scores = in_row_groups(
            tokens, self.config.vocab_size, lambda group: self._score(tokens[group])
        )
        is_real = np.arange(1, tokens.shape[1]) < lengths[:, None]
        return np.where(is_real, scores, np.float32(0))

    def rewind(self, length: int) -> None:
        self._lengths, self._next = np.minimum(self._lengths, length), None

    def reset(self) -> None:
        self._lengths, self._next = np.zeros(0, np.int64), None

    def _step(self, tokens: Ids) -> Tensor:
        """Append one token (B, 1) to every sequence; return the logits (B, V) after it."""
        decoding = self._decodings[len(tokens)]
        if self._next is None or not np.array_equal(tokens, self._next):
            decoding.ids.copy_(self._on_device(tokens))
            decoding.positions.copy_(self._on_device(self._lengths[:, None]))
        self._lengths, self._next = self._lengths + 1, None
        return decoding.step(bucket(int(self._lengths.max()), self.capabilities.max_context))

    def _make_room(self, batch: int) -> StaticCache:
        """Return a cache of at least `batch` rows, with a decoding of just that many."""
        most = self.capabilities.max_batch
        if most is not None and batch > most:
            raise ConfigError(f"the runtime was opened for {most} sequences together, not {batch}")
        if self._cache is None or batch > self._cache.rows:
            self._cache, self._decodings = None, {}
            self._cache = StaticCache(
                self.decoder, most or batch, self.capabilities.max_context, self._rotation
            )
        if batch not in self._decodings:
            self._decodings[batch] = Decoding(
                self.decoder, self._pieces, self._cache, batch, self._has_kernel
            )
        return self._cache

    def _prompt(self, tokens: Ids, keys: list[Tensor], values: list[Tensor]) -> Tensor:
        cos, sin = (each[: tokens.shape[1]] for each in self._rotation)
        hidden: Tensor = self.decoder(self._on_device(tokens), keys, values, Prompt(cos, sin))
        return hidden

    @torch.no_grad()
    def _score(self, tokens: Ids) -> Floats:
        """Score without the cache of the sequences in progress: one layer's worth of room."""
        shape = (
            len(tokens),
            self.config.num_key_value_heads,
            tokens.shape[1],
            self.config.head_dim,
        )
        room = [torch.empty(shape, dtype=self._rotation[0].dtype, device=self._device)]
        room *= self.config.num_hidden_layers
        logits = self.decoder.head(self._prompt(tokens, room, room))[:, :-1].float()
        following = self._on_device(tokens[:, 1:]).flatten()
        losses = F.cross_entropy(logits.flatten(0, 1), following, reduction="none")
        return _as_numpy(-losses.view(len(tokens), tokens.shape[1] - 1))

    def _on_device(self, ids: Ids) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(ids)).to(self._device)


def bucket(length: int, capacity: int) -> int:
    """Return the prefix that a step attends to: FIRST_BUCKET doubled until it holds `length`.

    The whole capacity where that is less than twice as long: each prefix is compiled by itself.
    """
    end = FIRST_BUCKET
    while end < length:
        end *= 2
    return end if 2 * end <= capacity else capacity


def _as_numpy(x: Tensor) -> Floats:
    array: Floats = x.float().cpu().numpy()
    return array
