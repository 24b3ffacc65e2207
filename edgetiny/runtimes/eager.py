"""The checkpoint itself as a runtime: the model as written, in torch. Every other is held to it."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from edgetiny.checkpoint import Checkpoint
from edgetiny.errors import ConfigError
from edgetiny.measure import cores
from edgetiny.model import KVCache, Transformer, load_model
from edgetiny.runtimes.precision import precision_of
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

_WITHOUT_CUDNN = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


class EagerRuntime:
    """A `Transformer` behind the runtime protocol; the cache grows with the batch that is given."""

    def __init__(
        self, model: Transformer, path: Path, *, context: int | None = None, threads: int = 0
    ) -> None:
        """Wrap a model that is in memory already, in its own type and on its own device.

        context: tokens that a sequence can grow to; all that the model allows if None.
        threads: CPU threads of the whole process; 0 means one per core.
        """
        longest = model.config.max_position_embeddings
        if context is not None and context > longest:
            raise ConfigError(f"a context of {context} tokens is beyond the model's {longest}")
        torch.set_num_threads(threads or cores())
        self.model = model
        self.path = path
        self.config = model.config
        context = context or longest
        self.capabilities = Capabilities(
            max_batch=None, max_context=context, max_step=context, scoring="graph"
        )
        weight = model.model.embed_tokens.weight
        self._dtype, self._device = weight.dtype, weight.device
        dtype = precision_of(self._dtype)
        self.engine = Engine(
            name="eager",
            version=torch.__version__,
            device=str(self._device),
            threads=torch.get_num_threads(),
            precision=dtype,
            kv_dtype=dtype,
        )
        self._cache: KVCache | None = None
        self._is_started = False

    @classmethod
    def load(
        cls,
        checkpoint: Checkpoint,
        *,
        context: int | None = None,
        dtype: torch.dtype | None = torch.float32,
        threads: int = 0,
        device: torch.device | str = "cpu",
    ) -> "EagerRuntime":
        """Load a checkpoint's weights in `dtype` (as stored if None)."""
        model = load_model(checkpoint, dtype, device)
        return cls(model, checkpoint.path, context=context, threads=threads)

    @torch.inference_mode()
    def prepare(self, batch: int) -> None:
        self._new_cache(batch)
        self._is_started = False

    @torch.inference_mode()
    def prefill(self, tokens: Ids, lengths: Ids) -> Floats:
        check_prompt(tokens, lengths, self.config, self.capabilities.max_context)
        cache = self._new_cache(len(tokens))
        self._is_started = True
        ids, counts = self._on_device(tokens), torch.from_numpy(lengths)
        with self._attention():
            x = self.model.hidden(ids, cache.append(ids, counts))  # (B, T, D)
        rows = torch.arange(len(x), device=self._device)
        last = x[rows, self._on_device(lengths - 1)]  # (B, D)
        return _as_numpy(self.model.lm_head(last))

    @torch.inference_mode()
    def step(self, tokens: Ids) -> Floats:
        return _as_numpy(self._step(tokens))

    @torch.inference_mode()
    def greedy_step(self, tokens: Ids) -> Ids:
        check_single(tokens)
        likeliest: Ids = self._step(tokens).argmax(dim=-1).cpu().numpy()  # (B, 1)
        return likeliest

    def score(self, tokens: Ids, lengths: Ids) -> Floats:
        check_prompt(tokens, lengths, self.config, self.capabilities.max_context)
        scores = in_row_groups(
            tokens, self.config.vocab_size, lambda group: self._score(tokens[group])
        )
        is_real = np.arange(1, tokens.shape[1]) < lengths[:, None]
        return np.where(is_real, scores, np.float32(0))

    @torch.inference_mode()
    def _score(self, tokens: Ids) -> Floats:
        ids = self._on_device(tokens)
        with self._attention():
            logits = self.model(ids)[:, :-1].float()  # (B, T - 1, V)
        losses = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        return _as_numpy(-losses.view(len(ids), ids.shape[1] - 1))

    def rewind(self, length: int) -> None:
        if self._cache is not None:
            self._cache.rewind(length)

    def reset(self) -> None:
        self._cache = None

    def _step(self, tokens: Ids) -> Tensor:
        """Append tokens (B, K); return the logits (B, K, V) where they were computed."""
        cache = self._cache if self._is_started else None
        held = np.zeros(0, np.int64) if cache is None else cache.lengths.numpy()
        check_step(tokens, held, self.config, self.capabilities.max_context)
        assert cache is not None
        ids = self._on_device(tokens)
        with self._attention():
            logits: Tensor = self.model(ids, cache.append(ids))
        return logits

    def _attention(self) -> AbstractContextManager[None]:
        """Leave cuDNN's attention out on CUDA: it plans anew for each length, tens of ms a step."""
        if self._device.type != "cuda":
            return nullcontext()
        return sdpa_kernel(_WITHOUT_CUDNN)

    def _new_cache(self, batch: int) -> KVCache:
        """Return an empty cache for `batch` sequences; the memory of the last is used again."""
        if self._cache is None or len(self._cache.lengths) != batch:
            self._cache = None
            self._cache = KVCache(
                self.config, batch, self.capabilities.max_context, self._dtype, self._device
            )
        self._cache.rewind(0)
        return self._cache

    def _on_device(self, tokens: Ids) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(tokens)).to(self._device)


def _as_numpy(x: Tensor) -> Floats:
    array: Floats = x.float().cpu().numpy()
    return array
