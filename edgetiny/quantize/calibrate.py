"""Text through the model, one layer at a time: what GPTQ and an int8 KV cache have to know.

Axes: N windows, T tokens of each, D hidden size, K inputs of a matrix, G key/value heads.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from edgetiny.checkpoint import ModelConfig
from edgetiny.config.export import Method
from edgetiny.errors import CheckpointError, DataError
from edgetiny.model import Fresh, Layer, RMSNorm, Stream, stream_layers
from edgetiny.quantize.blocks import BlockWeight
from edgetiny.quantize.gptq import quantize_gptq
from edgetiny.quantize.kv import KVScales, fit_scales
from edgetiny.quantize.scheme import Scheme
from edgetiny.quantize.simulate import as_fp32
from edgetiny.quantize.weights import HEAD, TABLE, Stored, Weights, check_finite

_NORM = "model.norm.weight"


def calibrate(
    config: ModelConfig,
    tensors: Mapping[str, Tensor],
    scheme: Scheme,
    tokens: Tensor,
    scratch: Path,
    advance: Callable[[], None] = lambda: None,
) -> Weights:
    """Return the weights under `scheme`, with what `tokens` say of them: (N, T), int64.

    GPTQ's matrices are written to `scratch`, a folder that must live as long as what is returned.
    One layer's weights are in memory at a time, and the hidden states of all tokens.
    advance: called after each layer.
    Raises DataError for tokens that are too few or beyond the vocabulary, CheckpointError for
    weights that are not finite.
    """
    _check_tokens(config, tokens)
    passage = _Passage(config, tensors, scheme, tokens, scratch)
    for index, layer in stream_layers(config, tensors, torch.float32):
        passage.through(index, layer)
        advance()
    if scheme.method == "gptq":
        passage.finish()
    scales = None
    if scheme.kv == "int8":
        scales = KVScales(torch.stack(passage.key_scales), torch.stack(passage.value_scales))
    return Weights(config, tensors, scheme, linears=passage.linears, kv_scales=scales)


class _Passage:
    """Hidden states on their way through the layers, and what was learned on the way."""

    def __init__(
        self,
        config: ModelConfig,
        tensors: Mapping[str, Tensor],
        scheme: Scheme,
        tokens: Tensor,
        scratch: Path,
    ) -> None:
        self._config, self._tensors, self._scheme = config, tensors, scheme
        self._scratch = scratch
        self._tokens = tokens
        self._stream = Stream(config, tensors, tokens)
        # What is not rounded here: without text, so without what only text gives.
        self._plain = Weights(config, tensors, _without_text(scheme))
        self.linears: dict[str, Callable[[], Stored]] = {}
        self.key_scales: list[Tensor] = []  # a layer each, (G, head_dim)
        self.value_scales: list[Tensor] = []

    @torch.inference_mode()
    def through(self, index: int, layer: Layer) -> None:
        """Round one layer's matrices, note its keys and values, and move on to what it gives."""
        self._round_layer(index, layer)
        keys: list[Tensor] = []
        values: list[Tensor] = []
        self._stream.advance(layer, _Watched(self._tokens, keys, values))
        if self._scheme.kv == "int8":
            self.key_scales.append(_key_scales(torch.cat(keys)))
            self.value_scales.append(fit_scales(torch.cat(values), (0, 2))[0, :, 0])
            if not torch.cat((self.key_scales[-1], self.value_scales[-1])).isfinite().all():
                raise CheckpointError(
                    f"keys or values of layer {index} are not finite on the calibration text;"
                    " edgetiny inspect says which weights are not"
                )

    @torch.inference_mode()
    def finish(self) -> None:
        """Round the head by what reaches it; a tied table with it."""
        norm = RMSNorm(self._config.hidden_size, self._config.rms_norm_eps)
        norm.weight.copy_(self._tensors[_NORM])
        hessian = torch.zeros(())
        for batch in self._stream.states:
            x = norm(batch).flatten(0, 1)  # (B * T, D)
            hessian = hessian + x.t() @ x
        name = TABLE if self._config.tie_word_embeddings else HEAD
        self._round(name, self._tensors[name].float(), hessian)

    def _round_layer(self, index: int, layer: Layer) -> None:
        linears = {
            name: module for name, module in layer.named_modules() if isinstance(module, nn.Linear)
        }
        hessians = self._hessians(layer, linears) if self._scheme.method == "gptq" else {}
        for name, module in linears.items():
            full = f"model.layers.{index}.{name}.weight"
            rounded: Stored
            if name in hessians:
                rounded = self._round(full, module.weight, hessians[name])
            else:
                rounded = self._plain.linear(full)
            # Set, not copied: fp32 weights are the checkpoint's own memory map.
            module.weight = nn.Parameter(as_fp32(rounded), requires_grad=False)

    def _hessians(self, layer: Layer, linears: Mapping[str, nn.Linear]) -> dict[str, Tensor]:
        """Return the summed x x^T, (K, K), of each matrix's inputs; matrices of one input share."""
        sums: dict[str, Tensor] = {}

        def record(name: str, _: nn.Module, inputs: tuple[Tensor]) -> None:
            x = inputs[0].flatten(0, 1)
            sums[name] = sums.get(name, torch.zeros(())) + x.t() @ x

        watched = ("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj")
        handles = [
            linears[name].register_forward_pre_hook(functools.partial(record, name))
            for name in watched
        ]
        for x in self._stream.states:
            self._stream.run(layer, x)
        for handle in handles:
            handle.remove()
        for name in ("self_attn.k_proj", "self_attn.v_proj"):
            sums[name] = sums["self_attn.q_proj"]
        sums["mlp.up_proj"] = sums["mlp.gate_proj"]
        return sums

    def _round(self, name: str, weight: Tensor, hessian: Tensor) -> BlockWeight:
        """Round one matrix by GPTQ and put it aside, on disk."""
        if not (torch.isfinite(weight).all() and torch.isfinite(hessian).all()):
            check_finite(name, weight, self._scheme)
            raise CheckpointError(
                f"the inputs of {name} are not finite on the calibration text;"
                " edgetiny inspect says which weights are not"
            )
        rounded = quantize_gptq(weight, hessian, self._scheme.block_size)
        check_finite(name, rounded, self._scheme)
        path = self._scratch / f"{name}.safetensors"
        save_file({"data": rounded.data, "scales": rounded.scales}, path)
        self.linears[name] = functools.partial(_read, path, rounded.columns)
        return rounded


def _key_scales(keys: Tensor) -> Tensor:
    """Return a scale for each channel of rotated keys (N, G, T, head_dim): (G, head_dim).

    The two channels that are rotated into each other share theirs: at a position beyond the
    calibration text's, either can hold what the other held.
    """
    N, G, T, head_dim = keys.shape
    pairs = keys.view(N, G, T, 2, head_dim // 2)
    return fit_scales(pairs, (0, 2, 3))[0, :, 0].expand(-1, 2, -1).flatten(1)


class _Watched(Fresh):
    """A forward pass whose rotated keys and values are kept."""

    def __init__(self, tokens: Tensor, keys: list[Tensor], values: list[Tensor]) -> None:
        super().__init__(tokens)
        self._keys, self._values = keys, values

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self._keys.append(k)
        self._values.append(v)
        return super().attend(layer, q, k, v)


def _without_text(scheme: Scheme) -> Scheme:
    method: Method = "rtn" if scheme.method == "gptq" else scheme.method
    return replace(scheme, method=method, kv="fp32")


def _read(path: Path, columns: int) -> BlockWeight:
    stored = load_file(path)
    return BlockWeight(stored["data"], stored["scales"], columns, 4)


def _check_tokens(config: ModelConfig, tokens: Tensor) -> None:
    longest = config.max_position_embeddings
    if tokens.ndim != 2 or tokens.shape[0] < 1 or not 2 <= tokens.shape[1] <= longest:
        raise DataError(
            f"calibration text comes to {tuple(tokens.shape)} windows and tokens; give at least"
            f" one window of 2 to {longest} tokens"
        )
    if int(tokens.max()) >= config.vocab_size or int(tokens.min()) < 0:
        raise DataError(
            f"calibration text has id {int(tokens.max())}, and the model's vocabulary is"
            f" {config.vocab_size}; use text cut by the model's own tokenizer"
        )
